"""The common base of the trained networks: CLIP's two encoders, inputs and outputs."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import TextFeatures
from hiervl.utils.errors import UserError
from hiervl.utils.transfer import to_device

from .frozen_clip import ClipEmbeddings, FrozenClip
from .image_encoder import ImageEncoder
from .image_statistics import ImageStatistics
from .mask_prior import TextMaskPrior
from .semantic_queries import HierarchicalSemanticQueryGenerator
from .text_encoder import PromptedTextEncoder


class ClipParts(NamedTuple):
    """The parts of CLIP that a network is built on."""

    backbone: ImageEncoder
    text_encoder: PromptedTextEncoder
    logit_scale: float = 100.0  # CLIP's own factor on its similarities
    frozen: FrozenClip | None = None  # all language comes from it, where the trained encoder knows none


class ClassList(NamedTuple):
    """The C classes of a network, in the order of their labels."""

    names: Sequence[str]
    background: Sequence[int] = ()  # classes that no caption names


class ClipSegmenter(nn.Module, abc.ABC):
    """The base class of networks. Detectron2 calls it as its own models: in training it takes labelled inputs and
    returns a dict of losses, else it returns a list of ``{"sem_seg": (C, height, width)}``. The semi-supervised step
    calls the stages directly.

    A subclass adds ``segment``, ``semantic_scores``, ``supervised_losses``, ``loss_scale``, ``pixel_loss_weight``,
    ``prompt_losses`` and ``set_classes``. It may have a :attr:`gate`, a ``frozen_clip``, a ``mask_prior``,
    ``pseudo_losses`` and instance queries. By default it has none of them.

    Attributes:
        class_rows: names of the parameters whose first rows are the classes, in order; more rows may follow.
    """

    pixel_mean: Tensor  # (3, 1, 1)
    pixel_std: Tensor
    class_rows: tuple[str, ...] = ()

    def __init__(self, clip: ClipParts, classes: ClassList, statistics: ImageStatistics):
        """statistics: pixel mean and deviation that CLIP was trained with, RGB in 0…255."""
        super().__init__()
        self.backbone = clip.backbone
        self.text_encoder = clip.text_encoder
        self.logit_scale = clip.logit_scale
        self.frozen_clip = clip.frozen
        self.class_names = list(classes.names)
        self.background = tuple(classes.background)
        self.mask_prior: TextMaskPrior | None = None  # start of the queries' masks
        self.register_buffer("pixel_mean", torch.tensor(statistics.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(statistics.std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def gate(self) -> HierarchicalSemanticQueryGenerator | None:
        """The module that decides how relevant a class is to an image; None without one."""
        return None

    @property
    def has_instance_queries(self) -> bool:
        """Whether the network has instance queries."""
        return False

    def forward(self, batched_inputs: list[dict]):
        """Losses of labelled inputs in training, ``[{"sem_seg": (C, height, width)}]`` otherwise."""
        if self.training:
            text = self.encode_text()
            return {**self.supervised_losses(batched_inputs, text), **self.prompt_losses(text)}
        return [self._segment_one(item) for item in batched_inputs]

    def encode_text(self) -> TextFeatures:
        """Embeddings of the classes. One call is enough for all passes of an iteration."""
        return self.text_encoder()

    def normalize(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 or float images (3, H, W) in 0…255 → one normalised batch, padded at the right and the bottom."""
        images = [(to_device(image, self.device) - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility).tensor

    # ---- what a network adds ------------------------------------------------------------------------------------

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of images (…, *size) after :meth:`normalize`."""
        unit = self.backbone.size_divisibility
        height, width = ((side + unit - 1) // unit * unit for side in size)
        return height, width

    def joint_losses(self, output) -> dict[str, Tensor]:
        """Losses that teach language to an encoder without it, from one pass. Empty by default."""
        return {}

    @abc.abstractmethod
    def segment(
        self,
        images: Tensor,
        text: TextFeatures,
        *,
        frozen_embedding: ClipEmbeddings | None = None,
        perturb: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> Any:
        """One pass through the network. The result goes to :meth:`semantic_scores`.

        Args:
            images: (B, 3, H, W) of :meth:`normalize`.
            text: of :meth:`encode_text`.
            frozen_embedding: the output of ``frozen_clip`` for these images, if it was already computed.
            perturb: a function that changes the backbone's maps.
        """

    @abc.abstractmethod
    def semantic_scores(self, output: Any, text: TextFeatures) -> Tensor:
        """S of an output of :meth:`segment`: (B, C, H', W'), float32, not negative, not normalised over the classes."""

    @abc.abstractmethod
    def supervised_losses(
        self, batched_inputs: list[dict], text: TextFeatures, frozen_embedding: ClipEmbeddings | None = None
    ) -> dict[str, Tensor]:
        """Losses of labelled inputs: dicts with "image", "sem_seg" (H, W) and perhaps "instance_ids" (H, W)."""

    @property
    @abc.abstractmethod
    def loss_scale(self) -> float:
        """The weight at which a pixel cross-entropy has about as large a gradient as the losses of labelled images."""

    @property
    @abc.abstractmethod
    def pixel_loss_weight(self) -> float:
        """The weight of ``loss_pixel``."""

    @property
    def has_set_losses(self) -> bool:
        """Whether there are :meth:`pseudo_losses`, and ``every_layer`` of :meth:`segment`."""
        return False

    def pseudo_losses(self, output: Any, labels: Tensor, keep: Tensor, image_weight: Tensor) -> dict[str, Tensor]:
        """The query losses, as for labelled images, for images that a teacher has labelled.

        Args:
            output: of :meth:`segment` with ``every_layer``.
            labels: (B, H, W) at the padded size; keep: (B, H, W) bool.
            image_weight: (B,).
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses of queries")

    @abc.abstractmethod
    def prompt_losses(self, text: TextFeatures) -> dict[str, Tensor]:
        """Losses that keep the learnt text prompts near CLIP."""

    @abc.abstractmethod
    def set_classes(
        self, names: Sequence[str], phrases: Sequence[Sequence[str]], always_active: Sequence[int] = ()
    ) -> None:
        """Predict other classes from now on.

        Args:
            names: of the classes; phrases: one or more per class, for CLIP's text encoder.
            always_active: indices of classes that are active in every image (background).

        Raises:
            UserError: the network knows only the classes that it was trained on.
        """

    # ---- with what a network adds -------------------------------------------------------------------------------

    @torch.no_grad()
    def semantic_maps(self, images: Tensor, frozen_embedding: ClipEmbeddings | None = None) -> Tensor:
        """images (B, 3, H, W) in 0…255, all of one size → S at that size (B, C, H, W), not normalised.

        Args:
            frozen_embedding: the output of ``frozen_clip`` for these images, if it was already computed.
        """
        return self._infer(images, self.encode_text(), frozen_embedding)[0]

    def _infer(self, images: Tensor, text: TextFeatures, frozen_embedding: ClipEmbeddings | None = None):
        """→ S at the images' size (B, C, H, W), the output of :meth:`segment`, height and width of the padded batch."""
        batch = self.normalize(list(images))
        output = self.segment(batch, text, frozen_embedding=frozen_embedding)
        scores = resized_and_cropped(self.semantic_scores(output, text), batch.shape[2:], images.shape[2:])
        return scores, output, (batch.shape[2], batch.shape[3])

    @torch.no_grad()
    def pooled_embedding(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) → (B, D), length 1: of the frozen CLIP where there is one."""
        if self.frozen_clip is None:
            return self.backbone(images)["pooled_embedding"]
        pooled = self.frozen_clip.embed(images, pooled=True).pooled
        assert pooled is not None  # pooled=True asked for it
        return pooled

    @torch.no_grad()
    def relevance_similarity(self, images: Tensor, text: TextFeatures) -> Tensor:
        """The input of the :attr:`gate`: cosine of normalised images to every class, (B, C), float32."""
        return text.class_similarity(self.pooled_embedding(images).float())

    def _segment_one(self, item: dict) -> dict[str, Tensor]:
        """Segment one image at a time, so that other sizes in the batch do not change its padding."""
        scores = self.semantic_maps(item["image"].unsqueeze(0))
        size = (item.get("height", scores.shape[2]), item.get("width", scores.shape[3]))
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]
        return {"sem_seg": scores / scores.sum(0, keepdim=True).clamp(min=1e-6)}


def resized_and_cropped(scores: Tensor, padded_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """Scores (B, C, h, w) of a padded batch at the images' own size, (B, C, *size)."""
    scores = F.interpolate(scores, size=tuple(padded_size), mode="bilinear", align_corners=False)
    return scores[:, :, : size[0], : size[1]]


def classes_of(cfg):
    """Names and phrases of the classes: MODEL.CLASS_NAMES, else the metadata of the first training dataset. If
    MODEL.TEXT.PHRASES is off, the names are the phrases."""
    dataset = next(iter(cfg.DATASETS.TRAIN), None)
    metadata = MetadataCatalog.get(dataset) if dataset else None
    registered = list(getattr(metadata, "stuff_classes", ()))
    names = list(cfg.MODEL.CLASS_NAMES) or registered
    if not names and dataset is None:
        raise UserError(
            "no class names: the config names no data; fill in the section DATASET, as configs/custom.yaml does."
        )
    if not names:
        raise UserError(
            f"no class names: dataset '{dataset}' (DATASETS.TRAIN) has none registered and MODEL.CLASS_NAMES is empty."
        )
    definitions = getattr(metadata, "class_definitions", ())
    if cfg.MODEL.TEXT.PHRASES and [definition.name for definition in definitions] == names:
        return names, [list(definition.phrases) for definition in definitions]
    return names, [[name] for name in names]
