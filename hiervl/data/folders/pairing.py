"""Match masks with images by name: name patterns, matching, and finding patterns in names."""

import functools
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hiervl.data.folders.formats.image_names import folded_name, without_zeros
from hiervl.utils.errors import UserError

PLACE = "{}"  # in a pattern: the common part of the names of an image and its mask
SAMPLED = 20  # images whose masks, and masks whose images, are looked for when a pattern is to be found
MIN_SHARE = 0.5  # of them that have to find a partner
SEPARATORS = "_-. "
FOR_FOLDERS = ("_", "-", "__", ".", " ")  # what tools write for / when they put files of several folders into one
LABEL_STUDIO_PNG = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-.*?-tag-(?P<tag>.+)-\d+")
MAX_NAMED = 5


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
        return NamePattern(_base(self.head), self.tail)

    def in_folder(self, name: str) -> "NamePattern":
        """The pattern of such files in folders of a name."""
        return NamePattern(f"{name}/{self.head}", self.tail)

    def core(self, stem: str) -> str | None:
        """The relative path of a file without the pattern's head and tail; None if the name does not fit."""
        folder, slash, base = stem.rpartition("/")
        own_folder, has_folder, head = self.head.rpartition("/")
        if len(base) < len(head) + len(self.tail) or not (base.startswith(head) and base.endswith(self.tail)):
            return None
        if has_folder:
            if not f"/{folder}".endswith(f"/{own_folder}"):
                return None
            folder = folder[: len(folder) - len(own_folder)]
            slash = ""
        return folder + slash + base[len(head) : len(base) - len(self.tail)]

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
    steps: list[Callable[[str], str]] = [_unchanged, _base, folded_name, _folded_base]
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


def _base(stem: str) -> str:
    return stem.rsplit("/", 1)[-1]


def _folded_base(stem: str) -> str:
    return folded_name(_base(stem))


def _flat_name(separator: str, stem: str) -> str:
    return folded_name(stem.replace("/", separator))


def _number(stem: str) -> str:
    return without_zeros(folded_name(stem))


def _number_of_base(stem: str) -> str:
    return _number(_base(stem))


NUMBERS = (_number, _number_of_base)


# ---------------------------------------------------------------------------- patterns found in names


class FoundNames(NamedTuple):
    """A way to pair images and masks that do not match.

    Attributes:
        image: pattern of the images' names.
        masks: patterns of the masks' names, the most frequent first; several if an image has several masks.
        example: an image and a mask that belong together.
    """

    image: NamePattern
    masks: list[NamePattern]
    example: tuple[str, str]


def find_patterns(images: Sequence[str], masks: Sequence[str]) -> FoundNames | None:
    """Patterns by which at least half of the images find a mask, or half of the masks an image, since often few of the
    images are labelled; None where there are none.

    A common part of the two names counts only if it is not part of a longer word or number in the mask's name, and, if
    several images have it, only for masks in a folder like the image's. Patterns that keep more of the image's name
    come first. If there are none, zeros in front of numbers do not count.
    """
    return _find_patterns(images, masks) or _find_patterns_by_number(images, masks)


def _find_patterns_by_number(images: Sequence[str], masks: Sequence[str]) -> FoundNames | None:
    plain_images, plain_masks = ({without_zeros(stem): stem for stem in stems} for stems in (images, masks))
    if len(plain_images) < len(images) or len(plain_masks) < len(masks):
        return None  # two names have one number
    found = _find_patterns(list(plain_images), list(plain_masks))
    if found is None:
        return None
    image, mask = plain_images[found.example[0]], plain_masks[found.example[1]]
    if match_masks(images, masks, found.image, found.masks[0].without_folder).masks.get(image) != mask:
        return None  # a number in the pattern itself has zeros in front
    return found._replace(example=(image, mask))


