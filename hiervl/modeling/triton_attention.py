"""Deformable attention on CUDA devices: one Triton kernel forward and one backward.

Each program handles a few queries of one head. It reads the four pixels around every sample directly from the maps and
adds them in registers. There is no copy of the maps and no tensor of samples.
"""

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from hiervl.utils.transfer import to_device

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with PyTorch for CUDA on Linux
    triton = None

logger = logging.getLogger(__name__)
QUERIES_PER_PROGRAM = 32

if triton is not None:

    @triton.jit
    def _forward_kernel(
        value,
        locations,
        weights,
        maps,
        out,
        num_pixels,
        num_queries,
        HEADS: tl.constexpr,
        DIM: tl.constexpr,
        SAMPLES: tl.constexpr,
        POINTS: tl.constexpr,
        BLOCK_Q: tl.constexpr,
        BLOCK_D: tl.constexpr,
        ACCUMULATOR: tl.constexpr,
    ):
        """Grid: (blocks of queries, heads, images). ``maps``: width, height and first pixel of every map."""
        head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
        query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        channel = tl.arange(0, BLOCK_D)
        is_query, is_channel = query < num_queries, channel < DIM
        row = (image * num_queries + query) * HEADS + head
        total = tl.zeros((BLOCK_Q, BLOCK_D), dtype=ACCUMULATOR)
        for sample in range(SAMPLES):
            map_size = maps + 3 * (sample // POINTS)
            width, height, first = tl.load(map_size), tl.load(map_size + 1), tl.load(map_size + 2)
            at = row * SAMPLES + sample
            x = tl.load(locations + 2 * at, mask=is_query, other=0.0) * width - 0.5
            y = tl.load(locations + 2 * at + 1, mask=is_query, other=0.0) * height - 0.5
            weight = tl.load(weights + at, mask=is_query, other=0.0)
            left, upper = tl.floor(x), tl.floor(y)
            for corner in tl.static_range(4):
                column, line = left + corner % 2, upper + corner // 2
                factor = (1 - tl.abs(x - column)) * (1 - tl.abs(y - line))
                is_inside = is_query & (column >= 0) & (column < width) & (line >= 0) & (line < height)
                pixel = first + line.to(tl.int32) * width + column.to(tl.int32)
                place = ((image * num_pixels + pixel) * HEADS + head) * DIM
                pixels = tl.load(
                    value + place[:, None] + channel[None, :], mask=is_inside[:, None] & is_channel[None, :], other=0.0
                )
                total += (weight * factor)[:, None] * pixels
        mask = is_query[:, None] & is_channel[None, :]
        tl.store(out + row[:, None] * DIM + channel[None, :], total, mask=mask)

    @triton.jit
    def _backward_kernel(
        value,
        locations,
        weights,
        maps,
        grad,
        value_grad,
        locations_grad,
        weights_grad,
        num_pixels,
        num_queries,
        HEADS: tl.constexpr,
        DIM: tl.constexpr,
        SAMPLES: tl.constexpr,
        POINTS: tl.constexpr,
        BLOCK_Q: tl.constexpr,
        BLOCK_D: tl.constexpr,
        ACCUMULATOR: tl.constexpr,
    ):
        """The same grid. Gradients of the value are added with atomic operations, because many queries read one
        pixel."""
        head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
        query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        channel = tl.arange(0, BLOCK_D)
        is_query, is_channel = query < num_queries, channel < DIM
        row = (image * num_queries + query) * HEADS + head
        mask = is_query[:, None] & is_channel[None, :]
        out_grad = tl.load(grad + row[:, None] * DIM + channel[None, :], mask=mask, other=0.0).to(ACCUMULATOR)
        for sample in range(SAMPLES):
            map_size = maps + 3 * (sample // POINTS)
            width, height, first = tl.load(map_size), tl.load(map_size + 1), tl.load(map_size + 2)
            at = row * SAMPLES + sample
            x = tl.load(locations + 2 * at, mask=is_query, other=0.0) * width - 0.5
            y = tl.load(locations + 2 * at + 1, mask=is_query, other=0.0) * height - 0.5
            weight = tl.load(weights + at, mask=is_query, other=0.0)
            left, upper = tl.floor(x), tl.floor(y)
            by_x = tl.zeros((BLOCK_Q,), dtype=ACCUMULATOR)
            by_y = tl.zeros((BLOCK_Q,), dtype=ACCUMULATOR)
            by_weight = tl.zeros((BLOCK_Q,), dtype=ACCUMULATOR)
            for corner in tl.static_range(4):
                column, line = left + corner % 2, upper + corner // 2
                x_factor, y_factor = 1 - tl.abs(x - column), 1 - tl.abs(y - line)
                is_inside = is_query & (column >= 0) & (column < width) & (line >= 0) & (line < height)
                pixel = first + line.to(tl.int32) * width + column.to(tl.int32)
                place = (((image * num_pixels + pixel) * HEADS + head) * DIM)[:, None] + channel[None, :]
                is_read = is_inside[:, None] & is_channel[None, :]
                pixels = tl.load(value + place, mask=is_read, other=0.0).to(ACCUMULATOR)
                # Nothing reads the sums before the kernel ends, so relaxed order is enough.
                tl.atomic_add(
                    value_grad + place, (weight * x_factor * y_factor)[:, None] * out_grad, mask=is_read, sem="relaxed"
                )
                product = tl.sum(pixels * out_grad, axis=1)  # 0 outside the map
                by_weight += product * x_factor * y_factor
                by_x += product * y_factor * (2 * (corner % 2) - 1)
                by_y += product * x_factor * (2 * (corner // 2) - 1)
            tl.store(weights_grad + at, by_weight, mask=is_query)
            tl.store(locations_grad + 2 * at, by_x * weight * width, mask=is_query)
            tl.store(locations_grad + 2 * at + 1, by_y * weight * height, mask=is_query)


class _FusedSampling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, locations: Tensor, weights: Tensor, shapes) -> Tensor:
        value, locations, weights = (x.contiguous() for x in (value, locations, weights))
        batch, num_pixels, heads, head_dim = value.shape
        queries = locations.shape[1]
        maps = _maps(shapes, value.device)
        out = value.new_empty(batch, queries, heads * head_dim)
        with torch.cuda.device_of(value):  # Triton launches on the current device
            _forward_kernel[_grid(batch, queries, heads)](
                value, locations, weights, maps, out, num_pixels, queries, **_constants(value, weights)
            )
        ctx.save_for_backward(value, locations, weights, maps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        value, locations, weights, maps = ctx.saved_tensors
        batch, num_pixels, heads, _ = value.shape
        queries = locations.shape[1]
        value_grad = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
        locations_grad, weights_grad = torch.empty_like(locations), torch.empty_like(weights)
        with torch.cuda.device_of(value):
            _backward_kernel[_grid(batch, queries, heads)](
                value,
                locations,
                weights,
                maps,
                grad.contiguous(),
                value_grad,
                locations_grad,
                weights_grad,
                num_pixels,
                queries,
                **_constants(value, weights),
            )
        return value_grad.to(value.dtype), locations_grad, weights_grad, None


def _maps(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    first, rows = 0, []
    for height, width in shapes:
        rows.append((width, height, first))
        first += height * width
    return to_device(torch.tensor(rows, dtype=torch.int32), device)


def _grid(batch: int, queries: int, heads: int) -> tuple[int, int, int]:
    return triton.cdiv(queries, QUERIES_PER_PROGRAM), heads, batch


def _constants(value: Tensor, weights: Tensor) -> dict:
    heads, head_dim = value.shape[2:]
    maps, points = weights.shape[3:]
    return {
        "HEADS": heads,
        "DIM": head_dim,
        "SAMPLES": maps * points,
        "POINTS": points,
        "BLOCK_Q": QUERIES_PER_PROGRAM,
        "BLOCK_D": triton.next_power_of_2(head_dim),
        "ACCUMULATOR": tl.float64 if value.dtype == torch.float64 else tl.float32,
    }


def fused_sampling(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """``deformable_attention`` on a CUDA device, with the same arguments.

    ``value`` and the result may be in half precision; sums are float32. Locations and weights are float32 (or all three
    are float64).
    """
    return _FusedSampling.apply(value, locations, weights, tuple(shapes))


@functools.cache
def is_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels can be built and run on this device for this type (each type has its own kernels). Tried
    once. False without Triton or the C compiler that it needs."""
    if triton is None or device.type != "cuda":
        return False
    try:
        try_kernels(device, dtype)
    except torch.cuda.OutOfMemoryError:  # says nothing about the kernels
        raise
    except Exception as error:  # Triton's errors depend on driver, compiler and version
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        logger.warning("The fused kernel of deformable attention is not used on %s (%s): %s", device, dtype, reason)
        return False
    return True


def try_kernels(device: torch.device, dtype: torch.dtype) -> None:
    """Sample a single pixel, forward and backward. Raises any error that occurs."""
    # The first caller may be an evaluation, or a layer that is recomputed in the backward pass (``maybe_recomputed``).
    # Tensors saved here do not belong to that layer.
    with torch.inference_mode(False), torch.enable_grad(), saved_tensors_hooks(_as_it_is, _as_it_is):
        precise = torch.promote_types(dtype, torch.float32)
        value = torch.ones(1, 1, 1, 16, device=device, dtype=dtype, requires_grad=True)
        locations = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=device, dtype=precise)
        weights = torch.ones(1, 1, 1, 1, 1, device=device, dtype=precise)
        out = fused_sampling(value, [(1, 1)], locations, weights)
        (gradient,) = torch.autograd.grad(out.sum(), value)
    if not (torch.allclose(out, torch.ones_like(out)) and torch.allclose(gradient, torch.ones_like(value))):
        raise RuntimeError("its result on a single pixel is wrong")


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
