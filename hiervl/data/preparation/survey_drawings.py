"""Find pictures that show other images with something drawn over them, such as their labels.

Such overlays bear the names of the photographs, and could be taken for them. Only where the pixels and the name of the
folder say it are they left out: sharpened photographs, or those of a camera that stands still, look alike.
"""

import itertools
import math
import random
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from hiervl.data.loading.readers import read_overview
from hiervl.data.preparation.survey_contents import Contents, share_of_masks
from hiervl.utils.errors import UserError

WORDS = re.compile(
    r"(?<![a-z])(overlays?|visuali[sz](ations?|ed)|blend(s|ed)?|previews?|drawn|pred(s|icted|ictions?)?|contours?)(?![a-z])"
)
SIDE = 256  # pictures are compared at this length of their longer side
BLOCK = 8  # pixels; in blocks, a drawing of one color changes contrast alone
LINEAR = 0.8  # squared correlation of the edges of a block that show the same thing
EQUAL, CHANGED = 16, 24  # grey levels: pixels differ by less if they are the same, and by more if they were drawn over
MIN_ALIKE = 0.25  # share of the edges in blocks that are the same
MIN_LINEAR = 0.5  # share of the edges in blocks that differ in contrast alone; different photographs have 0.04 at most
SAME_SLOPE = 0.15  # contrasts whose ratio differs by less are the same
MOSTLY = 0.6  # share of the edges with the same contrast
MIN_CHANGED = 0.002  # share of pixels; else one is a copy
GRAY = 4.0  # mean difference between the highest and the lowest channel; less is without color
BRIGHTNESS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MAX_DISTORTION = 0.03  # logarithm of the ratio of the aspect ratios
MORE_COLORFUL = 1.3  # times
LOOKED_AT = 6  # names of a folder that are looked up in others
COMPARED = 4  # pairs of pictures
NEAREST = 3  # folders that are compared, of those with the same names and start of the path, or end of it


def is_named_as_drawings(folder: str) -> bool:
    """Whether the name of a folder says that something is drawn over its pictures."""
    last = "/".join(Path(folder).parts[-2:])
    return bool(WORDS.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()))


def bear_names_of(files: Sequence[Path], stems: Container[str]) -> bool:
    """Whether most of the files are named as the images ``stems`` are, perhaps with something before or behind."""
    some = _some(files)
    return sum(any(name in stems for name in _shorter_names(path.stem)) for path in some) > len(some) / 2


def _some(files: Sequence[Path]) -> list[Path]:
    return random.Random(0).sample(files, min(LOOKED_AT, len(files)))


def find_drawings(contents: Contents) -> dict[str, str]:
    """Folders whose pictures seem to be those of another one with something drawn over them → that other one."""
    folders = {folder: files for folder, files in contents.files.items() if share_of_masks(files) == 0}
    by_stem: dict[str, dict[str, Path]] = {}  # stem → folder → file
    for folder, files in folders.items():
        for path in files:
            by_stem.setdefault(path.stem, {})[folder] = path
    drawn: dict[str, str] = {}
    compared: set[frozenset[str]] = set()
    for folder, files in folders.items():
        for other, pairs in _of_the_same_names(folder, files, by_stem):
            both = frozenset((folder, other))
            if both in compared or both & drawn.keys():
                continue
            compared.add(both)
            verdict = _which_is_drawn(folder, other, pairs)
            if verdict is not None:
                drawn[verdict] = other if verdict == folder else folder
    return drawn


def drop_drawings(contents: Contents) -> list[str]:
    """Remove those folders whose names say it, too. Of others nobody can be sure: photographs of a camera that stands
    still, or sharpened ones, look alike. They are noted in ``contents.drawn``. → sentences for the user."""
    notes = []
    for folder, photographs in find_drawings(contents).items():
        what = f"the photographs of {photographs or '.'} with something drawn over them"
        if is_named_as_drawings(folder):
            del contents.files[folder], contents.images[folder]
            notes.append(f"{folder} holds {what}, and is not used")
        else:
            contents.drawn.add(folder)
            notes.append(f"{folder or '.'} seems to hold {what}: look at it, and take it out of my.yaml if it does")
    return notes