def _find_patterns(images: Sequence[str], masks: Sequence[str]) -> FoundNames | None:
    if len(images) < 2:
        return None
    some_images, some_masks = _some(images), _some(masks)
    best: tuple[tuple[float, int], NamePattern, dict[tuple[str, NamePattern], list[tuple[str, str]]]] | None = None
    for image_names in _candidates([_base(image) for image in images]):
        count = Counter(image_names.core(_base(image)) for image in images)
        shared = {core for core, images_of_core in count.items() if core and images_of_core > 1}
        votes = _votes([*some_images, *_images_in(some_masks, images, image_names)], masks, image_names, shared)
        pairs = [pair for own in votes.values() for pair in own]
        of_images = len({image for image, _ in pairs} & set(some_images)) / len(some_images)
        of_masks = len({mask for _, mask in pairs} & set(some_masks)) / max(1, len(some_masks))
        score = (max(of_images, of_masks), -len(image_names.head + image_names.tail))
        if score[0] >= MIN_SHARE and (best is None or score > best[0]):
            best = (score, image_names, votes)
    if best is None:
        return None
    _, image_names, votes = best
    ordered = sorted(votes, key=lambda names: -len(votes[names]))
    patterns = [NamePattern(folder + names.head, names.tail) for folder, names in ordered]
    return FoundNames(image_names, patterns, votes[ordered[0]][0])


