"""Find images that are the same or nearly the same, by a perceptual hash."""

from typing import NamedTuple

import cv2
import numpy as np

SIDE = 16  # the hash has SIDE × SIDE bits
MAX_BITS = 12  # how many of 256 bits may differ: recompression and resizing change some
BITS_SET = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)  # of every 16-bit number
MAX_GRAY = 6.0  # mean difference of the thumbnails, in 0…255; flat images have a hash without meaning


class Fingerprint(NamedTuple):
    """The parts of an image that are compared."""

    bits: np.ndarray  # (SIDE * SIDE / 8,) uint8
    thumbnail: np.ndarray  # (SIDE, SIDE + 1) uint8


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Difference hash of an image (H, W, 3), uint8 RGB: whether brightness falls from each cell to the next."""
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(gray, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return Fingerprint(np.packbits(thumbnail[:, :-1] > thumbnail[:, 1:]), thumbnail)


def near_duplicates(first: dict[str, Fingerprint], second: dict[str, Fingerprint]) -> list[tuple[str, str]]:
    """Pairs of names, one of each set, whose images look the same."""
    if not first or not second:
        return []
    names = list(second)
    bits = np.stack([second[name].bits for name in names]).view(np.uint16)
    thumbnails = np.stack([second[name].thumbnail for name in names]).astype(np.float32)
    pairs: list[tuple[str, str]] = []
    for name, mark in first.items():
        close = np.flatnonzero(BITS_SET[bits ^ mark.bits.view(np.uint16)].sum(axis=1, dtype=np.int32) <= MAX_BITS)
        gray = np.abs(thumbnails[close] - mark.thumbnail).mean(axis=(1, 2))
        pairs.extend((name, names[index]) for index in close[gray <= MAX_GRAY])
    return pairs
