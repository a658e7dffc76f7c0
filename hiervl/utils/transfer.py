"""Moving tensors between the host and the device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor.to(device)`` without waiting for a CUDA device to finish its work.

    For that the tensor must be in pinned memory; if it is not, it is copied there first.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu" or not torch.cuda.is_available():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
