"""Multi-scale deformable pixel decoder with a text–pixel exchange after every layer (paper §3.3, Mask2Former §3.2)."""

from typing import NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.utils.recompute import maybe_recomputed

from .cross_modal import CrossModalSpatialAlignment
from .deformable_attention import DeformableAttention, reference_points
from .layers import SinePositionEmbedding, group_norm
from .registered import registered
from .semantic_queries import TextQueries
from .switches import reads_text

PIXEL_DECODER_REGISTRY = Registry("PIXEL_DECODER")
PIXEL_DECODER_REGISTRY.__doc__ = """
Registry of pixel decoders. An entry is called with ``(cfg, input_shape)``, where ``input_shape`` is the backbone's
``output_shape()``, and returns a module whose ``forward(features, text)`` takes the backbone's maps and the
:class:`TextQueries` (None without text queries) and returns :class:`PixelFeatures`.
"""


class PixelFeatures(NamedTuple):
    """The pixel decoder's output for the query decoder."""

    pixel_features: list[Tensor]  # (B, d, h, w) at strides of 2, 1 and 1/2 patches (32, 16, 8), coarse first
    mask_features: Tensor  # (B, d, H', W') at the finest stride of the backbone (4)
    text_queries: Tensor | None  # (B, M, d), refined


class DeformableLayer(nn.Module):
    """One encoder layer of Deformable DETR: deformable self-attention, then a feed-forward part, post-norm."""

    def __init__(self, dim: int, num_maps: int, num_heads: int, num_points: int, feedforward: int):
        super().__init__()
        self.self_attn = DeformableAttention(dim, num_maps, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, points: Tensor, shapes) -> Tensor:
        """x and position (B, P, d), points (1, P, 2) → (B, P, d)."""
        x = self.norm1(x + self.self_attn(x + position, points, x, shapes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x), inplace=True)))


class DeformablePixelDecoder(nn.Module):
    """``layers`` × [deformable self-attention → CMSAM] on three maps, then a top-down path to the finest map."""

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        dim: int = 256,
        layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward: int = 1024,
        text_reads_pixels: bool = True,
        pixels_read_text: bool = True,
        recompute: bool = False,
    ):
        """
        Args:
            input_shape: channels and strides of the backbone's four maps. The finest is used for the mask features
                alone.
            dim: width d; layers, num_heads, num_points, feedforward: for the deformable layers.
            text_reads_pixels, pixels_read_text: the two directions of CMSAM.
            recompute: compute layers and mask features again in the backward pass, to save memory.
        """
        super().__init__()
        self.recompute = recompute
        by_stride = sorted(input_shape, key=lambda name: input_shape[name].stride)
        self.finest = by_stride[0]
        self.coarse_first = by_stride[:0:-1]
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(input_shape[name].channels, dim, 1), group_norm(dim)) for name in self.coarse_first
        )
        for part in self.input_projections.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.get_parameter("bias"))
        num_maps = len(self.coarse_first)
        self.map_embedding = nn.Parameter(torch.randn(num_maps, dim))
        self.position_embedding = SinePositionEmbedding(dim)
        self.layers = nn.ModuleList(
            DeformableLayer(dim, num_maps, num_heads, num_points, feedforward) for _ in range(layers)
        )
        exchanges = text_reads_pixels or pixels_read_text
        self.exchanges = nn.ModuleList(
            CrossModalSpatialAlignment(
                dim, num_heads, text_reads_pixels=text_reads_pixels, pixels_read_text=pixels_read_text
            )
            for _ in range(layers if exchanges else 0)
        )
        self.lateral = nn.Sequential(nn.Conv2d(input_shape[self.finest].channels, dim, 1, bias=False), group_norm(dim))
        self.output = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), group_norm(dim), nn.ReLU())
        self.mask_projection = nn.Conv2d(dim, dim, 1)
        for convolution in (self.lateral[0], self.output[0], self.mask_projection):
            c2_xavier_fill(convolution)

    def forward(self, features: dict[str, Tensor], text: TextQueries | None) -> PixelFeatures:
        """features: the backbone's maps (B, C_l, H_l, W_l); text: the text queries, or None."""
        maps = [project(features[name]) for project, name in zip(self.input_projections, self.coarse_first)]
        shapes = [tuple(m.shape[2:]) for m in maps]
        pixels = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (B, P, d)
        position = torch.cat(
            [
                self.position_embedding(*shape, pixels.device).flatten(2).transpose(1, 2) + embedding
                for shape, embedding in zip(shapes, self.map_embedding)
            ],
            dim=1,
        ).to(pixels.dtype)
        points = reference_points(shapes, pixels.device)

        queries, text_bias = None, None
        if text is not None:
            queries, text_bias = text.queries, text_attention_bias(text)

        def layer(index: int, pixels: Tensor, queries: Tensor | None):
            pixels = self.layers[index](pixels, position, points, shapes)
            if queries is not None and self.exchanges:
                pixels, queries = self.exchanges[index](pixels, queries, text_bias)
            return pixels, queries

        for index in range(len(self.layers)):
            pixels, queries = maybe_recomputed(self.recompute, layer, index, pixels, queries)

        refined = [
            flat.transpose(1, 2).unflatten(2, shape)
            for flat, shape in zip(pixels.split([h * w for h, w in shapes], dim=1), shapes)
        ]
        mask_features = maybe_recomputed(self.recompute, self._mask_features, features[self.finest], refined[-1])
        return PixelFeatures(refined, mask_features, queries)

    def _mask_features(self, finest: Tensor, refined: Tensor) -> Tensor:
        """The backbone's finest map (B, C', H', W') and the finest refined one (B, d, h, w) → (B, d, H', W')."""
        lateral = self.lateral(finest)
        upsampled = F.interpolate(refined, size=lateral.shape[2:], mode="bilinear", align_corners=False)
        return self.mask_projection(self.output(lateral + upsampled))


def text_attention_bias(text: TextQueries) -> Tensor:
    """Bias (B, M) on attention scores of text queries: log r, and −inf on padding."""
    return text.log_relevance.masked_fill(~text.valid, float("-inf"))


@PIXEL_DECODER_REGISTRY.register()
def build_deformable_pixel_decoder(cfg, input_shape: dict[str, ShapeSpec]) -> DeformablePixelDecoder:
    """The pixel decoder of ``MODEL.PIXEL_DECODER`` and ``MODEL.CMSAM``."""
    c = cfg.MODEL.PIXEL_DECODER
    return DeformablePixelDecoder(
        input_shape,
        dim=c.DIM,
        layers=c.LAYERS,
        num_heads=c.HEADS,
        num_points=c.POINTS,
        feedforward=c.FEEDFORWARD,
        # If nothing uses the text queries afterwards, they need not read pixels.
        text_reads_pixels=cfg.MODEL.CMSAM.TEXT_READS_PIXELS and reads_text(cfg),
        pixels_read_text=cfg.MODEL.CMSAM.PIXELS_READ_TEXT,
        recompute="pixel_decoder" in cfg.MODEL.RECOMPUTE,
    )


def build_pixel_decoder(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The pixel decoder that ``MODEL.PIXEL_DECODER.NAME`` names."""
    name = cfg.MODEL.PIXEL_DECODER.NAME
    build = registered(PIXEL_DECODER_REGISTRY, name, "MODEL.PIXEL_DECODER.NAME", "pixel decoder")
    return build(cfg, input_shape)
