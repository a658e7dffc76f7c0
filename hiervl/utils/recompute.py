"""Less memory for more time: parts of the network whose inside is computed again in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

RECOMPUTABLE = ("encoder", "pixel_decoder", "query_decoder", "losses")  # the parts that MODEL.RECOMPUTE may name


def maybe_recomputed(recompute: bool, function: Callable, *arguments) -> Any:
    """``function(*arguments)``; with ``recompute``, what is inside it is not kept for the backward pass, but computed
    again there, with the same random numbers."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)
