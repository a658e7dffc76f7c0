"""Looks at a folder of images and annotations that nobody has described, and says where what lies (``init``).

Nothing is assumed of the folders' names but the words for training, validation and test; everything else follows from
the files' content and from which names belong together.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders import kinds
from hiervl.data.folders.files import MASK_SUFFIXES
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES
from hiervl.data.folders.formats.image_names import ImageNames
from hiervl.data.folders.formats.opening import IN_ONE_FILE, MASKS, OF_KIND, PER_CLASS, PER_IMAGE
from hiervl.data.folders.formats.per_class import LABEL_STUDIO_PNG
from hiervl.data.folders.formats.source import load_json, reading
from hiervl.data.folders.kinds import Kind, kind_of_file
from hiervl.data.folders.pairing import NamePattern, find_patterns
from hiervl.data.loading.file_types import IMAGE_SUFFIXES
from hiervl.data.loading.readers import open_image
from hiervl.utils.errors import UserError

SPLIT_WORDS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SKIPPED = ("output", "outputs", "runs", "node_modules", "__pycache__", "__MACOSX")
LOOKED_AT = 12  # images of a folder that are opened to tell photographs from masks
FEW_VALUES = 64  # values or colours of a mask
READ_SINGLY = 20  # annotation files of a folder that are looked into one by one
MIN_SHARE = 0.5  # of names that have to belong together
NO_CLASSES = ClassMap((), {}, {}, {}, (), Path())


@dataclass
class Place:
    """Images and their annotations, as paths below the folder."""

    images: str
    masks: str


@dataclass
class Survey:
    """What was found.

    Attributes:
        folder: that was looked at; all paths are relative to it.
        form: of DATASET.FORMAT.
        places: of "train" (or the whole), "val" and "test".
        image_suffix, mask_suffix: of DATASET.
        unlabeled: folders of images without annotations.
        lists: list files of "train" and "val".
        class_lists: files that list classes.
        notes: what was not used, and why.
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

    def path(self, relative: str) -> Path:
        """Where a path of the survey is."""
        return self.folder / relative


@dataclass
class _Contents:
    """Files of the whole tree: images by their folder, annotation files by format and folder."""

    images: dict[str, list[str]] = field(default_factory=dict)  # folder → stems
    files: dict[str, list[Path]] = field(default_factory=dict)  # folder → image files
    annotations: dict[str, dict[str, list[Path]]] = field(default_factory=dict)  # format → folder → files
    class_lists: list[Path] = field(default_factory=list)
    lists: list[Path] = field(default_factory=list)