def _some(stems: Sequence[str]) -> Sequence[str]:
    """At most :data:`SAMPLED` of them, evenly spread."""
    return stems[:: max(1, len(stems) // SAMPLED)][:SAMPLED]


def _images_in(masks: Sequence[str], images: Sequence[str], image_names: NamePattern) -> list[str]:
    """The images that the names of some masks hold."""
    return [
        image for image in images
        if (core := image_names.core(_base(image))) and next(_masks_with(core, masks), None) is not None
    ]  # fmt: skip


def _votes(
    sample: Sequence[str], masks: Sequence[str], image_names: NamePattern, shared: set[str]
) -> dict[tuple[str, NamePattern], list[tuple[str, str]]]:
    """Pairs of image and mask by the pattern of the mask's name (and by its folder, if an image has masks of one
    pattern in several). Only patterns that occur twice.

    shared: common parts that several images have, so that they do not tell whose a mask is.
    """
    by_pattern: dict[NamePattern, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in dict.fromkeys(sample):
        core = image_names.core(_base(image))
        for mask, names in _masks_with(core, masks) if core else ():
            by_pattern[names][image].append(mask)
    votes: dict[tuple[str, NamePattern], list[tuple[str, str]]] = defaultdict(list)
    for names, masks_by_image in by_pattern.items():
        chosen = {
            image: [mask for mask in found if _folder(mask) == _folder(image)]
            or ([] if image_names.core(_base(image)) in shared else found)
            for image, found in masks_by_image.items()
        }
        in_several = any(len(found) > 1 for found in chosen.values())
        for image, found in chosen.items():
            for mask in found:
                votes[_folder(mask) if in_several else "", names].append((image, mask))
    return {key: pairs for key, pairs in votes.items() if len(pairs) > 1}


def _folder(stem: str) -> str:
    return stem[: len(stem) - len(_base(stem))]


def _candidates(bases: Sequence[str]) -> list[NamePattern]:
    """Candidates for the common head and tail of all images, whole or up to a separator. Digits belong to the
    number."""
    common = os.path.commonprefix(bases)
    heads = {"", common.rstrip("0123456789")} | {common[: i + 1] for i, c in enumerate(common) if c in SEPARATORS}
    common = os.path.commonprefix([base[::-1] for base in bases])[::-1]
    tails = {"", common.lstrip("0123456789")} | {common[i:] for i, c in enumerate(common) if c in SEPARATORS}
    return [NamePattern(head, tail) for head in heads for tail in tails]


def _masks_with(core: str, masks: Sequence[str]) -> Iterator[tuple[str, NamePattern]]:
    """Masks whose name contains ``core`` as a separate word or number, with the pattern of the rest."""
    low = core.lower()
    for mask in masks:
        base = _base(mask)
        start = base.lower().find(low)
        while start >= 0:
            end = start + len(core)
            is_part = (start > 0 and _continues(base[start - 1], core[0])) or (
                end < len(base) and _continues(core[-1], base[end])
            )
            if not is_part:
                yield mask, NamePattern(base[:start], base[end:])
            start = base.lower().find(low, start + 1)


def _continues(first: str, second: str) -> bool:
    """Whether the two characters belong to one number or word."""
    return (first.isdigit() and second.isdigit()) or (first.isalpha() and second.isalpha())


def how_to_pair(
    images: Sequence[str], masks: Sequence[str], class_names: Sequence[str] = (), mask_names: NamePattern = ANY
) -> str:
    """A sentence on what the names of images and masks without a partner have in common; "" if nothing.

    Args:
        images, masks: relative paths without suffix.
        mask_names: the pattern that is set; other masks are used if these give no result.
    """
    tags = Counter(match["tag"] for mask in masks if (match := LABEL_STUDIO_PNG.fullmatch(_base(mask))))
    if tags:
        return (
            f"The masks are Label Studio's export of brushes as PNG, one mask of two values for each class "
            f"({_quoted(list(tags))}), and do not name their images: export the JSON of the project instead"
        )
    doubled = _doubled_names(images, masks)
    if doubled:
        return (
            f"{len(doubled)} images have the name of another one in another folder, such as {doubled[0]}, and the "
            "masks' folders do not tell whose they are: put the masks into folders named as those of the images"
        )
    same_number = _ambiguous_numbers(images, masks)
    if same_number:
        return same_number
    fitting = [mask for mask in masks if mask_names.core(mask) is not None]
    found = _patterns_of_flat_names(images, masks) or find_patterns(images, fitting) or find_patterns(images, masks)
    if found is None:
        return ""
    image, mask = found.example
    if len(found.masks) > 1:
        return _several_masks(found, class_names)
    patterns = (("IMAGE_SUFFIX", found.image), ("MASK_SUFFIX", found.masks[0].without_folder))
    settings = " and ".join(f"DATASET.{key} to {names}" for key, names in patterns if str(names))
    return f"The names pair as {image} with {mask}: set {settings}" if settings else ""


def _patterns_of_flat_names(images: Sequence[str], masks: Sequence[str]) -> FoundNames | None:
    """As :func:`find_patterns`, for masks named by the path of their image, such as day_1_mask for day/1."""
    for separator in FOR_FOLDERS if any("/" in image for image in images) else ():
        by_name = {image.replace("/", separator): image for image in images}
        found = find_patterns(list(by_name), masks)
        if found is not None and found.image == ANY:
            image, mask = found.example
            return found._replace(example=(by_name[image], mask))
    return None


def _doubled_names(images: Sequence[str], masks: Sequence[str]) -> list[str]:
    """Images whose name alone is that of a mask and of another image."""
    count, of_masks = Counter(map(_base, images)), set(map(_base, masks))
    return [image for image in images if count[_base(image)] > 1 and _base(image) in of_masks]


def _ambiguous_numbers(images: Sequence[str], masks: Sequence[str]) -> str:
    """A sentence on names that have the same number as several others, so that the number does not pair them."""
    of_images, of_masks = (
        {number: [stem for _, stem in own] for number, own in itertools.groupby(
            sorted((_number_of_base(stem), stem) for stem in stems), key=lambda pair: pair[0]
        )}
        for stems in (images, masks)
    )  # fmt: skip
    for number, own in of_images.items():
        others = of_masks.get(number, [])
        if others and len(own) + len(others) > 2 and len({_folded_base(stem) for stem in (*own, *others)}) > 1:
            return (
                f"The number does not tell which mask belongs to which image: images {_quoted(own)}, masks "
                f"{_quoted(others)}; give every mask the name of its image"
            )
    return ""


def _several_masks(found: FoundNames, class_names: Sequence[str]) -> str:
    names = [str(pattern) for pattern in found.masks]
    words = [name.strip(SEPARATORS + "/{}0123456789").lower() for name in names]
    class_words = [word for word in words if word and any(word in name.lower() for name in class_names)]
    what = f"An image has several masks ({_quoted(names)})"
    if len(class_words) > 1:
        return f"{what}: these are masks of one class each, which have to be joined into one mask per image"
    return (
        f"{what}: if each shows one class, they have to be joined into one mask per image; if one of them shows all "
        "classes, set DATASET.MASK_SUFFIX to its end"
    )


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:MAX_NAMED]) + more
