"""The dicts of a dataset in little memory, which the data workers share."""

import os
import pickle
from array import array
from collections.abc import Sequence
from typing import Iterable, List


class PackedDicts(Sequence):
    """Dataset dicts as one block of bytes, each unpacked when it is asked for.

    As Python's objects they would be copied into every worker, page by page, whenever a count of references changes.
    Detectron2's ``DatasetFromList`` does the same, but holds everything twice while it packs, and a NumPy array per
    dict: of a million files that is most of the memory of the start.
    """

    def __init__(self, dicts: Iterable[dict]):
        self._bytes = bytearray()
        self._ends = array("q")
        for entry in dicts:
            self._bytes += pickle.dumps(entry, protocol=pickle.HIGHEST_PROTOCOL)
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} dicts, none of index {index}")
        start = self._ends[index - 1] if index else 0
        return pickle.loads(memoryview(self._bytes)[start : self._ends[index]])


class UnlabeledDicts(Sequence):
    """Dataset dicts of images without labels, each made from its path when it is asked for."""

    def __init__(self, paths: List[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return UnlabeledDicts(self.paths[index])
        path = self.paths[index]
        return {"file_name": path, "image_id": os.path.splitext(os.path.basename(path))[0]}
