"""Deformable attention on CPUs: weighted sums of table rows instead of sampled maps.

A bilinear sample is a weighted sum of four pixels, so a query's output is a weighted sum of 4 · maps · points rows of
the projected maps. ``F.embedding_bag`` computes such sums straight from the maps as they lie in memory: no transposed
copy of the maps and no tensor of samples, which are most of what ``F.grid_sample`` costs here.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import scipy.sparse
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]


def sum_rows(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """``deformable_attention`` on a CPU in float32 or float64, with the same arguments."""
    return _SumOfRows.apply(value, locations, weights, tuple(shapes))


class _Neighbor(NamedTuple):
    """The lower or the upper pixel of every sample along one axis. All are (B, Q, heads · maps · points)."""

    row: Tensor  # int32: what it adds to the number of the table's row
    factor: Tensor  # of the bilinear sum; 0 outside the map
    slope: Tensor  # its derivative by the coordinate in pixels: −1, 1, or 0 outside the map


class _SumOfRows(torch.autograd.Function):
    """Sums rows of the value, seen as a table of (B · pixels · heads) rows, corner by corner.

    Only the inputs are saved: computing the corners again is cheaper than keeping them.
    """

    @staticmethod
    def forward(ctx, value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        batch, _, heads, head_dim = value.shape
        table, per_bag = value.reshape(-1, head_dim), weights.shape[3] * weights.shape[4]
        weights = weights.flatten(2)
        out = value.new_zeros(())
        for x, y in _corners(value, shapes, locations):
            rows, factor = (y.row + x.row).view(-1, per_bag), (weights * y.factor * x.factor).view(-1, per_bag)
            out = out + F.embedding_bag(rows, table, per_sample_weights=factor, mode="sum")
        return out.view(batch, -1, heads * head_dim)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        value, locations, weights = ctx.saved_tensors
        shape, per_bag = weights.shape, weights.shape[3] * weights.shape[4]
        table, grad = value.reshape(-1, value.shape[-1]), grad.reshape(-1, value.shape[-1])
        weights = weights.flatten(2)
        value_grad = weights_grad = x_grad = y_grad = value.new_zeros(())
        for x, y in _corners(value, ctx.shapes, locations):
            rows = (y.row + x.row).view(-1, per_bag)
            value_grad = value_grad + _scatter(rows, weights * y.factor * x.factor, grad, len(table))
            product = _dot_products(rows, grad, table).view(weights.shape)
            weights_grad = weights_grad + product * (x.factor * y.factor)
            product *= weights
            x_grad = x_grad + product * x.slope * y.factor
            y_grad = y_grad + product * x.factor * y.slope
        width, height = _per_sample(ctx.shapes, shape, weights)
        locations_grad = torch.stack((x_grad * width, y_grad * height), dim=-1).view(*shape, 2)
        return value_grad.view(value.shape), locations_grad, weights_grad.view(shape), None


def _corners(value: Tensor, shapes: Shapes, locations: Tensor) -> Iterator[tuple[_Neighbor, _Neighbor]]:
    """The four pixels around every sample, as (neighbour along x, neighbour along y).

    A pixel is row (image · pixels + first pixel of the map + y · width + x) · heads + head of the table.
    """
    batch, num_pixels, heads, _ = value.shape
    shape = locations.shape[:-1]
    width, height = _per_sample(shapes, shape, locations)
    first = torch.tensor([sum(h * w for h, w in shapes[:m]) for m in range(len(shapes))], dtype=torch.int32)
    first = (first * heads)[:, None] + torch.arange(heads, dtype=torch.int32)[:, None, None]
    first = first.expand(shape[2:]).flatten() + torch.arange(batch, dtype=torch.int32).view(-1, 1, 1) * (
        num_pixels * heads
    )
    along_x = _neighbors(locations[..., 0].flatten(2), width, heads, 0)
    along_y = _neighbors(locations[..., 1].flatten(2), height, (width * heads).int(), first)
    return ((x, y) for y in along_y for x in along_x)


def _per_sample(shapes: Shapes, shape: Sequence[int], like: Tensor) -> Tensor:
    """Width and height of the map of every sample: (2, heads · maps · points).

    Written out, because operations are several times slower if their innermost dimension has only a few numbers.
    """
    sizes = like.new_tensor([(w, h) for h, w in shapes]).T
    return sizes[:, None, :, None].expand(-1, *shape[2:]).flatten(1)


def _neighbors(coordinate: Tensor, size: Tensor, row_step, first_row) -> list[_Neighbor]:
    """The lower and the upper neighbour of coordinates (B, Q, heads · maps · points) in [0, 1]."""
    pixel = coordinate * size - 0.5
    lower = pixel.floor()
    fraction = pixel - lower
    lower = lower.nan_to_num(0.0)  # the row must exist; the fraction stays NaN, so the result does
    found = []
    for step, factor in ((0, 1 - fraction), (1, fraction)):
        at = lower + step
        nearest = torch.minimum(at.clamp(min=0), size - 1)
        is_inside = (nearest == at).to(factor.dtype)
        found.append(_Neighbor(nearest.int() * row_step + first_row, factor * is_inside, is_inside * (2 * step - 1)))
    return found


def _scatter(rows: Tensor, weights: Tensor, grad: Tensor, num_rows: int) -> Tensor:
    """Σ of weight · gradient over all places that read a row, computed with the transposed sparse matrix."""
    ends = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
    matrix = scipy.sparse.csr_matrix(
        (weights.flatten().numpy(), rows.flatten().numpy(), ends.numpy()), shape=(len(rows), num_rows)
    ).tocsc()
    readers, starts, weights = (torch.from_numpy(x) for x in (matrix.indices, matrix.indptr, matrix.data))
    return F.embedding_bag(readers, grad, starts, per_sample_weights=weights, mode="sum", include_last_offset=True)


def _dot_products(rows: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """(N, K) → (N · K,): the product of a row of ``grad`` (N, d) with each of its K rows of ``table``."""
    ends = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that its sparse tensors are in beta
        pattern = torch.sparse_csr_tensor(
            ends, rows.flatten(), grad.new_zeros(rows.numel()), (len(rows), len(table)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, grad, table.T, beta=0.0).values()
