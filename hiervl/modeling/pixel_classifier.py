"""A plain per-pixel decoder on the same backbone: the network of baselines without language, such as UniMatch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.losses.pixel_losses import pixel_cross_entropy
from hiervl.structures import TextFeatures
from hiervl.utils.errors import UserError

from .frozen_clip import ClipEmbeddings
from .image_statistics import ImageStatistics, image_statistics
from .layers import group_norm
from .segmenter import ClassList, ClipParts, ClipSegmenter, classes_of
from .switches import background_classes
from .text_encoder import build_text_encoder


class PixelOutput(NamedTuple):
    """The output of one pass through the network."""

    logits: Tensor  # (B, C, H', W') at the backbone's finest stride
    features: dict[str, Tensor]  # the backbone's output, embeddings included


class PixelLoss(NamedTuple):
    """The cross-entropy of labelled pixels, ``loss_pixel``."""

    weight: float = 1.0
    balance: float = 0.0  # exponent of the inverse class frequency
    ignore_value: int = 255  # label of pixels that no loss counts


@META_ARCH_REGISTRY.register()
class PixelClassifier(ClipSegmenter):
    """CLIP image encoder → four maps, projected, resized to the finest and added → convolution → class of a pixel.

    It has the stages of :class:`HierVL` that training and evaluation use, so the same code trains and evaluates both.
    Only the guidance by the frozen CLIP uses text; there are no learnable text prompts.
    """

    class_rows = ("classify.weight", "classify.bias")

    @configurable
    def __init__(
        self,
        *,
        clip: ClipParts,
        classes: ClassList,
        statistics: ImageStatistics,
        dim: int,
        loss: PixelLoss,
    ):
        """
        Args:
            clip, classes, statistics: see :class:`ClipSegmenter`.
            dim: width of the decoder.
            loss: the loss of labelled images.
        """
        super().__init__(clip, classes, statistics)
        shapes = clip.backbone.output_shape()
        self.maps = sorted(shapes, key=lambda name: shapes[name].stride)  # finest first
        self.projections = nn.ModuleList(nn.Conv2d(shapes[name].channels, dim, 1) for name in self.maps)
        self.mix = nn.Sequential(
            group_norm(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1, bias=False), group_norm(dim), nn.ReLU()
        )
        self.classify = nn.Conv2d(dim, len(classes.names), 1)
        self.loss = loss

    @classmethod
    def from_config(cls, cfg) -> dict:
        class_names, class_phrases = classes_of(cfg)
        text_encoder, logit_scale = build_text_encoder(cfg, class_phrases)
        return {
            "clip": ClipParts(build_backbone(cfg), text_encoder, logit_scale),
            "classes": ClassList(class_names, background_classes(cfg, class_names)),
            "statistics": image_statistics(cfg),
            "dim": cfg.MODEL.PIXEL_DECODER.DIM,
            "loss": PixelLoss(cfg.LOSS.PIXEL, cfg.LOSS.PIXEL_BALANCE, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE),
        }

    # ---- stages, as of HierVL -----------------------------------------------------------------------------------

    def segment(
        self,
        images: Tensor,
        text: TextFeatures,
        *,
        frozen_embedding: ClipEmbeddings | None = None,
        perturb: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> PixelOutput:
        """As :meth:`ClipSegmenter.segment`. ``text`` and ``frozen_embedding`` have no effect."""
        features = self.backbone(images)
        if perturb is not None:
            features = perturb(features)
        size = features[self.maps[0]].shape[2:]
        projected = [project(features[name]) for name, project in zip(self.maps, self.projections)]
        total = projected[0]
        for coarse in projected[1:]:
            total = total + F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        return PixelOutput(self.classify(self.mix(total)), features)

    def supervised_losses(
        self, batched_inputs: list[dict], text: TextFeatures, frozen_embedding: ClipEmbeddings | None = None
    ) -> dict[str, Tensor]:
        """``loss_pixel`` of labelled inputs: dicts with "image" and "sem_seg" (H, W)."""
        images = self.normalize([item["image"] for item in batched_inputs])
        size = images.shape[2:]
        labels = torch.stack(
            [
                F.pad(seg, (0, size[1] - seg.shape[1], 0, size[0] - seg.shape[0]), value=self.loss.ignore_value)
                for seg in (item["sem_seg"].to(self.device) for item in batched_inputs)
            ]
        )
        scores = self.semantic_scores(self.segment(images, text), text)
        with torch.autocast(images.device.type, enabled=False):
            loss = pixel_cross_entropy(scores, labels, self.loss.ignore_value, balance=self.loss.balance)
            return {"loss_pixel": self.loss.weight * loss}

    def set_classes(
        self, names: Sequence[str], phrases: Sequence[Sequence[str]], always_active: Sequence[int] = ()
    ) -> None:
        """Only for the interface: a network without language knows just the classes that it was trained on.

        Raises:
            UserError: the classes are others.
        """
        if list(names) != self.class_names:
            raise UserError(
                "this network (MODEL.META_ARCHITECTURE PixelClassifier) has no language: it predicts those it was "
                f"trained on ({', '.join(self.class_names)}), no others."
            )
        self.text_encoder.set_classes(phrases)

    @property
    def loss_scale(self) -> float:
        return self.loss.weight

    @property
    def pixel_loss_weight(self) -> float:
        return self.loss.weight

    def prompt_losses(self, text: TextFeatures) -> dict[str, Tensor]:
        """Empty: no part of the text is learnt."""
        return {}

    def semantic_scores(self, output: PixelOutput, text: TextFeatures) -> Tensor:
        """Class probabilities (B, C, H', W'), float32."""
        return output.logits.float().softmax(1)
