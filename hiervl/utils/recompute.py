"""Trade time for memory: compute parts of the network again in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

RECOMPUTABLE = ("encoder", "pixel_decoder", "query_decoder", "losses")  # the parts that MODEL.RECOMPUTE may name


def maybe_recomputed(recompute: bool, function: Callable, *arguments) -> Any:
    """``function(*arguments)``. With ``recompute``, its inner tensors are not kept but computed again in the backward
    pass, with the same random numbers."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)
