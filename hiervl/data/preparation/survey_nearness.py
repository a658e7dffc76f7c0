"""Which folder of images belongs to annotations, where several hold images of the names."""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from hiervl.data.preparation.survey_contents import Contents, common_start, folders_above, lies_in, shown, split_of
from hiervl.data.preparation.survey_overlays import is_named_as_overlays
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

WORD = re.compile(r"(?<![A-Za-z])[vV][0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")  # v2 and JPEG are words
# What the name of a folder says.
OF_IMAGES = frozenset("image images img imgs photo photos picture pictures color colour rgb jpeg jpg".split())
OF_MASKS = frozenset("mask masks label labels annotation annotations gt groundtruth seg segmentation".split())
OF_OTHER_PICTURES = frozenset("depth disparity thermal infrared ir nir flow normals lidar".split())
OF_COPIES = frozenset(
    "aug augmented augmentation copy copies crop cropped crops enhanced preview previews processed resized scaled "
    "small thumb thumbs thumbnail thumbnails".split()
)
MOST_NAMED = 3
MOST_MISSING = 0.25  # share of the annotated images that the right folder may lack, although another one has them


class Nearness(NamedTuple):
    """What speaks for a folder of images. The first that differs decides."""

    is_of_split: bool
    written: float  # names at the end of a path that it has in common with the path in an annotation file, on average
    is_beside: bool  # the annotations lie among the images
    is_not_named_as_overlays: bool
    folders: int  # whole names that its path and that of the annotations have in common
    words: int  # parts of names that the two paths have in common
    words_in_place: int  # of these, at the start or the end of both
    is_named_as_original: bool  # and not as masks, depth maps, copies …
    is_plain: bool  # seems to hold no overlays
    named_as_images: int  # how many parts of its path are


def nearness(
    place: str, annotations: str, overlays: Collection[str], written: float = 0, is_beside: bool = False
) -> Nearness:
    """How near a folder of images is to annotations.

    Args:
        place: the folder of images.
        annotations: the folder or file of annotations.
        overlays: folders that seem to hold overlays.
        written, is_beside: as in :class:`Nearness`.
    """
    own, other = ([word for word in _words(path) if word not in OF_MASKS] for path in (place, annotations))
    last = set(_words(place.rpartition("/")[2]))
    return Nearness(
        is_of_split=split_of(place) == split_of(annotations),
        written=written,
        is_beside=is_beside,
        is_not_named_as_overlays=not is_named_as_overlays(place),
        folders=len(set(place.split("/")) & set(annotations.split("/")) - {""}),
        words=len(set(own) & set(other)),
        words_in_place=_words_in_place(own, other),
        is_named_as_original=not is_named_as_other_pictures(place) and not last & (OF_MASKS | OF_COPIES),
        is_plain=not any(lies_in(folder, place) for folder in overlays),
        named_as_images=sum(bool(OF_IMAGES & set(_words(part))) for part in place.split("/")),
    )


def _words_in_place(first: Sequence[str], second: Sequence[str]) -> int:
    first, second = ([word for word in words if word not in OF_IMAGES] for words in (first, second))
    start = common_start(first, second)
    return start + common_start(first[start:][::-1], second[start:][::-1])


def is_named_as_other_pictures(place: str) -> bool:
    """Whether the path of a folder says that it holds depth maps or the like instead of photographs."""
    words = set(_words(place))
    return bool(words & OF_OTHER_PICTURES) and not words & OF_IMAGES


@functools.cache
def _words(path: str) -> list[str]:
    return [word.lower() for word in WORD.findall(path)]


OF_PATHS = Nearness._fields.index("words_in_place") + 1  # fields of places, and of names that two paths share


class Fit(NamedTuple):
    """How well a folder of images fits annotations.

    Attributes:
        number: how many annotated images are in it or in folders below.
        is_direct: most of them are in it.
        lost: characters of the images' names that the names of their masks lack.
    """

    number: int
    is_direct: bool
    nearness: Nearness
    lost: int = 0


def best_folder(
    fits: Mapping[str, Fit],
    annotations: str,
    contents: Contents,
    agrees: Callable[[str], bool] = lambda _: True,
) -> str:
    """The folder of images that fits annotations best.

    Of a folder and one above it, the upper counts if more of the images are in it. Of others, the nearest counts, even
    if it lacks a few of the images. The folder that the user names counts where paths and names do not decide. Of
    folders with copies of the same images, the one with all of them counts.

    Args:
        annotations: their folder or file, below the surveyed one.
        agrees: asked only where several fit equally well: whether something else speaks for the folder.

    Raises:
        UserError: several fit equally well. The images of one have other labels than those of another.
    """
    enough = (1 - MOST_MISSING) * max(fit.number for fit in fits.values())
    outdone = _outdone(fits)
    near = {
        place: (fit.nearness, fit.number) for place, fit in fits.items()
        if fit.number >= enough and place not in outdone
    }  # fmt: skip
    clearest = max(close[:OF_PATHS] for close, _ in near.values())
    wanted = {
        place: (close, number) for place, (close, number) in near.items()
        if close[:OF_PATHS] == clearest and contents.may_be_labeled(place)
    }  # fmt: skip
    near = wanted or near
    best = max(near.values())
    tied = [place for place in near if near[place] == best]
    if len(tied) > 1:
        tied = [place for place in tied if agrees(place)] or tied
    if len(tied) > 1:
        of_all = [place for place in tied if all(contents.are_copies(other, place) for other in tied if other != place)]
        tied = of_all[:1] or tied
    if len(tied) > 1:
        options = " or ".join(_telling_names(tied)[:MOST_NAMED])
        raise UserError(
            f"the annotations in {annotations or '.'} fit the images in {listed(shown(sorted(tied)))} equally well: "
            f"say in which the labelled images are, by --image-folder {options}."
        )
    return tied[0]


def _telling_names(places: Sequence[str]) -> list[str]:
    """What tells the folders from each other: the only part of their paths that differs, else the paths."""
    parts = [PurePosixPath(place).parts for place in sorted(places)]
    differing = [own for own in zip(*parts) if len(set(own)) > 1]
    if len({len(own) for own in parts}) == 1 and len(differing) == 1 and len(set(differing[0])) == len(parts):
        return list(differing[0])
    return shown(sorted(places))


def _outdone(fits: Mapping[str, Fit]) -> set[str]:
    """Of folders inside each other, those that another one stands for: with more of the images, or with as many and
    less lost of their names, or the lower one, if the upper holds none itself."""
    outdone = set()
    for lower, fit in fits.items():
        for upper in folders_above(lower) & fits.keys():
            above = fits[upper]
            if (above.number, -above.lost) > (fit.number, -fit.lost):
                outdone.add(lower)
            elif (fit.number, -fit.lost) > (above.number, -above.lost) or not above.is_direct:
                outdone.add(upper)
    return outdone
