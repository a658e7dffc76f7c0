"""The contents of a folder: images and annotation files by folder, and the result of a survey."""

import filecmp
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from hiervl.data.classes.class_lists import LIST_NAMES
from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders import kinds
from hiervl.data.folders.files import MASK_SUFFIXES
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES
from hiervl.data.folders.formats.opening import MASKS, OF_KIND
from hiervl.data.folders.kinds import Kind, kind_of_file
from hiervl.data.folders.masks import MOSTLY_NEAR, NEAR
from hiervl.data.loading.readers import open_image
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

SPLIT_WORDS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Pascal VOC and CVAT: masks of classes, and beside them masks of objects of the same names, which say no classes.
CLASS_FOLDER, OBJECT_FOLDER = "SegmentationClass", "SegmentationObject"
SKIPPED = ("output", "outputs", "runs", "node_modules", "__pycache__", "__MACOSX")
LOOKED_AT = 12  # how many images of a folder are opened to distinguish photographs from masks
FEW_VALUES = 64  # most values or colours of a mask
READ_SINGLY = 20  # how many annotation files of a folder are read one by one
NO_CLASSES = ClassMap((), {}, {}, {}, (), Path())


@dataclass
class Place:
    """Images and their annotations, as paths below the folder."""

    images: str
    masks: str


@dataclass
class Survey:
    """The result of a survey.

    Attributes:
        folder: the surveyed folder; all paths are relative to it.
        form: a value of DATASET.FORMAT.
        places: of "train" (or the whole), "val" and "test".
        image_suffix, mask_suffix: of DATASET.
        unlabeled: folders of images without annotations.
        lists: list files of "train" and "val".
        class_lists: files that list classes.
        notes: what is not used, and why.
        mask_variable: of DATASET.
        mask_values: of DATASET; "": auto.
        has_both: annotation files that are not used lie among the masks that are.
    """

    folder: Path
    form: str = MASKS
    places: dict[str, Place] = field(default_factory=dict)
    image_suffix: str = ""
    mask_suffix: str = ""
    unlabeled: list[str] = field(default_factory=list)
    lists: dict[str, str] = field(default_factory=dict)
    class_lists: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mask_variable: str = ""
    mask_values: str = ""
    has_both: bool = False

    def path(self, relative: str) -> Path:
        """The full path of a relative path."""
        return self.folder / relative


@dataclass
class Contents:
    """Files of the whole tree: images by folder, annotation files by format and folder."""

    images: dict[str, list[str]] = field(default_factory=dict)  # folder → stems
    files: dict[str, list[Path]] = field(default_factory=dict)  # folder → image files
    annotations: dict[str, dict[str, list[Path]]] = field(default_factory=dict)  # format → folder → files
    class_lists: list[Path] = field(default_factory=list)
    lists: list[Path] = field(default_factory=list)
    overlays: set[str] = field(default_factory=set)  # folders that seem to hold overlays
    of_labeled_images: set[str] | None = None  # the only folders whose images may be labelled; None: all

    def may_be_labeled(self, folder: str) -> bool:
        return self.of_labeled_images is None or folder in self.of_labeled_images

    def are_copies(self, folder: str, other: str) -> bool:
        """Whether every picture in or below a folder is in another one, too, byte by byte."""
        own, others = self._files_below(folder), self._files_below(other)
        try:
            return own.keys() <= others.keys() and all(
                filecmp.cmp(path, others[name], shallow=False) for name, path in own.items()
            )
        except OSError:  # a link to nothing, a file that may not be read
            return False

    def _files_below(self, folder: str) -> dict[str, Path]:
        """By the paths below the folder."""
        return {
            f"{place}/{path.name}".removeprefix(folder).lstrip("/"): path
            for place, files in self.files.items() if lies_in(place, folder)
            for path in files
        }  # fmt: skip


def scan(folder: Path) -> Contents:
    contents = Contents()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not kinds.is_hidden(name) and name not in SKIPPED)
        if {CLASS_FOLDER, f"{CLASS_FOLDER}PNG"} & set(folders):
            folders[:] = [name for name in folders if not name.startswith(OBJECT_FOLDER)]
        relative = Path(place).relative_to(folder).as_posix().removeprefix(".")
        if relative and kinds.is_own_output(place, names):
            folders.clear()
            continue
        others: dict[str, list[Path]] = {}
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if kinds.is_hidden(name):
                continue
            if suffix in MASK_SUFFIXES:
                contents.images.setdefault(relative, []).append(os.path.splitext(name)[0])
                contents.files.setdefault(relative, []).append(Path(place) / name)
            elif suffix in (".json", ".xml", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".names"):
                others.setdefault(suffix, []).append(Path(place) / name)
        for files in others.values():
            _enter(contents, relative, files)
    return contents


