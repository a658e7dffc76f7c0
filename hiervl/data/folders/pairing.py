"""Match masks with images by name."""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hiervl.data.folders.formats.image_names import base_name, folded_name, without_zeros
from hiervl.utils.errors import UserError

PLACE = "{}"  # in a pattern: the common part of the names of an image and its mask
FOR_FOLDERS = ("_", "-", "__", ".", " ")  # what tools write for / when they put files of several folders into one
LABEL_STUDIO_PNG = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-.*?-tag-(?P<tag>.+)-\d+")


@dataclass(frozen=True)
class NamePattern:
    """What a file's stem has besides the common part of image and mask: ``head`` in front, ``tail`` behind.

    A head with ``/`` also names the folder of the file, which the common part then lacks: by ``images/{}`` and
    ``masks/{}``, scene_1/images/7 and scene_1/masks/7 have scene_1/7 in common.
    """

    head: str = ""
    tail: str = ""

    @classmethod
    def parse(cls, text: str, key: str) -> "NamePattern":
        """Parse ``_mask`` (the tail) or ``label_{}`` (with ``{}`` for the common part).

        Raises:
            UserError: ``{}`` occurs twice.
        """
        if text.count(PLACE) > 1:
            raise UserError(f"{key}: '{text}' has {PLACE} twice: write it once, for the common part of image and mask.")
        head, _, tail = text.partition(PLACE) if PLACE in text else ("", "", text)
        return cls(head, tail)

    def __str__(self) -> str:
        return f"{self.head}{PLACE}{self.tail}" if self.head else self.tail

    @property
    def without_folder(self) -> "NamePattern":
        """The pattern of the names alone."""
        return NamePattern(base_name(self.head), self.tail)

    def in_folder(self, name: str) -> "NamePattern":
        """The pattern of such files in folders of a name."""
        return NamePattern(f"{name}/{self.head}", self.tail)

    def core(self, stem: str) -> str | None:
        """The relative path of a file without the pattern's head and tail; None if the name does not fit."""
        base, head = base_name(stem), base_name(self.head)
        folder, own_folder = stem.removesuffix(base), self.head.removesuffix(head)
        if len(base) < len(head) + len(self.tail) or not (base.startswith(head) and base.endswith(self.tail)):
            return None
        if own_folder and not f"/{folder}".endswith(f"/{own_folder}"):
            return None
        return folder.removesuffix(own_folder) + base[len(head) : len(base) - len(self.tail)]

    def around(self, core: str) -> str:
        """The relative path of a file of this pattern."""
        folder, slash, base = core.rpartition("/")
        return f"{folder}{slash}{self.head}{base}{self.tail}"


ANY = NamePattern()


class Matching(NamedTuple):
    """Images and the masks with the same stem."""

    masks: dict[str, str]  # stem of the image → key of its mask
    missing: list[str]  # stems of images without a mask
    extra: list[str]  # keys of masks without an image
    by_number: dict[str, str] = {}  # those of ``masks`` whose names differ in the zeros in front of numbers


def match_masks(
    images: Iterable[str], masks: Iterable[str], image_names: NamePattern = ANY, mask_names: NamePattern = ANY
) -> Matching:
    """Match stems of images with stems of masks: by the same path, else by the same name if it is unique. First
    exactly, then ignoring case and the encoding of accents; then by paths that one side wrote as names, such as
    day/1 and day_1; last by numbers, such as img_7 and img_0007. What fits several images or masks is not matched.

    Args:
        images, masks: relative paths without suffix.
        image_names, mask_names: patterns of their names; masks with other names are left out.
    """
    image_cores = {image: core for image in images if (core := image_names.core(image)) is not None}
    mask_cores = {mask: core for mask in masks if (core := mask_names.core(mask)) is not None}
    matched: dict[str, str] = {}
    has_folders = any("/" in name for name in (*image_cores.values(), *mask_cores.values()))
    steps: list[Callable[[str], str]] = [_unchanged, base_name, folded_name, _folded_base]
    if has_folders:
        steps += [functools.partial(_flat_name, separator) for separator in FOR_FOLDERS]
    by_number: dict[str, str] = {}
    for simplify in (*steps, *NUMBERS):
        if len(matched) in (len(image_cores), len(mask_cores)):
            break
        by_name = _unique(mask_cores, simplify)
        count = Counter(map(simplify, image_cores.values()))
        used = set(matched.values())
        new = {
            image: mask for image, core in image_cores.items()
            if image not in matched and count[simplify(core)] == 1
            and (mask := by_name.get(simplify(core))) is not None and mask not in used
        }  # fmt: skip
        matched.update(new)
        by_number.update(new if simplify in NUMBERS else {})
    used = set(matched.values())
    return Matching(
        {image: matched[image] for image in image_cores if image in matched},
        [image for image in image_cores if image not in matched],
        [mask for mask in mask_cores if mask not in used],
        by_number,
    )


def match_annotations(
    images: Sequence[str], entries: Sequence[str], image_names: NamePattern, entry_names: NamePattern
) -> Matching:
    """As :func:`match_masks`, for annotations, which may have the images' names whatever the patterns are."""
    matching = match_masks(images, entries)
    if image_names == ANY and entry_names == ANY:
        return matching
    matched = match_masks(matching.missing, matching.extra, image_names, entry_names)
    more = matched.masks
    masks, used = {**matching.masks, **more}, set(more.values())
    return Matching(
        {image: masks[image] for image in images if image in masks},
        [image for image in matching.missing if image not in more],
        [entry for entry in matching.extra if entry not in used],
        {**matching.by_number, **matched.by_number},
    )


def _unique(mask_cores: dict[str, str], simplify) -> dict[str, str]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for mask, core in mask_cores.items():
        by_name[simplify(core)].append(mask)
    return {name: masks[0] for name, masks in by_name.items() if len(masks) == 1}


def _unchanged(stem: str) -> str:
    return stem


def _folded_base(stem: str) -> str:
    return folded_name(base_name(stem))


def _flat_name(separator: str, stem: str) -> str:
    return folded_name(stem.replace("/", separator))


def _number(stem: str) -> str:
    return without_zeros(folded_name(stem))


def _number_of_base(stem: str) -> str:
    return _number(base_name(stem))


NUMBERS = (_number, _number_of_base)
