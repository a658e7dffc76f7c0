"""The inputs of prediction: files, folders, patterns and videos as a list of items with names for their results."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hiervl.data.folders.files import list_files
from hiervl.data.folders.kinds import Unused, describe_unused, unused_files
from hiervl.data.loading import file_types
from hiervl.utils.errors import UserError

IMAGE_SUFFIXES = (*file_types.IMAGE_SUFFIXES, ".jp2")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
DEFAULT_FPS = 25.0  # for videos without a frame rate


class Item(NamedTuple):
    """One image or video."""

    path: str
    name: str  # of its result files: a relative path with / between folders, without a suffix

    @property
    def is_video(self) -> bool:
        return self.path.lower().endswith(VIDEO_SUFFIXES)


def list_items(inputs: Sequence[str], output: str) -> list[Item]:
    """The images and videos of ``inputs``, sorted, each once.

    Args:
        inputs: files (of any suffix), folders and patterns with *, ** or ?. Folders are searched at any depth for files
            with a known suffix.
        output: folder of the results; files in it are no inputs.

    Raises:
        UserError: an input does not exist, or there is nothing to predict.
    """
    results = os.path.abspath(output)
    found: list[tuple[str, str]] = []  # path, name with suffix
    for text in inputs:
        found.extend(_files_of(text, results))
    items: list[Item] = []
    names: set[str] = set()
    seen: set[str] = set()
    for path, name in found:
        key = os.path.abspath(path)
        if key not in seen:
            seen.add(key)
            items.append(Item(path, _free_name(name, names)))
    if not items:
        others = describe_unused(left_out(inputs, output))
        raise UserError(
            f"no images or videos in {', '.join(inputs)}{f', but {others}' if others else ''} "
            f"({', '.join(KNOWN_SUFFIXES)})."
        )
    return items


def left_out(inputs: Sequence[str], output: str) -> list[Unused]:
    """Files in the folders of ``inputs`` that are neither images nor videos, except below ``output``."""
    results = os.path.abspath(output)
    found = []
    for folder in filter(os.path.isdir, inputs):
        for unused in unused_files(folder, KNOWN_SUFFIXES):
            files = tuple(file for file in unused.files if not _is_below(file, results))
            found += [unused._replace(files=files)] if files else []
    return found


def _files_of(text: str, results: str) -> list[tuple[str, str]]:
    if os.path.isfile(text):
        return [(text, os.path.basename(text))]
    if os.path.isdir(text):
        if os.path.abspath(text) == results or _is_below(text, results):
            raise UserError(f"the input '{text}' is in the folder of the results: name another one with --output.")
        files = sorted(path for path in list_files(text, KNOWN_SUFFIXES) if not _is_below(path, results))
        return [(path, os.path.relpath(path, text)) for path in files]
    if not glob.has_magic(text):
        raise UserError(f"the input '{text}' does not exist.")
    matches = sorted(path for path in glob.iglob(text, recursive=True) if _is_known(path) and os.path.isfile(path))
    if not matches:
        raise UserError(f"no image or video matches '{text}'.")
    # The folders before the first wildcard are the same for all matches: names leave them out.
    fixed = Path(*[part for part in _until_magic(Path(text).parts)])
    return [(path, os.path.relpath(path, fixed)) for path in matches if not _is_below(path, results)]


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _is_known(path: str) -> bool:
    return path.lower().endswith(KNOWN_SUFFIXES)


def _is_below(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(folder + os.sep)


def _free_name(name: str, taken: set[str]) -> str:
    """The name without its suffix. If another file has that name: with the suffix, and then with a number."""
    name = name.replace(os.sep, "/")
    candidates = [os.path.splitext(name)[0], name]
    number = 2
    while candidates[0].casefold() in taken:  # some file systems do not distinguish capitals
        candidates.pop(0)
        if not candidates:
            candidates.append(f"{name}_{number}")
            number += 1
    taken.add(candidates[0].casefold())
    return candidates[0]


class Video:
    """The frames of a video, one at a time."""

    def __init__(self, path: str):
        """Raises: UserError: it cannot be opened."""
        self.path = path
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise UserError(f"{path} cannot be read as a video: replace the file.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else DEFAULT_FPS

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 RGB. Raises: UserError: there are none."""
        is_empty = True
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            is_empty = False
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        self._capture.release()
        if is_empty:
            raise UserError(f"{self.path} holds no frame that can be read: replace the file.")
