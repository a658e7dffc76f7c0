"""A dataset's dicts and paths in little memory, shared by the data workers."""

import os
import pickle
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


class _Packed(Sequence):
    """Values as one block of bytes; each is unpacked when needed.

    Python objects would be copied into every worker, page by page, because reference counts change.
    """

    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]

    def __init__(self, values: Iterable[Any] = ()):
        self._bytes = bytearray()
        self._ends = array("q")
        for value in values:
            self._bytes += self.pack(value)
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} values, none of index {index}")
        start = self._ends[index - 1] if index else 0
        return self.unpack(bytes(memoryview(self._bytes)[start : self._ends[index]]))


class PackedDicts(_Packed):
    """Dataset dicts.

    Detectron2's ``DatasetFromList`` does the same, but needs everything twice while packing, and a NumPy array per
    dict. With a million files that is most of the memory at the start.
    """

    pack = staticmethod(pickle.dumps)
    unpack = staticmethod(pickle.loads)


class PackedPaths(_Packed):
    """Paths, of which there may be millions."""

    pack = staticmethod(os.fsencode)
    unpack = staticmethod(os.fsdecode)

    def distinct(self) -> "PackedPaths":
        """Each path once, at its first place."""
        hashes = np.fromiter(map(hash, self), np.int64, len(self))
        hashes.sort()
        return PackedPaths(dict.fromkeys(self)) if (hashes[1:] == hashes[:-1]).any() else self


class UnlabeledDicts(Sequence):
    """Dataset dicts of images without labels; each is made from its path when needed."""

    def __init__(self, paths: Sequence):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return UnlabeledDicts(self.paths[index])
        path = self.paths[index]
        return {"file_name": path, "image_id": os.path.splitext(os.path.basename(path))[0]}
