"""CLIP's own ViTs as image encoders: four blocks give the maps; the value path of the last one gives the dense
embedding."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.utils.errors import UserError
from hiervl.utils.recompute import maybe_recomputed

from .image_encoder import MAPS, ImageEncoder, check_trainable, freeze
from .layers import ChannelNorm

DENSE_EMBEDDINGS = ("maskclip", "value")


class ClipImageEncoder(ImageEncoder):
    """A ViT of the CLIP layout, read at four blocks.

    1. patches + position embedding (interpolated to the input's grid), class token, learnable visual prompts;
    2. the transformer's blocks; the output of four of them is kept;
    3. ``res2 … res5``: the kept maps at strides of 1/4, 1/2, 1 and 2 patches (4, 8, 16, 32 for ViT-B/16). To the finest
       (or more of them) a convolutional stem adds the edges that patches lose;
    4. ``pooled_embedding``: the class token; ``dense_embedding``: every patch, attending only to itself in the last
       block (MaskCLIP). Both pass through CLIP's final norm and projection and have length 1.
    """

    def __init__(
        self,
        visual: Any,
        *,
        blocks: Sequence[int] = (),
        num_prompts: int = 8,
        trainable: str = "attention",
        dense: str = "maskclip",
        frozen_stages: int = 0,
        detail_maps: int = 1,
        recompute: bool = False,
    ):
        """
        Args:
            visual: open_clip's ``VisionTransformer``.
            blocks: the four blocks (0-based, ascending) that are read; empty: :func:`spread_blocks`.
            num_prompts: learnable tokens between the class token and the patches.
            trainable: "all", "attention" (attention and position embedding, SemiVL's choice) or "none".
            dense: how the last block gives the dense embedding of a patch: "maskclip" (value path, residual and
                feed-forward part, as in MaskCLIP and SemiVL) or "value" (the value path alone).
            frozen_stages: this many first blocks, and everything before them, are not trained.
            detail_maps: to how many maps, finest first, :class:`DetailStem` adds; 0: all maps come from the patches
                alone.
            recompute: compute the blocks again in the backward pass, to save memory.
        """
        Backbone.__init__(self)
        depth = len(visual.transformer.resblocks)
        blocks = blocks or spread_blocks(depth)
        check_trainable(trainable)
        check_blocks(blocks, depth)
        check_frozen_blocks(frozen_stages, depth)
        if dense not in DENSE_EMBEDDINGS:
            raise UserError(f"MODEL.CLIP.DENSE is one of {', '.join(DENSE_EMBEDDINGS)}, not '{dense}'.")
        self.dense = dense
        self.visual = visual
        self.blocks = tuple(blocks)
        self.patch_size = self.dense_stride = visual.patch_size[0]
        width = visual.conv1.out_channels
        self.embed_dim = visual.proj.shape[1]
        self.visual_prompts = nn.Parameter(torch.randn(num_prompts, width) * 0.02) if num_prompts else None
        self.to_res2, self.to_res3, self.to_res4, self.to_res5 = map_layers(width)
        self._channels = dict(zip(MAPS, (width // 4, width // 2, width, width)))
        channels = list(self._channels.values())[:detail_maps]
        self.detail_stem = DetailStem(self.patch_size, channels) if channels else None
        self.recompute = recompute
        self._freeze(trainable, frozen_stages)

    @classmethod
    def takes(cls, visual: Any) -> bool:
        resblocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
        return (
            resblocks is not None
            and isinstance(getattr(resblocks[-1], "attn", None), nn.MultiheadAttention)
            and getattr(visual, "pool_type", "") == "tok"
            and getattr(visual, "proj", None) is not None
        )

    @classmethod
    def from_config(cls, cfg, visual: Any) -> "ClipImageEncoder":
        clip = cfg.MODEL.CLIP
        return cls(
            visual,
            blocks=clip.BLOCKS,
            num_prompts=clip.VISUAL_PROMPTS,
            trainable=clip.TRAINABLE,
            dense=clip.DENSE,
            frozen_stages=clip.FROZEN_STAGES,
            detail_maps=clip.DETAIL_MAPS,
            recompute="encoder" in cfg.MODEL.RECOMPUTE,
        )

    def _freeze(self, trainable: str, frozen_stages: int) -> None:
        for name, parameter in self.visual.named_parameters():
            is_attention = ".attn." in name or name == "positional_embedding"
            parameter.requires_grad_(trainable == "all" or (trainable == "attention" and is_attention))
        if frozen_stages:
            after = ("transformer.", "ln_post.", "proj")
            freeze(p for name, p in self.visual.named_parameters() if not name.startswith(after))
            freeze(self.visual.transformer.resblocks[:frozen_stages].parameters())

    @property
    def trains_embeddings(self) -> bool:
        return self.visual_prompts is not None or super().trains_embeddings

    def keep_embeddings_only(self) -> None:
        super().keep_embeddings_only()
        self.visual_prompts = None

    @property
    def size_divisibility(self) -> int:
        """Inputs are padded to a multiple of this many pixels."""
        return 2 * self.patch_size

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of ``res2 … res5``."""
        scales = (0.25, 0.5, 1, 2)
        return {
            name: ShapeSpec(channels=self._channels[name], stride=self.patch_size * scale)
            for name, scale in zip(MAPS, scales)
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 3, H, W), normalised, H and W multiples of ``size_divisibility``.

        Returns:
            ``res2 … res5``; ``dense_embedding`` (B, D, H/patch, W/patch); ``pooled_embedding`` (B, D).
        """
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        tokens = self._embed(images, grid)
        kept: list[Tensor] = []
        last = len(self.visual.transformer.resblocks) - 1
        for index, block in enumerate(self.visual.transformer.resblocks):
            if index == last:
                dense = self._to_joint_space(self._alone(block, self._patches(tokens)))
            tokens = maybe_recomputed(self.recompute, block, tokens)
            if index in self.blocks:
                kept.append(self._to_map(self._patches(tokens), grid))
        maps = [self.to_res2(kept[0]), self.to_res3(kept[1]), self.to_res4(kept[2]), self.to_res5(kept[3])]
        if self.detail_stem is not None:
            details = self.detail_stem(images, [features.shape[2:] for features in maps])
            maps[: len(details)] = [features + detail for features, detail in zip(maps, details)]
        return {
            **dict(zip(MAPS, maps)),
            "dense_embedding": self._to_map(dense, grid),
            "pooled_embedding": self._to_joint_space(tokens[:, 0]),
        }

    def embeddings(self, images: Tensor, pooled: bool = True) -> tuple[Tensor, Tensor | None]:
        """The dense embedding and, if ``pooled``, the pooled one, as :meth:`forward` gives them, without the maps."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        tokens = self._embed(images, grid)
        *first, last = self.visual.transformer.resblocks
        for block in first:
            tokens = maybe_recomputed(self.recompute, block, tokens)
        dense = self._to_map(self._to_joint_space(self._alone(last, self._patches(tokens))), grid)
        return dense, self._to_joint_space(last(tokens)[:, 0]) if pooled else None

    def _alone(self, block: nn.Module, patches: Tensor) -> Tensor:
        """Output of a block for patches (B, P, width) that attend only to themselves (``MODEL.CLIP.DENSE``)."""
        if self.dense == "value":
            return _value_path(block, patches)
        return maybe_recomputed(self.recompute, _block_without_mixing, block, patches)

    def _embed(self, images: Tensor, grid) -> Tensor:
        """→ (B, 1 + prompts + patches, width): the sequence that enters the first block."""
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, width, h, w) → (B, h·w, width)
        class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        position = self._position_embedding(grid).to(patches.dtype)
        tokens = visual.ln_pre(torch.cat((class_token, patches), dim=1) + position)
        if self.visual_prompts is not None:
            prompts = self.visual_prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat((tokens[:, :1], prompts, tokens[:, 1:]), dim=1)
        return tokens

    def _position_embedding(self, grid) -> Tensor:
        """The learnt position embedding (1 + patches, width), interpolated bicubically to another grid."""
        position = self.visual.positional_embedding
        if not self.export_form and tuple(grid) == tuple(self.visual.grid_size):
            return position
        learnt = position[1:].T.reshape(1, -1, *self.visual.grid_size)
        resized = F.interpolate(learnt.float(), size=tuple(grid), mode="bicubic", align_corners=False)
        return torch.cat((position[:1], resized.flatten(2)[0].T.to(position.dtype)))

    def _patches(self, tokens: Tensor) -> Tensor:
        num_prompts = 0 if self.visual_prompts is None else len(self.visual_prompts)
        return tokens[:, 1 + num_prompts :]

    def _to_joint_space(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.visual.ln_post(tokens) @ self.visual.proj, dim=-1)

    @staticmethod
    def _to_map(tokens: Tensor, grid) -> Tensor:
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


def map_layers(width: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """Layers from patches (B, width, h, w) to maps with strides of 1/4, 1/2, 1 and 2 patches: ``res2 … res5``."""
    finest = nn.Sequential(
        ChannelNorm(width),
        nn.ConvTranspose2d(width, width // 2, 2, stride=2),
        ChannelNorm(width // 2),
        nn.GELU(),
        nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
    )
    fine = nn.Sequential(ChannelNorm(width), nn.ConvTranspose2d(width, width // 2, 2, stride=2))
    return finest, fine, ChannelNorm(width), nn.Sequential(ChannelNorm(width), nn.MaxPool2d(2))


class DetailStem(nn.Module):
    """Convolutions from the image to a stride of a quarter of a patch, for the outlines of masks. For more maps they go
    on to coarser strides.

    A patch is one token, so the encoder loses much of what lies where inside it. A few 3 × 3 convolutions on the pixels
    give it back at little cost. With coarser maps they are a second, small encoder. It learns faster than the ViT if
    the images are unlike those that the ViT was trained on.
    """

    def __init__(self, patch_size: int, channels: Sequence[int], width: int = 32):
        """channels: of every output, finest first, each half the size of the one before; width: of the layers before
        the first output, doubled for every further output."""
        super().__init__()
        halvings = max(1, round(math.log2(patch_size / 4)))
        self.layers = nn.Sequential(
            *(layer for index in range(halvings) for layer in _halving(width if index else 3, width))
        )
        self.outputs = nn.ModuleList([nn.Conv2d(width, channels[0], 3, padding=1)])
        self.coarser = nn.ModuleList()
        for count in channels[1:]:
            self.coarser.append(nn.Sequential(*_halving(width, 2 * width)))
            self.outputs.append(nn.Conv2d(2 * width, count, 3, padding=1))
            width *= 2

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """images (B, 3, H, W) → one map (B, channels, *size) per output. Further sizes are ignored."""
        features = [self.layers(images)]
        for layers in self.coarser:
            features.append(layers(features[-1]))
        return [
            # The size differs if patches have 14 pixels.
            details
            if tuple(details.shape[2:]) == tuple(size)
            else F.interpolate(details, size=tuple(size), mode="bilinear", align_corners=False)
            for details, size in zip((out(x) for out, x in zip(self.outputs, features)), sizes)
        ]


def _halving(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Half the size: a 3 × 3 convolution, norm and activation."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
    return [convolution, ChannelNorm(channels_out), nn.GELU()]


def _value_path(block: Any, tokens: Tensor) -> Tensor:
    """Attention of a block if every patch attends only to itself: value projection → output projection."""
    attention = block.attn
    width = attention.embed_dim
    bias = attention.in_proj_bias
    value = F.linear(
        block.ln_1(tokens), attention.in_proj_weight[2 * width :], None if bias is None else bias[2 * width :]
    )
    return attention.out_proj(value)


def _block_without_mixing(block: Any, tokens: Tensor) -> Tensor:
    """The whole block with the value path as its attention: both residuals and the feed-forward part stay."""
    tokens = tokens + block.ls_1(_value_path(block, tokens))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def spread_blocks(depth: int) -> tuple[int, ...]:
    """The blocks at a third, half, two thirds and the end of ``depth``: 3, 5, 7 and 11 of 12."""
    blocks = [depth - 1]
    for numerator, denominator in ((2, 3), (1, 2), (1, 3)):
        blocks.insert(0, min(math.ceil(depth * numerator / denominator) - 1, blocks[0] - 1))
    return tuple(blocks)


def check_blocks(blocks: Sequence[int], depth: int) -> None:
    """Raises UserError: they are not four ascending blocks of ``depth``."""
    if len(blocks) != 4 or list(blocks) != sorted(set(blocks)) or blocks[0] < 0 or blocks[-1] >= depth:
        raise UserError(f"MODEL.CLIP.BLOCKS needs four ascending blocks of 0…{depth - 1}, not {list(blocks)}.")


def check_frozen_blocks(count: int, depth: int) -> None:
    """Raises UserError: there are not so many blocks."""
    if not 0 <= count <= depth:
        raise UserError(f"MODEL.CLIP.FROZEN_STAGES is 0 to {depth} for this encoder, not {count}.")
