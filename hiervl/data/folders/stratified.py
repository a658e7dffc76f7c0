"""Draw images so that every class occurs: orders and subsets, from the classes of each image.

After the idea of iterative stratification (Sechidis et al., *On the stratification of multi-label data*, 2011): the
class with the smallest share of its images chooses next.
"""

import random
from collections.abc import Iterator

import numpy as np


def stratified_order(presence: np.ndarray, seed: int = 0) -> list[int]:
    """Images in an order in which every first part shows the classes as evenly as possible.

    First every class gets an image, the rarest class first. Images with several missing classes are preferred. Then
    always the class with the smallest drawn share of its images is next. A seeded shuffle breaks ties. The first n are
    part of the first n + 1, so labelled subsets of growing size are nested.

    Args:
        presence: (images, C) bool, whether an image shows a class.
    """
    return list(_draw(presence, seed, keep_one=False))


def choose_validation(presence: np.ndarray, count: int, seed: int = 0) -> list[int]:
    """At most ``count`` images for validation, sorted, drawn as in :func:`stratified_order`.

    The last image of a class is never taken, because training needs it more. So there may be fewer than ``count``.
    """
    chosen: list[int] = []
    for image in _draw(presence, seed, keep_one=True):
        if len(chosen) == count:
            break
        chosen.append(image)
    return sorted(chosen)


def _draw(presence: np.ndarray, seed: int, keep_one: bool) -> Iterator[int]:
    presence = np.asarray(presence, dtype=bool)
    shuffled = list(range(len(presence)))
    random.Random(seed).shuffle(shuffled)
    presence = presence[shuffled]
    remaining = np.ones(len(presence), dtype=bool)
    total = presence.sum(axis=0)
    drawn = np.zeros_like(total)
    while remaining.any():
        allowed = remaining
        if keep_one:
            last = (total > 0) & (total - drawn == 1)
            allowed = remaining & ~presence[:, last].any(axis=1)
            if not allowed.any():
                return
        position = _next(presence, allowed, drawn, total)
        yield shuffled[position]
        drawn = drawn + presence[position]
        remaining[position] = False


def _next(presence: np.ndarray, allowed: np.ndarray, drawn: np.ndarray, total: np.ndarray) -> int:
    """Position of the next allowed image, for the class with the smallest share."""
    available = presence[allowed].any(axis=0)
    if not available.any():  # images that show no class
        return int(np.argmax(allowed))
    share = np.where(available, drawn / np.maximum(total, 1), np.inf)
    worst = np.flatnonzero(share == share.min())
    chooser = worst[np.argmin(total[worst])]  # the rarest of them
    missing = presence[:, drawn == 0].sum(axis=1)
    return int(np.argmax(np.where(allowed & presence[:, chooser], missing + 1, 0)))
