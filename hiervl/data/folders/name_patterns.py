"""Find what the names of images and masks that do not match have in common, and say it."""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hiervl.data.folders.formats.image_names import base_name, folded_name, without_zeros
from hiervl.data.folders.pairing import ANY, FOR_FOLDERS, LABEL_STUDIO_PNG, NamePattern, match_masks

SAMPLED = 20  # images whose masks, and masks whose images, are looked for when a pattern is to be found
MIN_SHARE = 0.5  # of them that have to find a partner
SEPARATORS = "_-. "
MAX_NAMED = 5


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
    for image_names in _candidates([base_name(image) for image in images]):
        count = Counter(image_names.core(base_name(image)) for image in images)
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
        if (core := image_names.core(base_name(image))) and next(_masks_with(core, masks), None) is not None
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
        core = image_names.core(base_name(image))
        for mask, names in _masks_with(core, masks) if core else ():
            by_pattern[names][image].append(mask)
    votes: dict[tuple[str, NamePattern], list[tuple[str, str]]] = defaultdict(list)
    for names, masks_by_image in by_pattern.items():
        chosen = {
            image: [mask for mask in found if _folder(mask) == _folder(image)]
            or ([] if image_names.core(base_name(image)) in shared else found)
            for image, found in masks_by_image.items()
        }
        in_several = any(len(found) > 1 for found in chosen.values())
        for image, found in chosen.items():
            for mask in found:
                votes[_folder(mask) if in_several else "", names].append((image, mask))
    return {key: pairs for key, pairs in votes.items() if len(pairs) > 1}


def _folder(stem: str) -> str:
    return stem[: len(stem) - len(base_name(stem))]


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
        base = base_name(mask)
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
    tags = Counter(match["tag"] for mask in masks if (match := LABEL_STUDIO_PNG.fullmatch(base_name(mask))))
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
    count, of_masks = Counter(map(base_name, images)), set(map(base_name, masks))
    return [image for image in images if count[base_name(image)] > 1 and base_name(image) in of_masks]


def _ambiguous_numbers(images: Sequence[str], masks: Sequence[str]) -> str:
    """A sentence on names that have the same number as several others, so that the number does not pair them."""
    of_images, of_masks = (
        {number: [stem for _, stem in own] for number, own in itertools.groupby(
            sorted((without_zeros(folded_name(base_name(stem))), stem) for stem in stems), key=lambda pair: pair[0]
        )}
        for stems in (images, masks)
    )  # fmt: skip
    for number, own in of_images.items():
        others = of_masks.get(number, [])
        differ = len({folded_name(base_name(stem)) for stem in (*own, *others)}) > 1
        if others and differ and len(own) + len(others) > 2:
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