def survey(folder: Path) -> Survey:
    """
    Raises:
        UserError: there is no such folder, it holds no images, or no annotations that are known.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.")
    contents = _scan(folder)
    if not contents.images:
        others = kinds.describe_unused(kinds.unused_files(folder))
        raise UserError(f"{folder} holds no images{f', but {others}' if others else ''}.")
    result = Survey(folder, class_lists=contents.class_lists)
    found = _annotated(contents, result) or _masked(contents, result)
    if not found:
        counts = ", ".join(f"{len(stems)} in {place or '.'}" for place, stems in list(contents.images.items())[:5])
        reason = f" ({'; '.join(result.notes)})" if result.notes else ""
        raise UserError(
            f"{folder} holds images ({counts}), but neither masks nor annotations of a kind that is known belong to "
            f"them{reason}: docs/data.md lists the formats."
        )
    _settle_places(result, found)
    _find_lists(contents, result)
    _find_unlabeled(contents, result)
    return result


def _scan(folder: Path) -> _Contents:
    contents = _Contents()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        relative = Path(place).relative_to(folder).as_posix().removeprefix(".")
        others: dict[str, list[Path]] = {}
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in MASK_SUFFIXES:
                contents.images.setdefault(relative, []).append(os.path.splitext(name)[0])
                contents.files.setdefault(relative, []).append(Path(place) / name)
            elif suffix in (".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".names"):
                others.setdefault(suffix, []).append(Path(place) / name)
        for files in others.values():
            _enter(contents, relative, files)
    return contents


def _enter(contents: _Contents, place: str, files: Sequence[Path]) -> None:
    """Files of one suffix in one folder; of many, the first say what all are."""
    looked_at = files if len(files) <= READ_SINGLY else files[: kinds.LOOKED_AT]
    found = {path: kind_of_file(path) for path in looked_at}
    common: Kind | None = (
        Counter(kind for kind in found.values() if kind).most_common(1)[0][0] if any(found.values()) else None
    )
    for path in files:
        kind = found.get(path, common)
        if kind in OF_KIND:
            contents.annotations.setdefault(OF_KIND[kind], {}).setdefault(place, []).append(path)
        elif kind in kinds.CLASS_LISTS or path.name.lower() in ("class_names.txt", "classes.txt", "obj.names"):
            contents.class_lists.append(path)
        elif path.suffix.lower() == ".txt":
            contents.lists.append(path)


# ---------------------------------------------------------------------------- annotation files


def _annotated(contents: _Contents, result: Survey) -> dict[str, list[Place]]:
    """Places by split of the annotation format that reaches most images; {} where there is none."""
    photographs = {place: stems for place, stems in contents.images.items() if stems}
    best: tuple[int, str, dict[str, list[Place]]] = (0, "", {})
    reached: dict[str, int] = {}
    for form, folders in contents.annotations.items():
        places: dict[str, list[Place]] = {}
        count = 0
        for folder, files in folders.items():
            masks = files if form in IN_ONE_FILE else [result.folder / folder]
            for path in masks:
                try:
                    images, hits = _images_of(form, path, photographs, result.folder)
                except UserError as error:
                    result.notes.append(str(error).rstrip("."))
                    continue
                if hits:
                    count += hits
                    relative = path.relative_to(result.folder).as_posix()
                    split = split_of(f"{relative}/{images}")
                    places.setdefault(split, []).append(Place(images or ".", relative))
        reached[form] = count
        best = max(best, (count, form, places), key=lambda entry: entry[0])
    count, form, places = best
    if count and LABEL_STUDIO_PNG.fullmatch(_some_mask_stem(contents)):
        return {}  # the masks are beside the export that names their images
    for other, hits in reached.items():
        if other != form and hits:
            result.notes.append(
                f"annotations of the format {other} for {hits} images were found, too, and are not used"
            )
    result.form = form or result.form
    return places


def _some_mask_stem(contents: _Contents) -> str:
    stems = [stem for stems in contents.images.values() for stem in stems[:1]]
    return next((stem for stem in stems if LABEL_STUDIO_PNG.fullmatch(stem)), "")


def _images_of(form: str, path: Path, photographs: dict[str, list[str]], root: Path) -> tuple[str, int]:
    """The folder whose images the annotations name, and how many; of folders with as many, the innermost."""
    written = _written_names(form, path)
    best, most = "", 0
    for place in _with_parents(photographs):
        stems = [
            f"{folder[len(place) :].lstrip('/')}/{stem}".lstrip("/")
            for folder, own in photographs.items()
            if folder == place or folder.startswith(f"{place}/" if place else "")
            for stem in own
        ]
        names = ImageNames(stems)
        hits = len({found for name in written if (found := names.find(name)) is not None})
        if hits > most or (hits == most and hits and len(place) > len(best)):
            best, most = place, hits
    return best, most


def _written_names(form: str, path: Path) -> list[str]:
    """What the annotations call their images."""
    if form == "coco":
        return [str(image["file_name"]) for image in read_coco(path)["images"]]
    if form in IN_ONE_FILE:
        return list(IN_ONE_FILE[form](path, NO_CLASSES, {}).keys)
    return list(PER_IMAGE[form](path, NO_CLASSES, {}).keys)


def read_coco(path: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: it cannot be read or has no images and annotations.
    """
    with reading(str(path), kinds.COCO.name):
        content = load_json(path)
        return {key: list(content[key]) for key in ("images", "annotations", "categories")}


def _with_parents(folders: Iterable[str]) -> list[str]:
    """The folders, and what lies above several of them, the upper ones first."""
    found = {""} | {parent for folder in folders for parent in [folder, *map(str, PurePosixPath(folder).parents)]}
    return sorted({"" if folder == "." else folder for folder in found}, key=len)


# ---------------------------------------------------------------------------- mask files


def _masked(contents: _Contents, result: Survey) -> dict[str, list[Place]]:
    """Places by split of folders of masks whose names belong to those of photographs."""
    is_mask = {place: _share_of_masks(files) for place, files in contents.files.items()}
    photographs = {place: contents.images[place] for place, share in is_mask.items() if share < 1}
    pairs: list[tuple[str, str]] = []  # folder of images, folder of masks
    patterns: Counter = Counter()
    per_class = False
    for place, share in is_mask.items():
        if share == 0:
            continue
        if share < 1:
            pattern = _pattern_within(contents.files[place])
            if pattern is not None:
                pairs.append((place, place))
                per_class |= pattern == PER_CLASS
                patterns[pattern if pattern != PER_CLASS else ("", "")] += 1
            continue
        masks = contents.images[place]
        if any(map(LABEL_STUDIO_PNG.fullmatch, masks)):
            images = max(photographs, key=lambda other: len(photographs[other]))
            pairs.append((images, place))
            per_class = True
            continue
        match = _best_photographs(place, masks, photographs)
        if match is not None:
            images, pattern, is_per_class = match
            pairs.append((images, place))
            per_class |= is_per_class
            patterns[pattern] += 1
    if not pairs:
        return {}
    per_class |= _several_folders(pairs)
    if per_class:
        result.form = PER_CLASS
    elif patterns:
        result.image_suffix, result.mask_suffix = patterns.most_common(1)[0][0]
    places: dict[str, list[Place]] = {}
    for images, masks in pairs:
        places.setdefault(split_of(f"{masks}/{images}"), []).append(Place(images or ".", masks or "."))
    return places


