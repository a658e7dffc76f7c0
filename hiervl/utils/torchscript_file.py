"""Read tensors from a TorchScript archive (``torch.jit.save``) without running any code in it.

``torch.jit.load`` compiles the archive's code, and ``torch.load(weights_only=True)`` refuses such files. But tensors
are plain entries of a zip archive, and ``data.pkl`` says to which attribute of which module each belongs. Reading it is
safe because:

- every operation in it must be one of :data:`OPERATIONS`; all are checked before the first is carried out;
- every name that it asks for must be in :data:`NAMES` or is a class of the archive. Each stands for something of this
  file, which builds a tensor from an entry or keeps values as they are; nothing is imported, and no attribute of
  anything else is set;
- entries must lie uncompressed in the archive, as PyTorch writes them, and no more bytes are read than the file has, so
  that a small file cannot unfold into a large one.
"""

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STRUCTURE, CONSTANTS = "/data.pkl", "/constants.pkl"
MAX_STRUCTURE_BYTES = 16 << 20  # bytes; CLIP ViT-L/14 has a few hundred thousand
MAX_PARTS = 100_000  # modules and tensors; CLIP has a few hundred of each
OPERATIONS = frozenset(
    "PROTO STOP MARK GLOBAL NEWOBJ REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET EMPTY_TUPLE TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINUNICODE SHORT_BINSTRING BINSTRING "
    "BININT BININT1 BININT2 LONG1 BINFLOAT NONE NEWTRUE NEWFALSE".split()
)
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
MODULES = "__torch__"  # how the names of the archive's own classes begin
# Errors of zipfile and unpicklers for senseless content, and of torch for sizes that do not fit.
DAMAGED = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, OSError, EOFError, KeyError, IndexError, TypeError,
    AttributeError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


def is_torchscript(path: str) -> bool:
    """Whether a file is such an archive. Files of ``torch.save`` have no constants."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return bool(_root(archive))
    except (ValueError, *DAMAGED):
        return False


def read_torchscript(path: str) -> dict[str, Tensor]:
    """The tensors of the archive's module, by the names that they have in its ``state_dict()``.

    Attributes that are tensors, but not parameters or buffers, cannot be recognised and are included.

    Raises:
        ValueError: it is damaged, holds something else, or would expand to more bytes than the file has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _Entries(archive, os.path.getsize(path))
            structure = entries.read(STRUCTURE, MAX_STRUCTURE_BYTES)
            _check_operations(structure)
            module = _Structure(structure, entries).load()
        return _tensors(module)
    except DAMAGED as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _root(archive: zipfile.ZipFile) -> str:
    """The top folder in the archive; "": it is not TorchScript."""
    names = set(archive.namelist())
    roots = [name.removesuffix(STRUCTURE) for name in names if name.endswith(STRUCTURE) and name.count("/") == 1]
    return next((root for root in roots if root + CONSTANTS in names), "")


class _Entries:
    """Reads entries of an archive, together at most as many bytes as the file has."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self.archive, self.root, self.left = archive, _root(archive), size
        if not self.root:
            raise ValueError("it is not a TorchScript archive")

    def read(self, name: str, most: int) -> bytes:
        """The bytes of an entry, with its checksum checked."""
        info = self.archive.getinfo(self.root + name)
        self.left -= info.file_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most or self.left < 0:
            raise ValueError(f"its entry {info.filename} is compressed, or too large")
        return self.archive.read(info)


def _check_operations(structure: bytes) -> None:
    for operation, argument, _ in pickletools.genops(structure):
        if operation.name not in OPERATIONS:
            raise ValueError(f"it uses the operation {operation.name}, which is not carried out")
        # Memory is reserved up to that number.
        if operation.name == "LONG_BINPUT" and int(argument or 0) > len(structure):
            raise ValueError("it numbers more values than it has")


class _Module:
    """A module of the archive: its attributes by name."""

    attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("the attributes of a module are no dictionary")
        self.attributes = state


class _Call:
    """A function that ``data.pkl`` may call. Unlike a plain function, it refuses attributes from there."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets attributes of a function")


class _Held:
    """A tensor that ``data.pkl`` can use, but not change."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets attributes of a tensor")


def _tensor(storage: _Held, offset: int, size: tuple, stride: tuple, *_: Any) -> _Held:
    """A view of a storage (n,). Other facts about a tensor in the archive are for training and are ignored."""
    if math.prod(size) > len(storage.tensor):  # a stride of 0 would make a large tensor from few bytes
        raise ValueError("a tensor is larger than what is stored of it")
    return _Held(storage.tensor.as_strided(size, stride, offset))


def _unchanged(value: Any, *_: Any) -> Any:
    """A list or dictionary, without the note about its type."""
    return value


def _hooks() -> dict:
    return {}


NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("collections", "OrderedDict"): _Call(_hooks),
    ("torch.jit._pickle", "restore_type_tag"): _Call(_unchanged),
    **{("torch.jit._pickle", f"build_{kind}list"): _Call(_unchanged) for kind in ("int", "double", "bool", "tensor")},
    **{("torch", name): name for name in DTYPES},
}


class _Structure(pickle.Unpickler):
    """Reads ``data.pkl``."""

    def __init__(self, content: bytes, entries: _Entries):
        super().__init__(io.BytesIO(content))
        self.entries = entries
        self.storages: dict[str, _Held] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.split(".")[0] == MODULES:
            return _Module
        if (module_name, global_name) not in NAMES:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is not called")
        return NAMES[module_name, global_name]

    def persistent_load(self, pid: Any) -> _Held:
        """('storage', its type, its number, device, count of elements) → (count,)."""
        _, kind, key, _, count = pid
        if key not in self.storages:
            size = count * DTYPES[kind].itemsize
            content = self.entries.read(f"/data/{key}", size)
            if len(content) != size:
                raise ValueError(f"its entry data/{key} has {len(content)} bytes instead of {size}")
            values = bytearray(content) or bytearray(DTYPES[kind].itemsize)  # frombuffer takes no empty one
            self.storages[key] = _Held(torch.frombuffer(values, dtype=DTYPES[kind])[:count])
        return self.storages[key]


def _tensors(module: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    ahead, parts = [("", module)], 0
    while ahead:
        prefix, part = ahead.pop()
        parts += 1
        if parts > MAX_PARTS:  # a module inside itself would never end
            raise ValueError(f"it has more than {MAX_PARTS} parts")
        if isinstance(part, _Held):
            found[prefix] = part.tensor
        elif isinstance(part, _Module):
            dot = f"{prefix}." if prefix else ""
            ahead.extend((f"{dot}{name}", value) for name, value in part.attributes.items())
    return found
