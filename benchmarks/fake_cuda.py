"""CUDA tensors without a GPU: PyTorch's fake tensors have a device, a type and a shape, but no values.

An operation that mixes devices raises, as on a GPU. What asks for values gets plausible ones. Without a GPU there is no
backward pass: PyTorch's engine asks the driver for the device.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FOUND = 5  # how many elements a mask is said to select
NUMPY_TYPES = {torch.bool: bool, torch.uint8: np.uint8, torch.int64: np.int64, torch.float32: np.float32}


class PlausibleValues(TorchDispatchMode):
    """Answers operations whose result, or its shape, depends on values."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        if operation in ANSWERS:
            return ANSWERS[operation](*arguments, **options)
        if operation in INDEXING:
            arguments = (arguments[0], _without_masks(*arguments[:2]), *arguments[2:])
        return operation(*arguments, **options)


def _item(tensor: Tensor):
    try:
        return aten._local_scalar_dense.default(tensor)
    except DataDependentOutputException:
        return 1.0 if tensor.dtype.is_floating_point else 1


def _nonzero(mask: Tensor) -> Tensor:
    return mask.new_zeros((min(mask.numel(), FOUND), mask.dim()), dtype=torch.int64)


def _unique(values: Tensor, *_, **__) -> tuple[Tensor, Tensor, Tensor]:
    found = values.new_zeros(min(values.numel(), FOUND))
    return found, torch.zeros_like(values, dtype=torch.int64), torch.zeros_like(found, dtype=torch.int64)


def _bincount(values: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    return values.new_zeros(minlength) if weights is None else (weights + values).new_zeros(minlength)


def _without_masks(tensor: Tensor, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    found = []
    for index in indices:
        if index is None or index.dtype != torch.bool:
            found.append(index)
            continue
        assert index.device == tensor.device, f"a mask on {index.device} for a tensor on {tensor.device}"
        found += _nonzero(index).unbind(1)
    return found


ANSWERS = {
    aten._local_scalar_dense.default: _item,
    aten.nonzero.default: _nonzero,
    aten._unique2.default: _unique,
    aten.bincount.default: _bincount,
}
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def _numpy(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert a tensor on {tensor.device} to numpy")
    shape, dtype = tuple(tensor.shape), NUMPY_TYPES[tensor.dtype]
    # What is the same as what, which rows may be chosen: something everywhere, all things nowhere.
    return np.eye(*shape, dtype=dtype) if dtype is bool and len(shape) == 2 else np.ones(shape, dtype)


@contextlib.contextmanager
def fake_cuda(monkeypatch) -> Iterator[FakeTensorMode]:
    """Everything inside is fake; real tensors that meet it become fake ones on the CPU."""
    from detectron2.structures import ImageList

    from hiervl.modeling import triton_attention

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    monkeypatch.setattr(FakeTensor, "numpy", _numpy)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(triton_attention, "is_usable", lambda device, dtype: False)
    monkeypatch.setattr(ImageList, "from_tensors", staticmethod(_padded))  # Detectron2's computes sizes with tensors
    with mode, PlausibleValues():
        yield mode


def _padded(images, stride: int):
    from detectron2.structures import ImageList

    height, width = (-(-max(image.shape[side] for image in images) // stride) * stride for side in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for image, place in zip(images, batch):
        place[:, : image.shape[1], : image.shape[2]].copy_(image)
    return ImageList(batch, [tuple(image.shape[1:]) for image in images])


def move_to_cuda(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Replace all parameters and buffers; shared ones stay shared. To be called within :func:`fake_cuda`."""
    moved = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            on_cuda = mode.from_tensor(tensor.detach()).to("cuda")
            is_parameter = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = nn.Parameter(on_cuda, tensor.requires_grad) if is_parameter else on_cuda
        return moved[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})
    return module
