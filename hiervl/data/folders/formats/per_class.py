"""One mask per class: an image has several masks of two values, distinguished by parts of their names or by folders.

``photo_cap.png`` and ``photo_stem.png``, or ``cap_photo.png`` and ``stem_photo.png``, or ``cap/photo.png`` and
``stem/photo.png``, or ``photo/cap.png`` and ``photo/stem.png``. The part of the name, or the folder, is the class's
name or its ``mask_name`` in the class file. Label Studio's PNG export is also of this kind
(``task-7-annotation-9-by-1-tag-cap-0.png``); the project's JSON export says which image a task has.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES, read_array
from hiervl.data.folders.formats.class_layers import OVERLAPS, paint_layers
from hiervl.data.folders.formats.image_names import ImageNames, without_zeros
from hiervl.data.folders.formats.label_studio import image_of, read_tasks
from hiervl.data.folders.formats.source import reading
from hiervl.data.folders.kinds import LABEL_STUDIO, kind_of_file
from hiervl.data.folders.masks import LABEL, MAX_LISTED, RawMask
from hiervl.data.folders.pairing import LABEL_STUDIO_PNG, PLACE
from hiervl.data.loading import readers
from hiervl.data.loading.turns import UPRIGHT
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

KIND = "one mask per class"
SEPARATORS = "_-. /"
LOOKED_AT = 5  # masks of one kind, to see whether they show several classes
MISSING = (
    "masks of a class are missing that nearly all images have: look for them; without one the class counts as absent"
)
MANY_IMAGES, NEARLY_ALL = 6, 0.8
NAMES = tuple((image_first, by_number) for by_number in (False, True) for image_first in (True, False))


class ClassMask(NamedTuple):
    """A file that shows one class of one image."""

    image: str  # stem of the image
    part: str  # what names the class: the rest of the name, or the folder
    path: Path
    by_number: bool = False  # the name differs from the image's in the zeros in front of numbers


class ClassMasks:
    """Masks of one class each, combined into one label map in the order of the class file.

    Pixels without a class are background, if there is such a class; else they do not count.
    """

    kind = KIND
    has_instances = False

    def __init__(self, found: Iterable[ClassMask], class_map: ClassMap, images: Mapping[str, Path]):
        """
        Raises:
            UserError: a file's class is not in the class file, or two files of a class have one number.
        """
        self.class_map, self.images = class_map, images
        entries = entries_by_part(class_map)
        order = {name: place for place, name in enumerate(class_map.names)}
        self.by_number: dict[str, str] = {}  # stem of the image → a mask that is its own by the number alone
        unknown: dict[str, list[Path]] = {}
        masks: dict[str, list[tuple[str, Path]]] = {}
        for item in found:
            name = entries.get(normal(item.part))
            if name is None:
                unknown.setdefault(item.part, []).append(item.path)
            else:
                masks.setdefault(item.image, []).append((name, item.path))
            if item.by_number:
                self.by_number[item.image] = str(item.path)
        if unknown:
            known = {name for own in masks.values() for name, _ in own}
            raise UserError(_not_classes(unknown, sorted(known, key=order.__getitem__), class_map))
        for image in self.by_number:
            _refuse_doubled(image, masks[image])
        self.keys = {image: sorted(own, key=lambda pair: order[pair[0]]) for image, own in sorted(masks.items())}
        count = Counter(name for own in masks.values() for name, _ in own)
        self.usual = {name for name in count if len(masks) >= MANY_IMAGES and count[name] >= NEARLY_ALL * len(masks)}

    def mask_files(self) -> list[Path]:
        """All mask files, because they may be in the folder of the images."""
        return [path for own in self.keys.values() for _, path in own]

    def name(self, key: str) -> str:
        files = [path for _, path in self.keys[key]]
        return f"{files[0]}" + (f" (and {len(files) - 1} more of this image)" if len(files) > 1 else "")

    def stamp(self, key: str) -> tuple:
        files = [
            (name, str(path.absolute()), path.stat().st_mtime_ns, path.stat().st_size) for name, path in self.keys[key]
        ]
        return self.kind, files, sorted(self.class_map.names.items()), self.class_map.background, sorted(self.usual)

    def frame(self, key: str, image: readers.Frame) -> readers.Frame | None:
        path = self.keys[key][0][1]
        if path.suffix.lower() not in ARRAY_SUFFIXES:
            return readers.frame_or_none(path)
        if image.orientation in (None, UPRIGHT):
            return None
        height, width = read_binary(path).shape
        return readers.Frame((height, width), None)

    def as_it_is(self, key: str) -> bool:
        return False

    def raw(self, key: str) -> RawMask:
        labels, overlapping = self._paint(key)
        missing = len(self.usual - {name for name, _ in self.keys[key]})
        remarks = {OVERLAPS: overlapping, MISSING: missing}
        return RawMask(LABEL, labels, remarks={remark: number for remark, number in remarks.items() if number})

    def labels(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, None]:
        """
        Raises:
            UserError: a mask is broken, has another size (height, width) than ``size``, or shows more than one class.
        """
        labels, _ = self._paint(key)
        if labels.shape != tuple(size):
            raise UserError(
                f"{self.name(key)} is {labels.shape[1]}×{labels.shape[0]} pixels, but its image is "
                f"{size[1]}×{size[0]}: the two must have the same size."
            )
        return labels, None

    def _paint(self, key: str) -> tuple[np.ndarray, int]:
        """The label map, and the number of pixels with several classes."""
        return paint_layers(self._layers(key), self.class_map)

    def _layers(self, key: str) -> Iterator[tuple[str, np.ndarray]]:
        size = None
        for name, path in self.keys[key]:
            mask = read_binary(path)
            size = size or mask.shape
            if mask.shape != size:
                raise UserError(
                    f"{path} is {mask.shape[1]}×{mask.shape[0]} pixels, but another mask of its image is "
                    f"{size[1]}×{size[0]}: export them in one size."
                )
            yield name, mask


def _refuse_doubled(image: str, masks: list[tuple[str, Path]]) -> None:
    """Raise a UserError if two masks of an image show one class, since the number alone says that they are its own."""
    first: dict[str, Path] = {}
    for name, path in masks:
        if name in first:
            raise UserError(
                f"{first[name]} and {path} both show '{name}' and have the number of the image {image}: give every "
                "mask the name of its image."
            )
        first[name] = path


def read_binary(path: Path) -> np.ndarray:
    """A mask of two values, one of them 0 or black → (H, W) bool, True elsewhere.

    Raises:
        UserError: the file is broken or holds more values.
    """
    values = _values(path)
    shown = np.unique(values)
    if len(shown) > 2 or (len(shown) == 2 and shown[0] != 0):
        raise UserError(
            f"{path} holds {len(shown)} values ({listed(list(shown), MAX_LISTED)}), but a mask of one class holds 0 "
            "and one other: export it as "
            "PNG without smoothing, or set DATASET.MASK_SUFFIX if these masks show all classes."
        )
    return values != 0


def _values(path: Path) -> np.ndarray:
    """The values of a mask, (H, W); of colours the brightest channel."""
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        image = readers.open_mask(str(path))
        values = np.array(image if image.mode in readers.INDEX_MODES else image.convert("RGB"))
        return values.max(axis=2) if values.ndim == 3 else values
    values = read_array(path)
    if values.ndim == 3:
        size = "×".join(map(str, values.shape))
        raise UserError(f"{path} holds an array of {size}, but a mask of one class is one map (height, width).")
    return values


def entries_by_part(class_map: ClassMap) -> dict[str, str]:
    """Entries of the class file by their name in file names or folders, see :func:`normal`."""
    names = {normal(name): name for name in class_map.names}
    return {**names, **{normal(part): name for part, name in class_map.mask_names.items()}}


def normal(part: str) -> str:
    """Normalise a name: case and separators do not matter."""
    return re.sub(r"[_\-. ]+", " ", part.strip(SEPARATORS)).casefold()


# ---------------------------------------------------------------------------- finding them


def find_class_masks(
    masks: Mapping[str, Path], images: Iterable[str], class_map: ClassMap, beside: bool = False
) -> list[ClassMask] | None:
    """The masks as masks of one class each; None if they are not of this kind.

    Args:
        masks, images: by relative path without suffix.
        beside: masks and images are in one folder, so each list contains both.

    Raises:
        UserError: they are from Label Studio, and no file says which image a task has.
    """
    images = set(images)
    studio = {stem: found for stem in masks if (found := LABEL_STUDIO_PNG.fullmatch(stem.rsplit("/", 1)[-1]))}
    if studio and len(studio) >= len(masks) / 2:
        return _label_studio_masks(studio, masks, images)
    if beside:
        return _among_images(masks, images, class_map)
    return by_names_and_folders(masks, images, class_map)


def by_names_and_folders(masks: Mapping[str, Path], images: set[str], class_map: ClassMap) -> list[ClassMask] | None:
    """The first way to read their names and folders that fits."""
    return next(
        (found for way in (by_name, by_folder, by_image_folder) if (found := way(masks, images, class_map))), None
    )


def _among_images(masks: Mapping[str, Path], images: set[str], class_map: ClassMap) -> list[ClassMask] | None:
    """``photo.jpg`` and ``photo_cap.png`` in one folder; only the names of classes tell them apart."""
    entries, names = entries_by_part(class_map), ImageNames(images)
    found = []
    for stem, path in masks.items():
        split = next((split for split in read_name(stem, names) if normal(split.part) in entries), None)
        if split is not None:
            found.append(ClassMask(split.image, split.part, path, split.by_number))
    return found or None


def by_name(masks: Mapping[str, Path], images: set[str], class_map: ClassMap) -> list[ClassMask] | None:
    """Masks such as ``photo_cap`` or ``cap_photo`` of the image ``photo``. Masks with the image's own name are not of
    this kind. If several readings are possible, the one counts in which all parts are classes, else the first."""
    if any(stem in images for stem in masks):
        return None
    names, entries = ImageNames(images), entries_by_part(class_map)
    readings = []
    for way in NAMES:
        splits = [(_split_name(stem, names, *way), path) for stem, path in masks.items()]
        found = [ClassMask(split.image, split.part, path, split.by_number) for split, path in splits if split]
        if len(found) == len(masks) and _is_per_class(found, class_map):
            readings.append(found)
    of_classes = (found for found in readings if all(normal(item.part) in entries for item in found))
    return next(of_classes, readings[0] if readings else None)


class SplitName(NamedTuple):
    """The name of a mask, divided."""

    image: str
    part: str
    by_number: bool


def read_name(stem: str, names: ImageNames) -> Iterator[SplitName]:
    """All ways to divide the name of a mask into that of an image and a part."""
    return (split for way in NAMES if (split := _split_name(stem, names, *way)) is not None)


def _split_name(stem: str, names: ImageNames, image_first: bool, by_number: bool) -> SplitName | None:
    """The image whose name is the longest beginning (or end) of the mask's name, and the rest of the name.

    Args:
        image_first: the image's name is the beginning.
        by_number: zeros in front of numbers may differ.
    """
    folder, _, base = stem.rpartition("/")
    places = [place for place, character in enumerate(base) if character in SEPARATORS]
    parts = [(base[:place], base[place:]) for place in reversed(places)]
    if not image_first:
        parts = [(base[place + 1 :], base[: place + 1]) for place in places]
    for image, part in parts:
        if image and part.strip(SEPARATORS):
            path = f"{folder}/{image}" if folder else image
            exact = path if path in names.stems else names.unique.get(image)
            found = exact or (names.by_number(image) if by_number else None)
            if found is not None:
                return SplitName(found, part, exact is None)
    return None


def by_folder(masks: Mapping[str, Path], images: set[str], class_map: ClassMap) -> list[ClassMask] | None:
    """Masks such as ``cap/photo`` of the image ``photo``. The folder may be at any place in the path."""
    if {without_zeros(stem) for stem in masks} <= {without_zeros(stem) for stem in images}:
        return None  # each of them is the mask of the image of the same path
    names = ImageNames(images)
    found = []
    for stem, path in masks.items():
        parts = stem.split("/")
        for place in range(len(parts) - 1):
            rest: str | None = "/".join(parts[:place] + parts[place + 1 :])
            exact = rest in images
            if not exact and place == len(parts) - 2:
                rest = names.unique.get(parts[-1])
                exact = rest is not None
                rest = rest or names.by_number(parts[-1])
            if rest in images:
                found.append(ClassMask(rest, parts[place], path, not exact))
                break
    return found if _is_per_class(found, class_map) else None


def by_image_folder(masks: Mapping[str, Path], images: set[str], class_map: ClassMap) -> list[ClassMask] | None:
    """``photo/cap`` of the image ``photo``; the names of classes tell that it is of this kind, where there are any."""
    names, entries = ImageNames(images), entries_by_part(class_map)
    found = []
    for stem, path in masks.items():
        folder, _, part = stem.rpartition("/")
        exact = names.find(folder) if folder else None
        image = exact or (names.by_number(folder) if folder else None)
        if image is None or (entries and normal(part) not in entries):
            return None
        found.append(ClassMask(image, part, path, exact is None))
    return found or None


def _is_per_class(found: list[ClassMask], class_map: ClassMap) -> bool:
    """Whether an image has several masks, or a mask has the name of a class."""
    if not found:
        return False
    entries = entries_by_part(class_map)
    return len({item.image for item in found}) < len(found) or any(normal(item.part) in entries for item in found)


def _label_studio_masks(studio: Mapping[str, re.Match], masks: Mapping[str, Path], images: set[str]) -> list[ClassMask]:
    folder = next(iter(masks.values())).parent
    export = _find_export(folder)
    if export is None:
        raise UserError(
            f"{folder} holds masks of Label Studio's PNG export, whose names have the task's number, not the image's "
            "name: export the project as JSON, too, and put that file into this folder or the one above."
        )
    names = ImageNames(images)
    with reading(str(export), LABEL_STUDIO.name):
        image_of_task = {int(task["id"]): image_of(task, names) for task in read_tasks(export)}
    newest: dict[int, int] = {}
    for found in studio.values():
        task = int(found["task"])
        newest[task] = max(newest.get(task, 0), int(found["annotation"]))
    result = []
    for stem, found in studio.items():
        task = int(found["task"])
        written = image_of_task.get(task)
        if int(found["annotation"]) != newest[task]:
            continue
        image = names.find(written) if written is not None else None
        result.append(ClassMask(image or f"task {task}", found["tag"], masks[stem]))
    return result


def _find_export(folder: Path) -> Path | None:
    for place in (folder, folder.parent):
        for path in sorted(place.glob("*.json")):
            if kind_of_file(path) == LABEL_STUDIO:
                return path
    return None


def _not_classes(unknown: Mapping[str, list[Path]], known: Sequence[str], class_map: ClassMap) -> str:
    shown = ", ".join(f"{part} ({len(files)} files)" for part, files in sorted(unknown.items())[:MAX_LISTED])
    more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
    beside = f" beside those of {listed([repr(name) for name in known])}" if known else ""
    whole = [part for part, files in sorted(unknown.items()) if any(map(_shows_several, files[:LOOKED_AT]))]
    example = min(set(unknown) - set(whole), default="")
    sentence = f"images have several masks, told apart by {shown}{more}{beside}"
    if example:
        sentence += (
            f": if each shows one class, write which into {class_map.path}, as `mask_name: {example}` in the entry of "
            "that class (with `ignore: true` if it is not a class)"
        )
    if whole:
        sentence += f"{';' if example else ':'} {whole[0]} shows several classes: {_how_to_name(whole[0], unknown)}"
    return f"{sentence}."


def _how_to_name(part: str, files: Mapping[str, list[Path]]) -> str:
    """How to choose the masks with that part of their names alone."""
    if files[part][0].parent.name == part:
        return f"if these masks alone count, name the folder {files[part][0].parent} as MASKS"
    pattern = part + PLACE if part[:1] not in SEPARATORS and part[-1:] in SEPARATORS else part
    return f"if these masks alone count, set DATASET.MASK_SUFFIX to {pattern}"


def _shows_several(path: Path) -> bool:
    try:
        return len(np.unique(_values(path))) > 2
    except UserError:
        return False
