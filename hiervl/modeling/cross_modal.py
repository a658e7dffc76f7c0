"""CMSAM: text queries and pixel features read each other inside the pixel decoder (paper §3.3, eq. 1)."""

from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        query, source = self.norm_query(x), self.norm_source(source)
        # Fewer multiplications than keys and values of all sources: 2·heads·M·d per source against 2·(d + M)·d.
        if bias is None and query.shape[1] * (self.attention.num_heads - 1) < query.shape[2]:
            return x + self.scale * few_read_many(self.attention, query, source)
        return x + self.scale * self.attention(query, source, source, bias)


def few_read_many(attention: Attention, query: Tensor, source: Tensor) -> Tensor:
    """``attention(query, source, source)`` without keys and values: query (B, M, d), source (B, K, d) → (B, M, d).

    qᵀ(W_k x + b_k) = (W_kᵀ q)ᵀ x + a number that is the same for all sources, which the softmax takes out; and
    Σ a·(W_v x + b_v) = W_v Σ a·x + b_v. So the M queries of every head go through the projections, not the K sources.
    """

    def of_heads(projection: nn.Linear) -> Tensor:
        return projection.weight.unflatten(0, (attention.num_heads, -1))  # (heads, d/heads, d)

    q = attention.q_proj(query).unflatten(-1, (attention.num_heads, -1))  # (B, M, heads, d/heads)
    rows = torch.einsum("bmhe,hed->bhmd", q, of_heads(attention.k_proj)).flatten(1, 2).unsqueeze(1)
    source = source.to(rows.dtype).unsqueeze(1)
    read = F.scaled_dot_product_attention(rows, source, source, scale=q.shape[-1] ** -0.5)
    read = read.squeeze(1).unflatten(1, (attention.num_heads, -1))  # (B, heads, M, d)
    value = torch.einsum("bhmd,hed->bmhe", read, of_heads(attention.v_proj)).flatten(2)
    # The keys' bias has no effect; it takes part so that it has its gradient, which is 0.
    return attention.out_proj(value + (attention.v_proj.bias + 0 * attention.k_proj.bias))