def named_folders(folders: Iterable[str], root: Path, given: str) -> set[str]:
    """Those that the user names, and all below.

    Args:
        folders: paths below ``root``.
        given: the name of one or several folders, or a path, from ``root`` or as the user sees it.
    """
    path = Path(given).resolve()
    is_path = path.is_relative_to(root.resolve())
    wanted = (path.relative_to(root.resolve()) if is_path else Path(given)).parts
    if not wanted:
        return {folder for folder in folders if not folder}

    def is_in_it(folder: str) -> bool:
        parts = Path(folder).parts
        return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts)))

    return set(filter(is_in_it, folders))


def folders_above(folder: str) -> set[str]:
    """The folders that a folder lies in, up to the surveyed one, which is ""."""
    return {"" if str(path) == "." else str(path) for path in PurePosixPath(folder).parents}


def lies_in(folder: str, above: str) -> bool:
    """Whether a folder is another one, or lies below it; "" and "." are the surveyed one."""
    return above in ("", ".") or PurePosixPath(folder).is_relative_to(above)


def common_start(first: Sequence[str], second: Sequence[str]) -> int:
    """How many entries at the start of two lists are the same."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))


def keep_image_folder(contents: Contents, root: Path, image_folder: str) -> None:
    """All labelled images are in ``image_folder``, as in :func:`named_folders`.

    Raises:
        UserError: there are no images in it.
    """
    folders = set(contents.images).union(*map(folders_above, contents.images))
    contents.of_labeled_images = named_folders(folders, root, image_folder)
    if contents.of_labeled_images.isdisjoint(contents.images):
        raise UserError(
            f"--image-folder: there is no folder '{image_folder}' with images, but {listed(shown(contents.images))}."
        )


def shown(folders: Iterable[str]) -> list[str]:
    """Paths below the surveyed folder, for a sentence."""
    return [folder or "." for folder in folders]


def keep_masks(contents: Contents, mask_suffix: str) -> None:
    """Remove the masks with other names."""
    for place, files in list(contents.files.items()):
        kept = [path for path in files if path.stem.endswith(mask_suffix) or not looks_like_a_mask(path)]
        contents.files[place], contents.images[place] = kept, [path.stem for path in kept]
        if not kept:
            del contents.files[place], contents.images[place]


def _enter(contents: Contents, place: str, files: Sequence[Path]) -> None:
    """Add files with one suffix in one folder. If there are many, the first ones decide what all are. Empty files, as
    of YOLO's images without objects, are of the kind of the others."""
    looked_at = None if len(files) <= READ_SINGLY else kinds.LOOKED_AT
    found = {path: kind_of_file(path) for path in itertools.islice(filter(kinds.has_content, files), looked_at)}
    common: Kind | None = (
        Counter(kind for kind in found.values() if kind).most_common(1)[0][0] if any(found.values()) else None
    )
    for path in files:
        kind = found.get(path, common)
        if kind in OF_KIND:
            contents.annotations.setdefault(OF_KIND[kind], {}).setdefault(place, []).append(path)
        elif kind in kinds.CLASS_LISTS or path.name.lower() in LIST_NAMES:
            contents.class_lists.append(path)
        elif path.suffix.lower() == ".txt":
            contents.lists.append(path)


def share_of_masks(files: Sequence[Path]) -> float:
    sample = random.Random(0).sample(files, min(LOOKED_AT, len(files)))  # names often alternate: every second is a mask
    return sum(map(looks_like_a_mask, sample)) / len(sample)


def looks_like_a_mask(path: Path) -> bool:
    """Whether an image has few values or colours and is not a JPEG. Array files are always masks."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return True
    try:
        return 0 < count_values(path) <= FEW_VALUES
    except UserError:
        return False


def count_values(path: Path) -> int:
    """Number of values or colours in an image; 0 for a JPEG."""
    image = open_image(str(path))
    if image.format == "JPEG":
        return 0
    values = np.asarray(image if image.mode in ("1", "L", "P", "I", "I;16", "F") else image.convert("RGB"))
    if values.ndim == 3:
        values = values.astype(np.int32) @ np.array([65536, 256, 1])
    return len(np.unique(values))


def looks_like_a_blurred_mask(path: Path) -> bool:
    """Whether a JPEG is black and white, as masks are that were saved in the wrong format."""
    try:
        image = open_image(str(path))
    except UserError:
        return False
    if image.format != "JPEG":
        return False
    values = np.asarray(image.convert("RGB")).astype(np.int32)
    return bool((np.minimum(values, 255 - values).max(axis=2) <= NEAR).mean() >= MOSTLY_NEAR)


def split_of(path: str) -> str:
    """ "train", "val" or "test" by the last such word in a path; "train" without one."""
    words = re.split(r"[^a-z]+", path.lower())  # train2017 is train
    found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return found[-1] if found else "train"
