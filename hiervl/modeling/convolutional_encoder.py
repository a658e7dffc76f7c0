"""Convolutional image encoders: trunks of timm (EfficientNet, ConvNeXt, MobileCLIP …) and OpenAI's ResNets."""

import math
from typing import Any, NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.utils.errors import UserError
from hiervl.utils.recompute import maybe_recomputed

from .fixed_padding import fix_same_padding
from .image_encoder import (
    MAPS,
    ImageEncoder,
    as_channels_last,
    check_trainable,
    embed_dim_of,
    freeze,
    keep_norm_statistics,
)

STRIDES = (4, 8, 16, 32)  # of res2 … res5


class Layout(NamedTuple):
    """Where the maps of a trunk come from."""

    channels: list[int]  # of res2 … res5
    modules: list[str]  # the last module of each, as the trunk names it
    dense_stride: int  # of the map that the head reads
    embed_dim: int


class ConvolutionalEncoder(ImageEncoder):
    """A convolutional trunk of timm. The maps of its stages are used as they are.

    1. ``res2 … res5``: the last map of each stride 4, 8, 16 and 32;
    2. ``dense_embedding``: the trunk's last map through CLIP's head (pooling, norm and projection), each position alone
       as if it were the whole image; ``pooled_embedding``: the output of the head. Both have length 1.

    Batch norms keep their pretrained statistics. There are no visual prompts and no detail stem: the maps are fine
    enough.
    """

    def __init__(self, visual: nn.Module, *, trainable: str = "all", frozen_stages: int = 0, recompute: bool = False):
        """
        Args:
            visual: open_clip's image encoder; :meth:`takes` says whether it fits.
            trainable: "all", "attention" (the same here: convolutions have none) or "none".
            frozen_stages: 0…4; everything up to this number of maps is not trained.
            recompute: compute the trunk again in the backward pass, to save memory.

        Raises:
            UserError: a value is out of range.
        """
        Backbone.__init__(self)
        check_trainable(trainable)
        if not 0 <= frozen_stages <= len(MAPS):
            raise UserError(f"MODEL.CLIP.FROZEN_STAGES is 0 to {len(MAPS)} for this encoder, not {frozen_stages}.")
        fix_same_padding(visual)
        self.visual = visual.to(memory_format=torch.channels_last)
        self.recompute = recompute
        self.layout = self._layout()
        self.dense_stride, self.embed_dim = self.layout.dense_stride, self.layout.embed_dim
        if trainable == "none":
            freeze(visual.parameters())
        elif frozen_stages:
            freeze(_parameters_up_to(self._parts(), self.layout.modules[frozen_stages - 1]))

    @classmethod
    def takes(cls, visual: Any) -> bool:
        if not isinstance(visual, TimmModel) or not hasattr(visual.trunk, "forward_intermediates"):
            return False
        if getattr(visual.trunk, "output_fmt", "NCHW") != "NCHW":  # Swin's windows have a fixed size
            return False
        strides = {feature.get("reduction") for feature in visual.trunk.feature_info}
        return strides.issuperset(STRIDES)

    @classmethod
    def from_config(cls, cfg, visual: Any) -> "ConvolutionalEncoder":
        clip = cfg.MODEL.CLIP
        return cls(
            visual,
            trainable=clip.TRAINABLE,
            frozen_stages=clip.FROZEN_STAGES,
            recompute="encoder" in cfg.MODEL.RECOMPUTE,
        )

    @property
    def size_divisibility(self) -> int:
        return max(self.dense_stride, STRIDES[-1])

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, channels, stride in zip(MAPS, self.layout.channels, STRIDES)
        }

    def train(self, mode: bool = True) -> "ConvolutionalEncoder":
        super().train(mode)
        keep_norm_statistics(self.visual)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        last, maps = maybe_recomputed(self.recompute, self._trunk, as_channels_last(images))
        return {
            **dict(zip(MAPS, maps)),
            "dense_embedding": self._dense(last),
            "pooled_embedding": self._pooled(last),
        }

    def embeddings(self, images: Tensor, pooled: bool = True) -> tuple[Tensor, Tensor | None]:
        last, _ = maybe_recomputed(self.recompute, self._trunk, as_channels_last(images))
        return self._dense(last), self._pooled(last) if pooled else None

    # ---- what differs between trunks ----------------------------------------------------------------------------

    def _layout(self) -> Layout:
        info = list(self.visual.trunk.feature_info)
        self.indices = _last_by_stride(info)
        maps = [info[index] for index in self.indices]
        return Layout(
            channels=[feature["num_chs"] for feature in maps],
            modules=[feature["module"] for feature in maps],
            dense_stride=info[-1]["reduction"],
            embed_dim=embed_dim_of(self.visual),
        )

    def _parts(self) -> nn.Module:
        """The module that contains ``Layout.modules``."""
        return self.visual.trunk

    def _trunk(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map that the head reads, and the four maps for the decoders."""
        return self.visual.trunk.forward_intermediates(images, indices=self.indices)

    def _pooled(self, last: Tensor) -> Tensor:
        return F.normalize(self._head(last), dim=-1)

    def _dense(self, last: Tensor) -> Tensor:
        """(B, C, h, w) → (B, D, h, w)."""
        batch, channels, height, width = last.shape
        positions = last.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # each position becomes an image of its own
        dense = F.normalize(self._head(positions), dim=-1)
        return dense.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def _head(self, last: Tensor) -> Tensor:
        """(B, C, h, w) → (B, D): the pooling, norm and projection of CLIP."""
        return self.visual.head(self.visual.trunk.forward_head(last))


class ResNetEncoder(ConvolutionalEncoder):
    """OpenAI's ResNets. Their head is an attention pool.

    ``dense_embedding`` is the value path of the pool, with the pool's position embeddings; ``pooled_embedding`` is the
    output of the pool. The learnt positions are interpolated to the image's grid.
    """

    @classmethod
    def takes(cls, visual: nn.Module) -> bool:
        return isinstance(visual, ModifiedResNet)

    def _layout(self) -> Layout:
        modules = ["layer1", "layer2", "layer3", "layer4"]
        channels = [getattr(self.visual, name)[-1].conv3.out_channels for name in modules]
        return Layout(channels, modules, STRIDES[-1], self.visual.output_dim)

    def _parts(self) -> nn.Module:
        return self.visual

    def _trunk(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = [self.visual.layer1(self.visual.stem(images))]
        for layer in (self.visual.layer2, self.visual.layer3, self.visual.layer4):
            maps.append(layer(maps[-1]))
        return maps[-1], maps

    def _tokens(self, last: Tensor) -> Tensor:
        """(B, C, h, w) → (B, 1 + h·w, C): the mean and every position, with position embeddings."""
        places = last.flatten(2).transpose(1, 2)
        position = self.visual.attnpool.positional_embedding
        side = math.isqrt(len(position) - 1)
        if self.export_form or tuple(last.shape[2:]) != (side, side):
            learnt = position[1:].T.reshape(1, -1, side, side)
            resized = F.interpolate(learnt.float(), size=last.shape[2:], mode="bicubic", align_corners=False)
            position = torch.cat((position[:1], resized.flatten(2)[0].T.to(position.dtype)))
        return torch.cat((places.mean(1, keepdim=True), places), dim=1) + position.to(places.dtype)

    def _pooled(self, last: Tensor) -> Tensor:
        pool, tokens = self.visual.attnpool, self._tokens(last)

        def split_heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # (B, n, C) → (B, heads, n, C/heads)

        query, key = split_heads(pool.q_proj(tokens[:, :1])), split_heads(pool.k_proj(tokens))
        read = F.scaled_dot_product_attention(query, key, split_heads(pool.v_proj(tokens)))
        return F.normalize(pool.c_proj(read.transpose(1, 2).flatten(1)), dim=-1)

    def _dense(self, last: Tensor) -> Tensor:
        pool = self.visual.attnpool
        dense = F.normalize(pool.c_proj(pool.v_proj(self._tokens(last)[:, 1:])), dim=-1)
        return dense.transpose(1, 2).unflatten(2, tuple(last.shape[2:]))


def _last_by_stride(info: list[dict]) -> list[int]:
    reductions = [feature["reduction"] for feature in info]
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]


def _parameters_up_to(trunk: nn.Module, module: str) -> list[nn.Parameter]:
    """Parameters of ``module`` and of everything that the trunk defines, and so runs, before it."""
    parameters = list(trunk.named_parameters())
    end = max(index for index, (name, _) in enumerate(parameters) if name.startswith(f"{module}."))
    return [parameter for _, parameter in parameters[: end + 1]]
