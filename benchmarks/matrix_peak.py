"""What a device can multiply and what a program asks of it: the two sides of "share of the matrix peak"."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .timing import interleaved

SIDES = {"cpu": 2048, "cuda": 8192}


def matrix_peak(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """Floating-point operations a second of one large square matrix product, 2·n³ of them; median of ``repeats``."""
    side = SIDES[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = interleaved({"product": lambda _: left @ right}, device, repeats)["product"]
    return 2 * side**3 / seconds


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions that ``call`` runs, of its backward
    pass too; those computed again for it count again. Sampling, norms and other elementwise work do not count."""
    had_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter sees nothing of it, nor of attention in one piece
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)
    return counter.get_total_flops()
