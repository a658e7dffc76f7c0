"""CMSAM: text queries and pixel features attend to each other inside the pixel decoder (paper §3.3, eq. 1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Attention, softmax

PADDING_SCORE = -1e4  # low enough that the weight of this score is 0


class CrossModalSpatialAlignment(nn.Module):
    """One exchange between text queries and pixels. Each direction has its own switch.

    1. text reads pixels: q ← q + γ_t · Attention(LN(q), LN(x), LN(x));
    2. pixels read text: x ← x + γ_x · Attention(LN(x), LN(q), LN(q)), over the valid queries, with log r added to their
       scores.

    γ_t and γ_x start at 0, so an untrained module changes nothing.
    """

    def __init__(self, dim: int, num_heads: int, *, text_reads_pixels: bool = True, pixels_read_text: bool = True):
        super().__init__()
        self.text_reads_pixels = _Read(dim, num_heads) if text_reads_pixels else None
        self.pixels_read_text = _Read(dim, num_heads) if pixels_read_text else None

    def forward(self, pixels: Tensor, queries: Tensor, text_bias: Tensor) -> tuple[Tensor, Tensor]:
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
        return x + self.scale * _attend(self.attention, query, source, bias)


def _attend(attention: Attention, query: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
    """``attention(query, source, source, bias)``. Text queries are in ``source`` if there is a bias, else in
    ``query``."""
    num_queries = query.shape[1] if bias is None else source.shape[1]
    if saves_on_few_queries(query.device, num_queries, attention.num_heads, query.shape[2]):
        return (
            few_read_many(attention, query, source) if bias is None else many_read_few(attention, query, source, bias)
        )
    return attention(query, source, source) if bias is None else read_valid(attention, query, source, bias)


def saves_on_few_queries(device: torch.device, num_queries: int, num_heads: int, dim: int) -> bool:
    """Whether :func:`few_read_many` and :func:`many_read_few` are faster than plain attention.

    Per pixel they need 2·heads·M·d multiplications for M text queries, instead of 2·(d + M)·d. A CPU gains from that.
    On CUDA fused attention is used, which keeps no scores. With 0 queries no kernel is called.
    """
    return num_queries == 0 or (device.type == "cpu" and num_queries * (num_heads - 1) < dim)


def read_valid(attention: Attention, query: Tensor, source: Tensor, bias: Tensor) -> Tensor:
    """``attention(query, source, source, bias)``. An image whose queries are all padding reads nothing.

    This is computed apart, because fused operations give different results if all scores are −inf.
    """
    is_padding = bias == float("-inf")  # (B, 1, 1, M)
    read = attention(query, source, source, bias.masked_fill(is_padding, PADDING_SCORE))
    is_empty = is_padding.all(-1).flatten(1).unsqueeze(-1)  # (B, 1, 1)
    return torch.where(is_empty, attention.out_proj.bias.to(read.dtype), read)


def few_read_many(attention: Attention, query: Tensor, source: Tensor) -> Tensor:
    """``attention(query, source, source)`` without keys and values: query (B, M, d), source (B, K, d) → (B, M, d).

    qᵀ(W_k x + b_k) = (W_kᵀ q)ᵀ x + a number that is the same for all sources and cancels in the softmax; Σ a·(W_v x +
    b_v) = W_v Σ a·x + b_v. So only the M queries of every head are projected, not the K sources.
    """
    heads = attention.num_heads
    q = attention.q_proj(query).unflatten(-1, (heads, -1))  # (B, M, heads, d/heads)
    projected = torch.einsum("bmhe,hed->bhmd", q, _head_weights(attention.k_proj, heads)).flatten(1, 2).unsqueeze(1)
    source = source.to(projected.dtype).unsqueeze(1)
    read = F.scaled_dot_product_attention(projected, source, source, scale=q.shape[-1] ** -0.5)
    read = read.squeeze(1).unflatten(1, (heads, query.shape[1]))  # (B, heads, M, d)
    value = torch.einsum("bhmd,hed->bmhe", read, _head_weights(attention.v_proj, heads)).flatten(2)
    # The bias of the keys has no effect. It is included so that it gets a gradient, which is 0.
    return attention.out_proj(value + (attention.v_proj.bias + 0 * attention.k_proj.bias))


def many_read_few(attention: Attention, query: Tensor, source: Tensor, bias: Tensor) -> Tensor:
    """``attention(query, source, source, bias)`` without projecting the P queries: query (B, P, d), source (B, M, d),
    bias (B, 1, 1, M) → (B, P, d).

    (W_q x + b_q)ᵀ k = xᵀ (W_qᵀ k) + b_qᵀ k, and W_o Σ a·v = Σ a·(W_o v). So only the M sources of every head are
    projected with W_q and W_o.
    """
    heads = attention.num_heads
    k = attention.k_proj(source).unflatten(-1, (heads, -1))  # (B, M, heads, d/heads)
    k = k * k.shape[-1] ** -0.5
    v = attention.v_proj(source).unflatten(-1, (heads, -1))
    keys = torch.einsum("bmhe,hed->bhmd", k, _head_weights(attention.q_proj, heads)).flatten(1, 2)  # (B, heads · M, d)
    # An image may have padding alone. A softmax over −inf alone would give NaN, so such an image reads 0.
    is_padding = bias[:, 0] == float("-inf")  # (B, 1, M)
    offset = torch.einsum("bmhe,he->bhm", k, attention.q_proj.bias.unflatten(0, (heads, -1)))
    offset = offset + bias[:, 0].masked_fill(is_padding, PADDING_SCORE)
    values = torch.einsum("bmhe,dhe->bhmd", v, attention.out_proj.weight.unflatten(1, (heads, -1)))
    values = values.masked_fill(is_padding.unsqueeze(-1), 0.0).flatten(1, 2)
    scores = query @ keys.transpose(1, 2) + offset.flatten(1).unsqueeze(1)  # (B, P, heads · M)
    weights = softmax(scores.unflatten(2, (heads, source.shape[1]))).flatten(2)
    return weights @ values + attention.out_proj.bias


def _head_weights(projection: nn.Linear, heads: int) -> Tensor:
    """The weight of every head: (heads, d/heads, d)."""
    return projection.weight.unflatten(0, (heads, -1))
