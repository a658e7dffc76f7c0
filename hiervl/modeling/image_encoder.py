"""The contract of image encoders: what the rest of the network expects of each of them (docs/encoders.md)."""

import abc
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from hiervl.utils.errors import UserError

from .layers import HasExportForm

MAPS = ("res2", "res3", "res4", "res5")
TRAINABLE_PARTS = ("all", "attention", "none")


class ImageEncoder(HasExportForm, Backbone, abc.ABC):
    """An image encoder as a Detectron2 backbone: four maps, a dense and a pooled embedding (paper §3.1, §4.1).

    1. :meth:`forward` returns ``res2 … res5`` (finest first), ``dense_embedding`` and ``pooled_embedding``;
    2. ``dense_embedding`` is a grid of vectors in the space of the text embeddings, ``pooled_embedding`` is CLIP's own
       embedding of the whole image; all vectors have length 1;
    3. inputs are padded to multiples of ``size_divisibility``; one vector of the grid covers a square of
       ``dense_stride`` × ``dense_stride`` pixels;
    4. ``visual`` is exactly the pretrained part: it has its own learning rate, and the frozen copy is made from it.

    A subclass calls ``Backbone``'s constructor, sets the attributes below and implements :meth:`takes`,
    :meth:`from_config`, :meth:`output_shape`, :meth:`forward` and :meth:`embeddings`.
    """

    visual: Any  # the pretrained part, a module without types
    embed_dim: int  # D, of the dense, the pooled and the text embeddings
    dense_stride: int

    @classmethod
    @abc.abstractmethod
    def takes(cls, visual: Any) -> bool:
        """Whether this class can read an image encoder that open_clip has built."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, cfg, visual: Any) -> "ImageEncoder":
        """The encoder of ``MODEL.CLIP`` around an image encoder of open_clip."""

    @property
    @abc.abstractmethod
    def size_divisibility(self) -> int:
        """Inputs are padded to a multiple of this many pixels."""

    @abc.abstractmethod
    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of ``res2 … res5``."""

    @abc.abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 3, H, W), normalised, H and W multiples of ``size_divisibility``.

        Returns:
            ``res2 … res5``; ``dense_embedding`` (B, D, H/dense_stride, W/dense_stride); ``pooled_embedding`` (B, D).
        """

    @abc.abstractmethod
    def embeddings(self, images: Tensor, pooled: bool = True) -> tuple[Tensor, Tensor | None]:
        """The dense embedding and, if ``pooled``, the pooled one, as :meth:`forward` gives them, without the maps."""

    def dense_embedding(self, images: Tensor) -> Tensor:
        """The dense embedding alone, as :meth:`forward` gives it: (B, D, H/dense_stride, W/dense_stride)."""
        return self.embeddings(images, pooled=False)[0]

    @property
    def trains_embeddings(self) -> bool:
        """Whether training changes the dense embedding."""
        return any(parameter.requires_grad for parameter in self.visual.parameters())

    def keep_embeddings_only(self) -> None:
        """Keep only the pretrained part, as for a frozen copy: drop what makes the maps. :meth:`embeddings` then gives
        CLIP's embeddings from before training."""
        for name in [name for name, _ in self.named_children() if name != "visual"]:
            delattr(self, name)


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Exclude parameters from training."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def check_trainable(trainable: str) -> None:
    """Raises UserError: ``MODEL.CLIP.TRAINABLE`` has no such value."""
    if trainable not in TRAINABLE_PARTS:
        raise UserError(f"MODEL.CLIP.TRAINABLE is one of {', '.join(TRAINABLE_PARTS)}, not '{trainable}'.")


def embed_dim_of(visual: Any) -> int:
    """Width of the embedding of open_clip's ``TimmModel``: that of its head, or else of the trunk's own head."""
    linear = [part for part in visual.head.modules() if isinstance(part, nn.Linear)]
    if linear:
        return linear[-1].out_features
    return visual.trunk.num_classes or visual.trunk.num_features


def keep_norm_statistics(module: nn.Module) -> None:
    """Put batch norms into evaluation mode: small batches would spoil statistics of millions of images."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train(False)


def as_channels_last(images: Tensor) -> Tensor:
    """The same images in channels-last memory format, which is faster for convolutions on CPUs and GPUs."""
    return images.contiguous(memory_format=torch.channels_last)
