"""ViTs of timm as image encoders: EVA02-CLIP, SigLIP and SigLIP 2, PE, MobileCLIP-B, ViTamin, DINOv2, DINOv3 …"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.utils.recompute import maybe_recomputed

from .clip_image_encoder import DetailStem, check_blocks, check_frozen_blocks, map_layers, spread_blocks
from .image_encoder import MAPS, ImageEncoder, check_trainable, embed_dim_of, freeze

POOLS = ("token", "avg", "map")


class TimmVitEncoder(ImageEncoder):
    """A ViT of timm, read at four blocks like :class:`ClipImageEncoder`.

    The dense embedding differs. Each patch goes alone, as a sequence of one token,

    - through the last block, if the class token is the pooled embedding ("token"). The patch attends to itself, which
      is MaskCLIP's value path with its residual and feed-forward part;
    - through the attention pool, if there is one ("map": SigLIP, PE). This is the pool's value path;
    - through the head, if the pooled embedding is the mean of the patches ("avg").

    The norm and the projection of the pooled embedding follow.
    """

    def __init__(
        self,
        visual: TimmModel,
        *,
        blocks: Sequence[int] = (),
        num_prompts: int = 8,
        trainable: str = "attention",
        frozen_stages: int = 0,
        detail_maps: int = 1,
        recompute: bool = False,
        lone_blocks: bool = True,
    ):
        """Arguments and errors are those of :class:`ClipImageEncoder`.

        Args:
            lone_blocks: with a class token, the dense embedding is computed as above; off: the patches go straight
                through the head, as needed by a head that is trained on them.
        """
        Backbone.__init__(self)
        depth = len(visual.trunk.blocks)
        blocks = blocks or spread_blocks(depth)
        check_trainable(trainable)
        check_blocks(blocks, depth)
        check_frozen_blocks(frozen_stages, depth)
        visual.trunk = _for_any_size(visual.trunk)
        self.visual = visual
        self.blocks = tuple(blocks)
        self.patch_size = self.dense_stride = int(visual.trunk.feature_info[0]["reduction"])
        self.embed_dim = embed_dim_of(visual)
        width = visual.trunk.embed_dim
        self.num_prefix = visual.trunk.num_prefix_tokens
        self.num_prompts = num_prompts
        self.visual_prompts = nn.Parameter(torch.randn(num_prompts, width) * 0.02) if num_prompts else None
        self.to_res2, self.to_res3, self.to_res4, self.to_res5 = map_layers(width)
        self._channels = dict(zip(MAPS, (width // 4, width // 2, width, width)))
        channels = list(self._channels.values())[:detail_maps]
        self.detail_stem = DetailStem(self.patch_size, channels) if channels else None
        self.recompute = recompute
        pool = visual.trunk.global_pool
        self.reads_patches = pool == "avg" or (pool == "token" and not lone_blocks)
        self.reads_lone_block = pool == "token" and lone_blocks
        self._rotate_patches_alone()
        self._freeze(trainable, frozen_stages)

    @classmethod
    def takes(cls, visual: nn.Module) -> bool:
        if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, (VisionTransformer, Eva)):
            return False
        return visual.trunk.global_pool in POOLS

    @classmethod
    def from_config(cls, cfg, visual: nn.Module) -> "TimmVitEncoder":
        clip = cfg.MODEL.CLIP
        return cls(
            visual,
            blocks=clip.BLOCKS,
            num_prompts=clip.VISUAL_PROMPTS,
            trainable=clip.TRAINABLE,
            frozen_stages=clip.FROZEN_STAGES,
            detail_maps=clip.DETAIL_MAPS,
            recompute="encoder" in cfg.MODEL.RECOMPUTE,
            lone_blocks=not cfg.MODEL.ENCODER.NAME,
        )

    def _rotate_patches_alone(self) -> None:
        """Apply rotary embeddings to patches only: visual prompts have no position in the image."""
        for block in self.visual.trunk.blocks:
            if hasattr(block.attn, "num_prefix_tokens"):
                block.attn.num_prefix_tokens = self.num_prefix + (
                    0 if self.visual_prompts is None else self.num_prompts
                )

    def _freeze(self, trainable: str, frozen_stages: int) -> None:
        for name, parameter in self.visual.named_parameters():
            is_attention = ".attn." in name or name.endswith("pos_embed")
            parameter.requires_grad_(trainable == "all" or (trainable == "attention" and is_attention))
        if frozen_stages:
            trunk = self.visual.trunk
            after = ("blocks.", "norm.", "attn_pool.", "fc_norm.", "head.")
            freeze(parameter for name, parameter in trunk.named_parameters() if not name.startswith(after))
            freeze(trunk.blocks[:frozen_stages].parameters())

    @property
    def trains_embeddings(self) -> bool:
        return self.visual_prompts is not None or super().trains_embeddings

    def keep_embeddings_only(self) -> None:
        super().keep_embeddings_only()
        self.visual_prompts = None
        self._rotate_patches_alone()

    @property
    def size_divisibility(self) -> int:
        return 2 * self.patch_size

    def output_shape(self) -> dict[str, ShapeSpec]:
        scales = (0.25, 0.5, 1, 2)
        return {
            name: ShapeSpec(channels=self._channels[name], stride=self.patch_size * scale)
            for name, scale in zip(MAPS, scales)
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        kept, dense, pooled = self._run(images, pooled=True)
        layers = (self.to_res2, self.to_res3, self.to_res4, self.to_res5)
        maps = [to_map(features) for to_map, features in zip(layers, kept)]
        if self.detail_stem is not None:
            details = self.detail_stem(images, [features.shape[2:] for features in maps])
            maps[: len(details)] = [features + detail for features, detail in zip(maps, details)]
        return {**dict(zip(MAPS, maps)), "dense_embedding": dense, "pooled_embedding": pooled}

    def embeddings(self, images: Tensor, pooled: bool = True) -> tuple[Tensor, Tensor | None]:
        _, dense, whole = self._run(images, pooled)
        return dense, whole

    def _run(self, images: Tensor, pooled: bool) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """→ patches of the kept blocks (B, width, h, w), dense embedding, pooled embedding."""
        trunk = self.visual.trunk
        patches = trunk.patch_embed(images)  # (B, h, w, width)
        grid = tuple(patches.shape[1:3])
        tokens = trunk.norm_pre(self._with_positions(patches, grid))
        if self.visual_prompts is not None:
            prompts = self.visual_prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat((tokens[:, : self.num_prefix], prompts, tokens[:, self.num_prefix :]), dim=1)
        rotation = self._rotation(grid)
        kept: list[Tensor] = []
        dense = None
        last = len(trunk.blocks) - 1
        for index, block in enumerate(trunk.blocks):
            if index == last and self.reads_lone_block:
                dense = self._joint(trunk.norm(maybe_recomputed(self.recompute, _alone, block, self._patches(tokens))))
                if not pooled and last not in self.blocks:
                    break
            tokens = maybe_recomputed(self.recompute, _block, block, tokens, rotation(index))
            if index in self.blocks:
                kept.append(_to_map(self._patches(tokens), grid))
        tokens = trunk.norm(tokens)
        if trunk.global_pool == "map":
            dense = self._joint(_alone(trunk.attn_pool, self._patches(tokens)))
        elif self.reads_patches:
            dense = self._joint(self._patches(tokens))
        whole = self._joint(trunk.pool(self._without_prompts(tokens))) if pooled else None
        assert dense is not None  # one of the three kinds of ViTs
        return kept, _to_map(dense, grid), whole

    def _with_positions(self, patches: Tensor, grid) -> Tensor:
        """(B, h, w, width) → (B, prefix + h·w, width). The learnt positions are interpolated to the grid."""
        trunk = self.visual.trunk
        batch = patches.shape[0]
        patches = patches.flatten(1, 2)
        learnt_tokens = [token for token in (trunk.cls_token, getattr(trunk, "reg_token", None)) if token is not None]
        prefix = torch.cat(learnt_tokens, dim=1) if learnt_tokens else patches.new_zeros(1, 0, patches.shape[2])
        position = trunk.pos_embed
        if position is not None:
            first = position.shape[1] - trunk.patch_embed.num_patches  # of the prefix, if it has positions
            native = tuple(trunk.patch_embed.grid_size)
            if first:
                prefix = prefix + position[:, :first]
            position = position[:, first:]
            if self.export_form or grid != native:
                learnt = position.transpose(1, 2).unflatten(2, native)
                resized = F.interpolate(learnt.float(), size=grid, mode="bicubic", align_corners=False)
                position = resized.flatten(2).transpose(1, 2).to(position.dtype)
            patches = patches + position.to(patches.dtype)
        return torch.cat((prefix.to(patches.dtype).expand(batch, -1, -1), patches), dim=1)

    def _rotation(self, grid):
        """→ function from a block's index to its rotary embedding of the patches; None for trunks without any."""
        trunk = self.visual.trunk
        if getattr(trunk, "rope", None) is None:
            return lambda index: None
        rotation = trunk.rope.get_embed(shape=list(grid))
        return (lambda index: rotation[index]) if getattr(trunk, "rope_mixed", False) else lambda index: rotation

    def _patches(self, tokens: Tensor) -> Tensor:
        prompts = 0 if self.visual_prompts is None else self.num_prompts
        return tokens[:, self.num_prefix + prompts :]

    def _without_prompts(self, tokens: Tensor) -> Tensor:
        if self.visual_prompts is None:
            return tokens
        return torch.cat((tokens[:, : self.num_prefix], self._patches(tokens)), dim=1)

    def _joint(self, tokens: Tensor) -> Tensor:
        trunk = self.visual.trunk
        return F.normalize(self.visual.head(trunk.head(trunk.fc_norm(tokens))), dim=-1)


def _block(block: nn.Module, tokens: Tensor, rotation: Tensor | None) -> Tensor:
    return block(tokens) if rotation is None else block(tokens, rope=rotation)


def _alone(module: nn.Module, tokens: Tensor) -> Tensor:
    """Output of a module for tokens (B, P, width), each as a sequence of its own that sees only itself."""
    return module(tokens.reshape(-1, 1, tokens.shape[2])).reshape(tokens.shape)


def _to_map(tokens: Tensor, grid) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, grid)


def _for_any_size(trunk: Any) -> nn.Module:
    """The same trunk with the same weights, rebuilt for images of any size."""
    if trunk.dynamic_img_size:
        return trunk
    flexible = timm.create_model(
        trunk.pretrained_cfg["architecture"],
        num_classes=trunk.num_classes,
        global_pool=trunk.global_pool,
        dynamic_img_size=True,
    )
    flexible.load_state_dict(trunk.state_dict())
    return flexible.train(trunk.training).requires_grad_(next(trunk.parameters()).requires_grad)
