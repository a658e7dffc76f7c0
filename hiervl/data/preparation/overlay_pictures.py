"""Compare two pictures: is one of them the other with something drawn over it, such as its labels?"""

import enum
import math
from pathlib import Path

import cv2
import numpy as np

from hiervl.data.loading.readers import read_overview
from hiervl.utils.errors import UserError

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


class Comparison(enum.Enum):
    """What two pictures are to each other."""

    FIRST_IS_OVERLAY = enum.auto()
    SECOND_IS_OVERLAY = enum.auto()
    ALIKE = enum.auto()  # one photograph twice; neither is an overlay, or nobody can tell which
    DIFFERENT = enum.auto()  # or they cannot be compared


def compare_files(first: Path, second: Path) -> Comparison:
    """As :func:`compare_pictures`; a file that cannot be read is different from every other."""
    try:
        return compare_pictures(*(read_overview(str(path))[1] for path in (first, second)))
    except UserError:
        return Comparison.DIFFERENT


def compare_pictures(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compare two pictures (H, W, 3) RGB.

    Either a good part of both is the very same; then the one whose other pixels are more colorful is the overlay. Or a
    transparent drawing covers all, such as the colors of all classes; then contrast is lower by one factor throughout.
    """
    if abs(math.log(first.shape[0] * second.shape[1] / (first.shape[1] * second.shape[0]))) > MAX_DISTORTION:
        return Comparison.DIFFERENT
    height, width = min(first.shape[:2], second.shape[:2])
    scale = min(1.0, SIDE / max(height, width))
    size = (max(round(width * scale), BLOCK + 1), max(round(height * scale), BLOCK + 1))
    a, b = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) for picture in (first, second))
    edges_a, edges_b = _edges(a), _edges(b)
    energy_a, energy_b, covariance = (
        _in_blocks((one * other).sum(0)).sum(axis=(1, 3)).ravel()
        for one, other in ((edges_a, edges_a), (edges_b, edges_b), (edges_a, edges_b))
    )
    difference = np.abs(a - b).max(axis=2)
    is_same = _in_blocks(difference[:-1, :-1]).max(axis=(1, 3)).ravel() <= EQUAL
    if max(_share(is_same, energy_a), _share(is_same, energy_b)) >= MIN_ALIKE:
        return Comparison.ALIKE if _is_another_version(a, b) else _more_colorful(a, b, difference)
    is_linear = (covariance > 0) & (covariance**2 >= LINEAR * energy_a * energy_b) & (energy_a > 0)
    if max(_share(is_linear, energy_a), _share(is_linear, energy_b)) < MIN_LINEAR:
        return Comparison.DIFFERENT
    if _is_another_version(a, b):
        return Comparison.ALIKE
    energy_a, energy_b, covariance = energy_a[is_linear], energy_b[is_linear], covariance[is_linear]
    a_has_less = _has_less_contrast(covariance / energy_b, energy_b)
    b_has_less = _has_less_contrast(covariance / energy_a, energy_a)
    return _overlay(a_has_less and not b_has_less, b_has_less and not a_has_less)


def _more_colorful(a: np.ndarray, b: np.ndarray, difference: np.ndarray) -> Comparison:
    """The overlay is the one in which the pixels that differ are more colorful."""
    changed, equal = difference > CHANGED, difference <= EQUAL
    if changed.mean() < MIN_CHANGED:
        return Comparison.ALIKE
    if _is_gray(a) != _is_gray(b) and not (_is_gray(a[equal]) and _is_gray(b[equal])):
        return Comparison.ALIKE  # one shows the colors of the other, or a part of them
    colorful, other = (np.ptp(picture[changed], axis=-1).mean() for picture in (a, b))
    return _overlay(colorful > MORE_COLORFUL * other, other > MORE_COLORFUL * colorful)


def _has_less_contrast(slopes: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a picture has less contrast than another one, by about the same factor in most blocks.

    Args:
        slopes: its contrast over that of the other, in each block; weights: how much a block counts.
    """
    order = np.argsort(slopes)
    slope = slopes[order][np.searchsorted(weights[order].cumsum(), weights.sum() / 2)]  # the median
    is_same = _share(np.abs(slopes / slope - 1) <= SAME_SLOPE, weights) >= MOSTLY
    return bool(is_same and slope < 1 - SAME_SLOPE)


def _overlay(is_first: bool, is_second: bool) -> Comparison:
    if is_first:
        return Comparison.FIRST_IS_OVERLAY
    return Comparison.SECOND_IS_OVERLAY if is_second else Comparison.ALIKE


def _share(chosen: np.ndarray, weights: np.ndarray) -> float:
    return float(weights[chosen].sum() / max(weights.sum(), 1.0))


def _is_gray(pixels: np.ndarray) -> bool:
    return bool(np.ptp(pixels, axis=-1).mean() < GRAY)


def _is_another_version(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether they differ in brightness, contrast or tone alone, or one is the other in grey."""
    if _is_gray(a) or _is_gray(b):
        a, b = ((picture @ BRIGHTNESS)[..., None] for picture in (a, b))
    a, b = (picture.reshape(-1, picture.shape[2]) for picture in (a, b))
    return _follows(a, b) or _follows(b, a)


def _follows(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether nearly all pixels (N, channels) of ``b`` have the mean value of those with the same value in ``a``."""
    distance = np.zeros(len(a))
    for values, others in zip(np.rint(a.T).astype(np.intp), b.T):
        mean = np.bincount(values, weights=others) / np.maximum(np.bincount(values), 1)
        distance = np.maximum(distance, np.abs(others - mean[values]))
    return bool((distance > CHANGED).mean() < MIN_CHANGED)


def _edges(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) → differences of brightness to the next pixel below and to the right (2, H - 1, W - 1)."""
    gray = picture.mean(axis=2)
    return np.stack((np.diff(gray, axis=0)[:, :-1], np.diff(gray, axis=1)[:-1]))


def _in_blocks(values: np.ndarray) -> np.ndarray:
    """(H, W) → (H / BLOCK, BLOCK, W / BLOCK, BLOCK), without what is left over at the ends."""
    rows, columns = values.shape[0] // BLOCK, values.shape[1] // BLOCK
    return values[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