def _several_folders(pairs: Sequence[tuple[str, str]]) -> bool:
    """Several folders of masks have the same images."""
    return any(count > 1 for count in Counter(images for images, _ in pairs).values())


def _share_of_masks(files: Sequence[Path]) -> float:
    sample = files[:: max(1, len(files) // LOOKED_AT)]
    return sum(map(looks_like_a_mask, sample)) / len(sample)


def looks_like_a_mask(path: Path) -> bool:
    """Few values or colours, and no JPEG; an array that is saved as such is a mask."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return True
    try:
        image = open_image(str(path))
    except UserError:
        return False
    if image.format == "JPEG":
        return False
    values = np.asarray(image if image.mode in ("1", "L", "P", "I", "I;16", "F") else image.convert("RGB"))
    if values.ndim == 3:
        values = values.astype(np.int32) @ np.array([65536, 256, 1])
    return len(np.unique(values)) <= FEW_VALUES


def _pattern_within(files: Sequence[Path]) -> tuple[str, str] | str | None:
    """How masks that lie among their images are named; "per_class": there are several for an image."""
    images = [path.stem for path in files if not looks_like_a_mask(path)][:LOOKED_AT]
    masks = [path.stem for path in files if any(path.stem.startswith(stem) or stem in path.stem for stem in images)]
    found = find_patterns(images, [stem for stem in masks if stem not in images])
    if found is None:
        return None
    return PER_CLASS if len(found.masks) > 1 else (str(found.image), str(found.masks[0]))


def _best_photographs(
    place: str, masks: Sequence[str], photographs: dict[str, list[str]]
) -> tuple[str, tuple[str, str], bool] | None:
    """The folder of photographs that a folder of masks belongs to, the patterns of the names, and whether there are
    several masks for an image."""
    best, hits = None, 0
    for other, stems in photographs.items():
        common = len(set(masks) & set(stems))
        near = split_of(place) == split_of(other)
        if common and (common, near) > (hits, False) and common >= MIN_SHARE * min(len(masks), len(stems)):
            best, hits = (other, ("", ""), False), common
    if best is not None:
        return best
    for other, stems in sorted(photographs.items(), key=lambda item: split_of(item[0]) != split_of(place)):
        found = find_patterns(stems, masks)
        if found is not None:
            pattern = NamePattern(os.path.basename(found.masks[0].head), found.masks[0].tail)
            return other, (str(found.image), str(pattern)), len(found.masks) > 1
    return None


# ---------------------------------------------------------------------------- parts


def split_of(path: str) -> str:
    """ "train", "val" or "test" by the words in a path, the last one counts; "train" where there is none."""
    words = [word for part in path.lower().split("/") for word in part.replace("-", "_").replace(".", "_").split("_")]
    found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return found[-1] if found else "train"


def _settle_places(result: Survey, found: dict[str, list[Place]]) -> None:
    """One place per split: the folders above where there are several, else the one with most images."""
    if "train" not in found:
        first = next(iter(found))
        found = {"train": found[first], **{split: places for split, places in found.items() if split != first}}
    for split, places in found.items():
        images, masks = {place.images for place in places}, {place.masks for place in places}
        place = places[0]
        if len(places) > 1 and not (result.form in IN_ONE_FILE and len(masks) > 1):
            place = Place(os.path.commonpath(images) if "." not in images else ".", os.path.commonpath(masks))
        elif len(places) > 1:
            result.notes += [f"{other.masks} is a further annotation file and not used" for other in places[1:]]
        result.places[split] = place


def _find_lists(contents: _Contents, result: Survey) -> None:
    """VOC's lists of training and validation images."""
    if set(result.places) != {"train"}:
        return
    stems = {stem for own in contents.images.values() for stem in own}
    for path in contents.lists:
        if path.stem.lower() not in ("train", "val") or path.stem.lower() in result.lists:
            continue
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            continue
        bases = [os.path.splitext(os.path.basename(name))[0] for name in names]
        if names and all(base in stems or os.path.basename(name) in stems for base, name in zip(bases, names)):
            result.lists[path.stem.lower()] = path.relative_to(result.folder).as_posix()
    if set(result.lists) != {"train", "val"}:
        result.lists = {}


def _find_unlabeled(contents: _Contents, result: Survey) -> None:
    """Folders of photographs that no place holds; those for testing are left alone."""
    used = [path for place in result.places.values() for path in (place.images, place.masks)]
    for place, files in contents.files.items():
        if any(path == "." or place == path or place.startswith(f"{path}/") for path in used):
            continue
        if _share_of_masks(files) > 0 or not any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
            continue
        if split_of(place) == "test":
            result.notes.append(f"{place} holds {len(files)} images for testing without masks, which are not used")
        elif not any(place.startswith(f"{other}/") for other in result.unlabeled):
            result.unlabeled.append(place)
