"""Which folder of images belongs to annotations, where several hold images of the names."""

import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hiervl.data.loading.readers import open_image
from hiervl.data.preparation.survey_contents import shown, split_of
from hiervl.data.preparation.survey_overlays import is_named_as_overlays
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
LOOKED_AT = 3  # files of a folder whose size is compared
OF_IMAGES = frozenset(
    ("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "rgb", "jpeg", "jpg")
)
OF_MASKS = frozenset(
    ("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth", "seg", "segmentation")
)


class Nearness(NamedTuple):
    """What speaks for a folder of images; the first that differs decides."""

    is_of_split: bool
    is_not_named_as_overlays: bool
    is_not_named_as_masks: bool
    words: int  # that its path and that of the annotations have in common
    is_plain: bool  # seems to hold no overlays
    is_named_as_images: bool


def nearness(place: str, annotations: str, overlays: Collection[str]) -> Nearness:
    """
    Args:
        place: the folder of images.
        annotations: the folder or file of annotations.
        overlays: folders that seem to hold overlays.
    """
    own = _words(place.rpartition("/")[2])
    named_as_images = bool(own & OF_IMAGES)
    return Nearness(
        split_of(place) == split_of(annotations),
        not is_named_as_overlays(place),
        named_as_images or not own & OF_MASKS,
        len((_words(place) & _words(annotations)) - OF_MASKS),
        not any(f"{folder}/".startswith(f"{place}/" if place else "") for folder in overlays),
        named_as_images,
    )


def _words(path: str) -> set[str]:
    return {word.lower() for word in WORD.findall(path)}


def best_folder(
    fits: Mapping[str, Any], annotations: str, with_own: Container[str], agrees: Callable[[str], bool] = lambda _: True
) -> str:
    """The folder of images that fits annotations best.

    Args:
        fits: how well every folder does; what is larger is better.
        annotations: their folder or file, below the surveyed one.
        with_own: the folders that hold such images themselves, and not only in folders below them, which then count.
        agrees: asked only where several fit equally well: whether something else speaks for the folder.

    Raises:
        UserError: several fit equally well. The images of one have other labels than those of another.
    """
    best = max(fits.values())
    tied = [place for place in fits if fits[place] == best]
    tied = [
        place for place in tied
        if place in with_own or not any(other != place and _is_below(other, place) for other in tied)
    ]  # fmt: skip
    if len(tied) > 1:
        tied = [place for place in tied if agrees(place)] or tied
    if len(tied) > 1:
        raise UserError(
            f"the annotations in {annotations or '.'} fit the images in {listed(shown(sorted(tied)))} "
            "equally well: say by --image-folder in which of them the labelled images are."
        )
    return tied[0]


def _is_below(place: str, above: str) -> bool:
    return f"{place}/".startswith(f"{above}/" if above else "")


def have_common_size(first: Sequence[Path], second: Sequence[Path]) -> bool:
    """Whether some files of two folders of images or masks have the same size, perhaps turned."""
    return bool(_sizes(first[:LOOKED_AT]) & _sizes(second[:LOOKED_AT]))


def _sizes(files: Iterable[Path]) -> set[tuple[int, ...]]:
    found = set()
    for path in files:
        try:
            found.add(tuple(sorted(open_image(str(path)).size)))
        except UserError:
            continue
    return found
