"""Convolutional image encoders on timm (EfficientNet, ConvNeXt …), which open_clip builds by ``timm_model_name``."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.utils.errors import UserError
from hiervl.utils.recompute import maybe_recomputed

from .image_encoder import (
    MAPS,
    ImageEncoder,
    as_channels_last,
    check_trainable,
    freeze,
    keep_norm_statistics,
)

STRIDES = (4, 8, 16, 32)  # of res2 … res5


class ConvolutionalEncoder(ImageEncoder):
    """A hierarchy of stages on timm, whose maps are read as they are.

    1. ``res2 … res5``: the last map of each stride 4, 8, 16 and 32;
    2. ``dense_embedding``: the trunk's last map through CLIP's head (pooling, norm and projection), each position for
       itself as if it were the whole image; ``pooled_embedding``: the head's own answer. Both of length 1.

    Batch norms keep the statistics that they came with. There are no visual prompts and there is no detail stem: the
    maps are fine enough.
    """

    def __init__(self, visual: TimmModel, *, trainable: str = "all", frozen_stages: int = 0, recompute: bool = False):
        """
        Args:
            visual: open_clip's ``TimmModel`` around a trunk with maps of strides 4, 8, 16 and 32.
            trainable: "all", "attention" (the same here: convolutions have none) or "none".
            frozen_stages: 0…4; everything up to so many of the four maps is not trained.
            recompute: compute the trunk again in the backward pass instead of keeping what is inside it.

        Raises:
            UserError: the trunk has no such maps, or a value is out of range.
        """
        Backbone.__init__(self)
        check_trainable(trainable)
        if not 0 <= frozen_stages <= len(MAPS):
            raise UserError(f"MODEL.CLIP.FROZEN_STAGES is 0 to {len(MAPS)} for this encoder, not {frozen_stages}.")
        self.visual = visual.to(memory_format=torch.channels_last)
        self.recompute = recompute
        info = list(visual.trunk.feature_info)
        self.indices = _last_of_each_stride(info)
        self._channels = [info[index]["num_chs"] for index in self.indices]
        self._out_features = list(MAPS)
        self.dense_stride = info[-1]["reduction"]
        self.embed_dim = _embed_dim(visual)
        if trainable == "none":
            freeze(visual.parameters())
        elif frozen_stages:
            freeze(_parameters_up_to(visual.trunk, info[self.indices[frozen_stages - 1]]["module"]))

    @classmethod
    def takes(cls, visual: nn.Module) -> bool:
        if not isinstance(visual, TimmModel) or not hasattr(visual.trunk, "forward_intermediates"):
            return False
        strides = {feature.get("reduction") for feature in getattr(visual.trunk, "feature_info", ())}
        return strides.issuperset(STRIDES)

    @classmethod
    def from_config(cls, cfg, visual: nn.Module) -> "ConvolutionalEncoder":
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
            for name, channels, stride in zip(MAPS, self._channels, STRIDES)
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

    def _trunk(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map that the head reads, and the four that the decoders read."""
        return self.visual.trunk.forward_intermediates(images, indices=self.indices)

    def _pooled(self, last: Tensor) -> Tensor:
        return F.normalize(self._head(last), dim=-1)

    def _dense(self, last: Tensor) -> Tensor:
        """(B, C, h, w) → (B, D, h, w)."""
        batch, channels, height, width = last.shape
        positions = last.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # each an image of one position
        dense = F.normalize(self._head(positions), dim=-1)
        return dense.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def _head(self, last: Tensor) -> Tensor:
        """(B, C, h, w) → (B, D): the pooling, norm and projection of CLIP."""
        return self.visual.head(self.visual.trunk.forward_head(last))


def _last_of_each_stride(info: list[dict]) -> list[int]:
    reductions = [feature["reduction"] for feature in info]
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]


@torch.no_grad()
def _embed_dim(visual: TimmModel) -> int:
    projection = getattr(visual.head, "proj", None)
    return projection.out_features if projection is not None else visual.trunk.num_classes


def _parameters_up_to(trunk: nn.Module, module: str) -> list[nn.Parameter]:
    """Those of ``module`` and of all that the trunk defines before it, which is the order in which it runs."""
    parameters = list(trunk.named_parameters())
    end = max(index for index, (name, _) in enumerate(parameters) if name.startswith(f"{module}."))
    return [parameter for _, parameter in parameters[: end + 1]]
