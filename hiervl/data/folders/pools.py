"""Images and masks of two folders, matched by name."""

import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders.files import MASK_SUFFIXES, find_files, find_folder, list_files
from hiervl.data.folders.formats.coco import CocoFile
from hiervl.data.folders.formats.opening import MASKS, open_annotations
from hiervl.data.folders.formats.per_class import ClassMasks
from hiervl.data.folders.formats.source import AnnotationSource, MaskSource
from hiervl.data.folders.kinds import CLASS_LISTS, describe_unused, unused_files
from hiervl.data.folders.masks import AUTO, MaskFolder
from hiervl.data.folders.name_patterns import MIN_SHARE, SEPARATORS, how_to_pair
from hiervl.data.folders.pairing import ANY, NamePattern, match_annotations, match_masks
from hiervl.data.folders.source import BACKGROUND, UNLABELED, FolderSource
from hiervl.utils.errors import UserError

MAX_PATTERNS = 12  # of names, the most frequent ones, of which two are compared


class Sample(NamedTuple):
    """An image and its mask (the mask's key in its source)."""

    image: Path
    masks: MaskSource
    key: str


class Pool(NamedTuple):
    """Images with masks, by stem, and files without a partner."""

    samples: dict[str, Sample]
    missing: list[Path]  # images without a mask
    extra: list[str]  # names of masks without an image
    other: list[Path] = []  # files among the images whose names do not fit DATASET.IMAGE_SUFFIX
    advice: Callable[[], str] = str  # a sentence on what the names of images and masks have in common
    masks: MaskSource | None = None  # of all samples, if they have one
    empty: list[Path] = []  # images without objects, left out by DATASET.EMPTY_ANNOTATIONS
    by_number: dict[str, str] = {}  # stem of an image → its mask, for names that differ in zeros in front of numbers


def find_pool(place: FolderSource, class_map: ClassMap, images: str, masks: str, key: str) -> Pool:
    """Images and masks of two folders, matched by name.

    Args:
        place: what is common to all folders: root, format, patterns of names.
        images, masks: the folders, or a file of annotations, relative to the root.
        key: the part of the configuration that names them, such as DATASET.LABELED.

    Raises:
        UserError: a folder is missing or holds nothing that can be read.
    """
    folder = find_folder(place.root, images, f"{key}.IMAGES")
    mask_path = (place.root / masks).expanduser()
    image_names, names = place.image_names, place.mask_names
    is_same = mask_path.is_dir() and mask_path.samefile(folder)
    has_masks = mask_path.is_dir() and any(
        names.core(stem) is not None or not is_same for stem in find_files(mask_path, MASK_SUFFIXES)
    )
    own = find_files(folder)
    # Annotations may call an image by its own name or by the name that the patterns give it.
    called = own if has_masks else {**_names_in_annotations(own, image_names, names), **own}
    form = MASKS if place.format == AUTO and place.mask_suffix and has_masks else place.format
    source = open_annotations(mask_path, called, class_map, form, beside=is_same)
    if source is None and mask_path.suffix.lower() == ".json":
        source = CocoFile(mask_path, class_map, called)
    if source is None:
        mask_folder = find_folder(place.root, masks, f"{key}.MASKS")
        if names == ANY and mask_folder.resolve() == folder.resolve():
            raise _images_and_masks_together(folder)
        source = MaskFolder(mask_folder, class_map, place.mask_values, place.mask_variable)
        if not source.keys:
            raise UserError(f"{key}.MASKS: {mask_folder} holds no masks that can be read{what_else(mask_folder)}.")
    files = _find_files_beside_masks(folder, source, names)
    if not files:
        raise UserError(f"{key}.IMAGES: {folder} holds no images{what_else(folder)}.")
    if isinstance(source, AnnotationSource):
        source.empty_is_meant = place.empty_annotations == BACKGROUND
    match = match_masks if isinstance(source, MaskFolder) else match_annotations
    matching = match(list(files), list(source.keys), image_names, names)
    if isinstance(source, AnnotationSource):
        source.add_images({entry: files[stem] for stem, entry in matching.masks.items()})
    empty: list[str] = []
    if isinstance(source, AnnotationSource) and place.empty_annotations == UNLABELED:
        empty = [stem for stem, entry in matching.masks.items() if source.is_empty(entry)]
    advice = functools.partial(
        how_to_pair, matching.missing or list(files), list(source.keys), class_map.class_names, names
    )
    fitting = {*matching.masks, *matching.missing}
    return Pool(
        {stem: Sample(files[stem], source, mask) for stem, mask in matching.masks.items() if stem not in empty},
        [files[stem] for stem in matching.missing],
        [source.name(mask) for mask in matching.extra],
        [path for stem, path in files.items() if stem not in fitting],
        advice,
        source,
        [files[stem] for stem in empty],
        {**matching.by_number, **(source.by_number if isinstance(source, ClassMasks) else {})},
    )


