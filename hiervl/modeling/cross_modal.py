"""CMSAM: text queries and pixel features read each other inside the pixel decoder (paper §3.3, eq. 1)."""

from typing import Tuple

import torch
from torch import Tensor, nn

from .layers import Attention


class CrossModalSpatialAlignment(nn.Module):
    """One exchange between text rows and pixels, each direction with its own switch.

    1. text reads pixels: q ← q + γ_t · Attention(LN(q), LN(x), LN(x));
    2. pixels read text: x ← x + γ_x · Attention(LN(x), LN(q), LN(q)), over the valid rows, log r on their scores.

    γ_t and γ_x start at 0, so that an untrained module leaves the pixel decoder as it is.
    """

    def __init__(
        self, dim: int, num_heads: int, *, text_reads_pixels: bool = True, pixels_read_text: bool = True
    ):
        super().__init__()
        self.text_reads_pixels = _Read(dim, num_heads) if text_reads_pixels else None
        self.pixels_read_text = _Read(dim, num_heads) if pixels_read_text else None

    def forward(self, pixels: Tensor, queries: Tensor, text_bias: Tensor) -> Tuple[Tensor, Tensor]:
        """pixels (B, P, d), queries (B, M, d), text_bias (B, M): log r, −inf on padding → both, updated."""
        if self.text_reads_pixels is not None:
            queries = self.text_reads_pixels(queries, pixels, None)
        if self.pixels_read_text is not None:
            pixels = self.pixels_read_text(pixels, queries, text_bias[:, None, None, :])
        return pixels, queries


class _Read(nn.Module):
    """x ← x + γ · Attention(LN(x), LN(source), LN(source))"""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm_query = nn.LayerNorm(dim)
        self.norm_source = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, source: Tensor, bias) -> Tensor:
        source = self.norm_source(source)
        return x + self.scale * self.attention(self.norm_query(x), source, source, bias)
