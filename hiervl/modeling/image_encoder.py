"""The contract of image encoders: what the rest of the network may ask of any of them (docs/encoders.md)."""

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
    """CLIP's image side as a Detectron2 backbone: four maps, a dense and a pooled embedding (paper §3.1, §4.1).

    1. :meth:`forward` returns ``res2 … res5`` (finest first), ``dense_embedding`` and ``pooled_embedding``;
    2. ``dense_embedding`` is a grid of vectors in the space of the text embeddings, ``pooled_embedding`` is what CLIP
       itself says of the whole image; all have length 1;
    3. inputs are padded to multiples of ``size_divisibility``; one vector of the grid stands for a square of
       ``dense_stride`` pixels a side;
    4. ``visual`` is the pretrained part, and nothing else is: the learning rate and the frozen copy go by it.

    A subclass calls ``Backbone``'s constructor, sets the attributes below and writes :meth:`takes`,
    :meth:`from_config`, :meth:`output_shape`, :meth:`forward` and :meth:`embeddings`.
    """

    visual: Any  # the pretrained part, a module without types
    embed_dim: int  # D, of the dense, the pooled and the text embeddings
    dense_stride: int

    @classmethod
    @abc.abstractmethod
    def takes(cls, visual: Any) -> bool:
        """Whether this class reads an image tower that open_clip has built."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, cfg, visual: Any) -> "ImageEncoder":
        """The encoder of ``MODEL.CLIP`` around a tower that it takes."""

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
        """The dense and, if asked for, the pooled embedding, as :meth:`forward` gives them, without the maps."""

    def dense_embedding(self, images: Tensor) -> Tensor:
        """The dense embedding alone, as :meth:`forward` gives it: (B, D, H/dense_stride, W/dense_stride)."""
        return self.embeddings(images, pooled=False)[0]

    @property
    def trains_embeddings(self) -> bool:
        """Whether training changes the dense embedding."""
        return any(parameter.requires_grad for parameter in self.visual.parameters())

    def keep_embeddings_only(self) -> None:
        """Turn into the pretrained part alone, as for a frozen copy: whatever makes the maps is dropped, and
        :meth:`embeddings` says what CLIP says before any training."""
        for name in [name for name, _ in self.named_children() if name != "visual"]:
            delattr(self, name)


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Exclude parameters from training."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def check_trainable(trainable: str) -> None:
    """Raises UserError: no such value of ``MODEL.CLIP.TRAINABLE``."""
    if trainable not in TRAINABLE_PARTS:
        raise UserError(f"MODEL.CLIP.TRAINABLE is one of {', '.join(TRAINABLE_PARTS)}, not '{trainable}'.")


def embed_dim_of(visual: Any) -> int:
    """Width of the embedding of open_clip's ``TimmModel``: what its head, or else the trunk's own head, gives."""
    linear = [part for part in visual.head.modules() if isinstance(part, nn.Linear)]
    if linear:
        return linear[-1].out_features
    return visual.trunk.num_classes or visual.trunk.num_features


def keep_norm_statistics(module: nn.Module) -> None:
    """Put batch norms into evaluation mode: a batch of a few crops would spoil statistics of millions of images."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train(False)


def as_channels_last(images: Tensor) -> Tensor:
    """The same images, their channels next to each other in memory: CPUs and GPUs convolve them so faster."""
    return images.contiguous(memory_format=torch.channels_last)
