"""What the networks share that the semi-supervised step trains: CLIP's two towers, their inputs and outputs."""

import abc
from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import TextFeatures
from hiervl.utils.errors import UserError
from hiervl.utils.transfer import to_device

from .text_encoder import PromptedTextEncoder


class ClipSegmenter(nn.Module, abc.ABC):
    """Called as Detectron2 calls its models: in training with labelled inputs it returns a dict of losses, else a list
    of ``{"sem_seg": (C, height, width)}``. The semi-supervised step uses the stages directly.

    A network of this kind adds ``segment``, ``supervised_losses``, ``prompt_losses``, ``semantic_scores`` and
    ``semantic_maps``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        text_encoder: PromptedTextEncoder,
        class_names: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        logit_scale: float,
        background: Sequence[int],
    ):
        """
        Args:
            backbone, text_encoder: CLIP's two towers.
            class_names: names of the C classes, in order.
            pixel_mean, pixel_std: RGB statistics in 0…255.
            logit_scale: the factor that CLIP was trained to put on its similarities.
            background: classes that no caption names.
        """
        super().__init__()
        self.backbone = backbone
        self.text_encoder = text_encoder
        self.class_names = list(class_names)
        self.logit_scale = logit_scale
        self.background = tuple(background)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]):
        """Losses of labelled inputs in training, ``[{"sem_seg": (C, height, width)}]`` otherwise."""
        if self.training:
            text = self.encode_text()
            return {**self.supervised_losses(batched_inputs, text), **self.prompt_losses(text)}
        return [self._segment_one(item) for item in batched_inputs]

    def encode_text(self) -> TextFeatures:
        """Embeddings of the classes; one call serves all passes of an iteration."""
        return self.text_encoder()

    def normalise(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 or float images (3, H, W) in 0…255 → one normalised batch, padded at the right and the bottom."""
        images = [(to_device(image, self.device) - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility).tensor

    @abc.abstractmethod
    def supervised_losses(self, batched_inputs: list[dict], text: TextFeatures) -> dict[str, Tensor]:
        """Losses of labelled inputs: dicts with "image", "sem_seg" (H, W) and perhaps "instance_ids" (H, W)."""

    @abc.abstractmethod
    def prompt_losses(self, text: TextFeatures) -> dict[str, Tensor]:
        """Losses that tie what is learnt of the text to CLIP."""

    @abc.abstractmethod
    def semantic_maps(self, images: Tensor, frozen_embedding: Tensor | None = None) -> Tensor:
        """images (B, 3, H, W) in 0…255, all of one size → S at that size (B, C, H, W), not normalised."""

    def _segment_one(self, item: dict) -> dict[str, Tensor]:
        """One image at a time: images of other sizes in the batch must not change its padding."""
        scores = self.semantic_maps(item["image"].unsqueeze(0))
        size = (item.get("height", scores.shape[2]), item.get("width", scores.shape[3]))
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]
        return {"sem_seg": scores / scores.sum(0, keepdim=True).clamp(min=1e-6)}


def resized_and_cropped(scores: Tensor, padded_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """Scores (B, C, h, w) of a padded batch at the images' own size, (B, C, *size)."""
    scores = F.interpolate(scores, size=tuple(padded_size), mode="bilinear", align_corners=False)
    return scores[:, :, : size[0], : size[1]]


def classes_of(cfg):
    """Names and phrases of the classes: MODEL.CLASS_NAMES, else the metadata of the first training dataset; with
    MODEL.TEXT.PHRASES off the names are the phrases."""
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
    phrases = None
    if names == registered and cfg.MODEL.TEXT.PHRASES:
        phrases = getattr(metadata, "class_phrases", None)
    return names, phrases or [[name] for name in names]