def _of_the_same_names(
    folder: str, files: Sequence[Path], by_stem: dict[str, dict[str, Path]]
) -> list[tuple[str, list[tuple[Path, Path]]]]:
    """The nearest other folders that hold files of (nearly) the same names, and pairs of such files."""
    found: dict[str, list[tuple[Path, Path]]] = {}
    looked_at = _some(files)
    for path in looked_at:
        for stem in _shorter_names(path.stem):
            others = {other: of_other for other, of_other in by_stem.get(stem, {}).items() if other != folder}
            for other, of_other in others.items():
                found.setdefault(other, []).append((path, of_other))
            if others:
                break
    often = [other for other in found if len(found[other]) > len(looked_at) / 2]
    # Both of scene_1/images and scene_1/overlays, and of images/scene_1 and overlays/scene_1.
    by_start = sorted(often, key=lambda other: -_common_start(Path(folder).parts, Path(other).parts))
    by_end = sorted(often, key=lambda other: -_common_start(Path(folder).parts[::-1], Path(other).parts[::-1]))
    near = dict.fromkeys([*by_start[:NEAREST], *by_end[:NEAREST]])
    return [(other, found[other]) for other in near]


def _common_start(first: Sequence[str], second: Sequence[str]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))


def _shorter_names(stem: str) -> Iterator[str]:
    """The name itself, then what is left without its end or beginning: ``a_1_overlay`` → ``a_1`` …"""
    yield stem
    cuts = [match.start() for match in re.finditer(r"[_\-. ]", stem)]
    yield from (stem[:cut] for cut in reversed(cuts))
    yield from (stem[cut + 1 :] for cut in cuts)


def _which_is_drawn(folder: str, other: str, pairs: Sequence[tuple[Path, Path]]) -> str | None:
    """The folder of the two whose pictures are drawn over; None: they show different things, or nobody knows."""
    verdicts: list[int] = []
    for number, pair in enumerate(pairs[:COMPARED]):
        verdict = drawn_over(*pair)
        verdicts += [] if verdict is None else [verdict]
        if len(verdicts) < number:  # two are different photographs
            return None
    by_name = [is_named_as_drawings(name) for name in (folder, other)]
    if any(verdicts) and by_name[0] != by_name[1]:
        return folder if by_name[0] else other
    agree = len(set(verdicts)) == 1 and len(verdicts) > 1
    return None if not agree or verdicts[0] == 0 else folder if verdicts[0] > 0 else other


def drawn_over(first: Path, second: Path) -> int | None:
    """Whether two files are one photograph of which one is drawn over.

    Returns:
        1: the first is drawn over; -1: the second; 0: that is not known, or they are copies; None: they are different
        photographs, or cannot be compared.
    """
    try:
        return compare_pictures(*(read_overview(str(path))[1] for path in (first, second)))
    except UserError:
        return None