def paired_by_number(split: str, pool: Pool) -> str:
    """A sentence on the masks of a pool that are paired by numbers."""
    image, mask = next(iter(pool.by_number.items()))
    return (
        f"{len(pool.by_number)} {split} images are paired with masks by the numbers in the names, whatever zeros stand "
        f"in front, such as {image} with {mask}."
    )


def what_else(folder: Path) -> str:
    """For a sentence about a folder without usable files: what it contains."""
    others = describe_unused(unused_files(folder))
    return f", but {others}" if others else ""


def _images_and_masks_together(folder: Path) -> UserError:
    """Raise: no key says which files are masks. Perhaps there are only annotation files."""
    stems = [os.path.splitext(path)[0] for path in list_files(folder, MASK_SUFFIXES)]
    tail = _common_tail(stems)
    annotations = [unused for unused in unused_files(folder) if unused.kind and unused.kind not in CLASS_LISTS]
    if annotations and not tail:
        return UserError(
            f"{folder}, named for both images and masks, holds no masks but {describe_unused(annotations)}."
        )
    if tail:
        setting = f", if they are the files whose names end in {tail}, set DATASET.MASK_SUFFIX to {tail}"
    elif patterns := _two_patterns(stems):
        setting = (
            f", since the names are of two kinds, {patterns[0]} and {patterns[1]}, set DATASET.IMAGE_SUFFIX to that of "
            "the images and DATASET.MASK_SUFFIX to that of the masks"
        )
    else:
        setting = " set DATASET.MASK_SUFFIX to what their names have in addition"
    return UserError(f"{folder} holds both images and masks: move the masks into a folder of their own, or{setting}.")


def _common_tail(stems: Sequence[str]) -> str:
    """What most files have behind the name of another file, such as ``_mask``; "": nothing."""
    known = set(stems)
    tails = Counter(
        stem[length:] for stem in stems
        for length, character in enumerate(stem) if character in SEPARATORS and stem[:length] in known
    )  # fmt: skip
    (tail, count), (_, next_count) = [*tails.most_common(2), ("", 0), ("", 0)][:2]
    return tail if next_count < count and count >= MIN_SHARE * (len(stems) - count) else ""


def _two_patterns(stems: Sequence[str]) -> tuple[NamePattern, NamePattern] | None:
    """What two halves of the files have besides their common parts, such as ``_rgb`` and ``_seg``; None: nothing."""
    cores: dict[NamePattern, set[str]] = defaultdict(set)
    for stem in stems:
        folder, slash, base = stem.rpartition("/")
        for place, character in enumerate(base):
            if character in SEPARATORS:
                cores[NamePattern(tail=base[place:])].add(folder + slash + base[:place])
                cores[NamePattern(head=base[: place + 1])].add(folder + slash + base[place + 1 :])
    frequent = sorted(cores, key=lambda pattern: -len(cores[pattern]))[:MAX_PATTERNS]
    pairs = {pair: len(cores[pair[0]] & cores[pair[1]]) for pair in itertools.combinations(frequent, 2)}
    best = max(pairs, key=lambda pair: pairs[pair], default=None)
    if best is None or pairs[best] < max(2, MIN_SHARE * len(stems) / 2):
        return None
    first, second = sorted(best, key=str)
    return first, second


def _names_in_annotations(files: Mapping[str, Path], image_names: NamePattern, names: NamePattern) -> dict[str, Path]:
    """The images by the names that the patterns give their annotations."""
    cores = {image_names.core(stem): path for stem, path in files.items()}
    return {names.around(core): path for core, path in cores.items() if core is not None}


def _find_files_beside_masks(folder: Path, masks: MaskSource, mask_names: NamePattern) -> dict[str, Path]:
    """Images of a folder, without masks in the same folder."""
    files = find_files(folder)
    own = {Path(os.path.abspath(path)) for path in files_of_masks(masks, mask_names)}
    return {stem: path for stem, path in files.items() if Path(os.path.abspath(path)) not in own}


def files_of_masks(masks: MaskSource, mask_names: NamePattern) -> list[Path]:
    """Mask files, which may be in the folder of the images."""
    if isinstance(masks, ClassMasks):
        return masks.mask_files()
    if not isinstance(masks, MaskFolder):
        return []
    return [path for key, path in masks.keys.items() if mask_names.core(key) is not None]


def files_read(masks: MaskSource, mask_names: NamePattern) -> Iterable[Path]:
    """All files that a source reads."""
    return masks.files() if isinstance(masks, AnnotationSource) else files_of_masks(masks, mask_names)
