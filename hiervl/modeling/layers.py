"""Small layers that several parts of the network share."""

import contextlib
import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# How many numbers the widest CPU instructions process at once.
CPU_LANES = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


class HasExportForm:
    """A part that can compute its result in a second way, without Python branches on sizes or values of the input.
    ``export_form`` selects this way, so that one exported graph is right for all inputs.
    """

    export_form = False


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switch mixed precision off. Does nothing if it is off already, so that exported graphs do not record it."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def softmax(x: Tensor) -> Tensor:
    """``x.softmax(-1)``, fast also for a short last dimension: PyTorch's is up to five times slower on a CPU if that
    dimension has fewer numbers than the widest instructions process."""
    missing = CPU_LANES - x.shape[-1]
    if x.device.type != "cpu" or missing <= 0:
        return x.softmax(-1)
    return F.pad(x, (0, missing), value=-math.inf).softmax(-1)[..., :-missing]


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU between them: (…, in_dim) → (…, out_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in zip(widths[:-1], widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (eq. 1) with an additive bias on the attention scores."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not a multiple of the {num_heads} attention heads")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """query (B, Q, d), key and value (B, K, d) → (B, Q, d).

        ``bias``, broadcastable to (B, heads, Q, K): bool (True attends) or float (added to the scores).
        """

        def split_heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, n, d) → (B, heads, n, d/heads)

        q, k, v = split_heads(self.q_proj(query)), split_heads(self.k_proj(key)), split_heads(self.v_proj(value))
        if bias is not None and bias.dtype != torch.bool:
            bias = bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class SinePositionEmbedding(nn.Module):
    """Two-dimensional sine position embedding of DETR, normalised to [0, 2π] over the map."""

    def __init__(self, dim: int, temperature: float = 10000.0):
        super().__init__()
        if dim % 4:
            raise ValueError(f"a two-dimensional sine embedding needs a width divisible by 4, not {dim}")
        self.num_frequencies = dim // 2
        self.temperature = temperature

    def forward(self, height: int, width: int, device: torch.device) -> Tensor:
        """→ (1, dim, height, width), the first half of the channels from y, the second from x."""

        def encode(length: int) -> Tensor:
            position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
            position = position / (length + 1e-6) * 2 * math.pi
            exponent = torch.arange(self.num_frequencies, device=device, dtype=torch.float32)
            exponent = 2 * torch.div(exponent, 2, rounding_mode="floor") / self.num_frequencies
            angle = position[:, None] / self.temperature**exponent  # (length, frequencies)
            return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

        y = encode(height).T[:, :, None].expand(-1, height, width)
        x = encode(width).T[:, None, :].expand(-1, height, width)
        return torch.cat((y, x)).unsqueeze(0)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of a (B, C, H, W) map."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that also takes a map of a single pixel, which ``F.group_norm`` refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups, or with fewer if the channels need that."""
    return GroupNorm(math.gcd(32, channels), channels)