def compare_pictures(first: np.ndarray, second: np.ndarray) -> int | None:
    """As :func:`drawn_over`, for two pictures (H, W, 3) RGB.

    Either a good part of both is the very same; then the one whose other pixels are more colorful is drawn over. Or a
    transparent drawing covers all, such as the colors of all classes; then contrast is lower by one factor throughout.
    """
    if abs(math.log(first.shape[0] * second.shape[1] / (first.shape[1] * second.shape[0]))) > MAX_DISTORTION:
        return None
    height, width = min(first.shape[:2], second.shape[:2])
    scale = min(1.0, SIDE / max(height, width))
    size = (max(round(width * scale), BLOCK + 1), max(round(height * scale), BLOCK + 1))
    a, b = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) for picture in (first, second))
    edges_a, edges_b = _edges(a), _edges(b)
    of_a, of_b, of_both = (
        _in_blocks((one * other).sum(0)).sum(axis=(1, 3)).ravel()
        for one, other in ((edges_a, edges_a), (edges_b, edges_b), (edges_a, edges_b))
    )
    difference = np.abs(a - b).max(axis=2)
    is_same = _in_blocks(difference[:-1, :-1]).max(axis=(1, 3)).ravel() <= EQUAL
    if max(_share(is_same, of_a), _share(is_same, of_b)) >= MIN_ALIKE:
        return 0 if _is_another_version(a, b) else _more_colorful(a, b, difference)
    is_linear = (of_both > 0) & (of_both**2 >= LINEAR * of_a * of_b) & (of_a > 0)
    if max(_share(is_linear, of_a), _share(is_linear, of_b)) < MIN_LINEAR:
        return None
    return 0 if _is_another_version(a, b) else _more_contrast(of_both[is_linear] / of_a[is_linear], of_a[is_linear])


def _more_colorful(a: np.ndarray, b: np.ndarray, difference: np.ndarray) -> int:
    """1: the pixels that differ are more colorful in the first picture; -1: in the second; 0: neither, or in all."""
    changed, equal = difference > CHANGED, difference <= EQUAL
    if changed.mean() < MIN_CHANGED:
        return 0
    if _is_gray(a) != _is_gray(b) and not (_is_gray(a[equal]) and _is_gray(b[equal])):
        return 0  # one shows the colors of the other, or a part of them
    colorful, other = (np.ptp(picture[changed], axis=-1).mean() for picture in (a, b))
    return 1 if colorful > MORE_COLORFUL * other else -1 if other > MORE_COLORFUL * colorful else 0


def _more_contrast(slopes: np.ndarray, weights: np.ndarray) -> int:
    """1: the contrast of the second picture is higher by one factor; -1: lower; 0: there is no such factor.

    Args:
        slopes: the factor in each block; weights: how much it counts.
    """
    order = np.argsort(slopes)
    slope = slopes[order][np.searchsorted(weights[order].cumsum(), weights.sum() / 2)]  # the median
    if _share(np.abs(slopes / slope - 1) <= SAME_SLOPE, weights) < MOSTLY:
        return 0
    return 1 if slope > 1 + SAME_SLOPE else -1 if slope < 1 - SAME_SLOPE else 0


def _share(chosen: np.ndarray, weights: np.ndarray) -> float:
    return float(weights[chosen].sum() / max(weights.sum(), 1.0))


def _is_gray(pixels: np.ndarray) -> bool:
    return bool(np.ptp(pixels, axis=-1).mean() < GRAY)


def _is_another_version(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether they differ in brightness and contrast alone, or one is the other in grey."""
    if _is_gray(a) or _is_gray(b):
        a, b = ((picture @ BRIGHTNESS)[..., None] for picture in (a, b))
    a, b = (picture.reshape(-1, picture.shape[2]) for picture in (a, b))
    deviation = a - a.mean(axis=0)
    slope = (deviation * b).sum(axis=0) / np.maximum((deviation**2).sum(axis=0), 1.0)
    left = np.abs(b - b.mean(axis=0) - slope * deviation).max(axis=1)
    return bool((left > CHANGED).mean() < MIN_CHANGED)


def _edges(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) → differences of brightness to the next pixel below and to the right (2, H - 1, W - 1)."""
    gray = picture.mean(axis=2)
    return np.stack((np.diff(gray, axis=0)[:, :-1], np.diff(gray, axis=1)[:-1]))


def _in_blocks(values: np.ndarray) -> np.ndarray:
    """(H, W) → (H / BLOCK, BLOCK, W / BLOCK, BLOCK), without what is left over at the ends."""
    rows, columns = values.shape[0] // BLOCK, values.shape[1] // BLOCK
    return values[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
