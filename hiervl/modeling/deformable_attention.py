"""Multi-scale deformable attention (Deformable DETR, eq. 3) without a compiled operator, on any device.

On the CPU samples are sums of table rows (``row_sampling.py``). On CUDA a Triton kernel computes them if it can be
built. Elsewhere, and in exported networks, ``grid_sample`` does.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.modeling import triton_attention
from hiervl.utils.transfer import to_device

from .layers import HasExportForm, softmax
from .row_sampling import sum_rows


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples of ``value``.

    Args:
        value: (B, Σ H_l·W_l, heads, d/heads), the flattened maps one after the other.
        shapes: (H_l, W_l) of every map.
        locations: (B, Q, heads, maps, points, 2), x and y in [0, 1] of each map; outside it the value is 0.
        weights: (B, Q, heads, maps, points), which sum to 1 over maps and points.

    Returns:
        (B, Q, d)

    It is computed by :func:`sum_rows` on a CPU, by :func:`fused_sampling` on CUDA if that can be built, and by
    :func:`sampled_maps` elsewhere.
    """
    with torch.autocast(value.device.type, enabled=False):  # in half precision the points would be off by 0.1 pixel
        precise = torch.promote_types(value.dtype, torch.float32)
        locations, weights = locations.to(precise), weights.to(precise)
        if triton_attention.is_usable(value.device, value.dtype):
            return triton_attention.fused_sampling(value, shapes, locations, weights)
        compute = sum_rows if value.device.type == "cpu" else sampled_maps
        return compute(value.to(precise), shapes, locations, weights)


def sampled_maps(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The same with ``F.grid_sample``, map by map. Works on any device, but copies the maps and keeps every sample."""
    batch, _, heads, head_dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    maps = value.split([h * w for h, w in shapes], dim=1)
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (maps, B·heads, Q, points, 2)

    samples: list[Tensor] = []
    for (height, width), flat, grid in zip(shapes, maps, grids):
        image = flat.permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width)
        samples.append(F.grid_sample(image, grid, align_corners=False))
    sampled = torch.cat(samples, dim=-1)  # (B·heads, d/heads, Q, maps·points)

    weights = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, len(shapes) * points)
    out = (sampled * weights).sum(-1)  # (B·heads, d/heads, Q)
    return out.reshape(batch, heads * head_dim, queries).transpose(1, 2)


class DeformableAttention(HasExportForm, nn.Module):
    """Every query attends to a few points of every map. Their offsets from its reference point are learnt."""

    def __init__(self, dim: int, num_maps: int, num_heads: int, num_points: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not a multiple of the {num_heads} attention heads")
        self.num_maps, self.num_heads, self.num_points = num_maps, num_heads, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_maps * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_maps * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """At first each head looks in its own direction, and its k-th point is k pixels away."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None, :] * distance[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_maps, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference_points: Tensor, maps: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """query (B, Q, d), reference_points (1 or B, Q, 2) in [0, 1], maps (B, Σ H_l·W_l, d) → (B, Q, d)."""
        batch, queries, _ = query.shape
        heads, levels, points = self.num_heads, self.num_maps, self.num_points
        value = self.value_proj(maps).unflatten(-1, (heads, -1))
        weights = self.attention_weights(query).view(batch, queries, heads, levels * points)
        weights = softmax(weights).view(batch, queries, heads, levels, points)
        # Offsets are in pixels of their map: divide by (width, height) to reach [0, 1]. The tensors keep long innermost
        # dimensions: CPUs are several times slower if these have only a few numbers.
        pixels = self._sizes(shapes, query)[:, None].expand(heads, -1, points, 2).flatten()
        reference_points = reference_points.repeat(1, 1, heads * levels * points)
        locations = reference_points + self.sampling_offsets(query) / pixels
        locations = locations.view(batch, queries, heads, levels, points, 2)
        attend = sampled_maps if self.export_form else deformable_attention
        return self.output_proj(attend(value, shapes, locations, weights))

    def _sizes(self, shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """Width and height of every map: (maps, 2)."""
        if not self.export_form:
            return to_device(torch.tensor([(w, h) for h, w in shapes], dtype=like.dtype), like.device)
        sides = [like.new_full((), side) for h, w in shapes for side in (w, h)]
        return torch.stack(sides).view(len(shapes), 2)


def reference_points(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Centres of all pixels of all maps: (1, Σ H_l·W_l, 2), x and y in [0, 1]."""
    centers = []
    for height, width in shapes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centers.append(torch.stack((grid_x, grid_y), -1).flatten(0, 1))
    return torch.cat(centers).unsqueeze(0)
