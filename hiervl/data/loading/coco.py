"""Draw objects in COCO's format as label and instance maps."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from hiervl.data.registered.catalogs import IGNORE_LABEL

MIN_POLYGON_NUMBERS = 6  # x and y of three corners; pycocotools would take four numbers for a box


class CocoObject(NamedTuple):
    """The pixels and class of an annotation. A crowd is several objects in one annotation."""

    mask: np.ndarray  # (H, W) bool
    label: int
    is_crowd: bool


def read_coco_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons, or run lengths with counts as numbers or as text → bool (H, W)."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= MIN_POLYGON_NUMBERS]
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return coco_mask.decode(code).astype(bool)


def paint_coco_maps(
    objects: Iterable[CocoObject], height: int, width: int, background: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class and the instance of every pixel of an image.

    If objects overlap, the smaller one is on top, because it usually lies on the larger one. Crowds lie below all
    objects. Crowds give their class to pixels but are not instances; nor are objects with ``IGNORE_LABEL``.

    Args:
        background: label of the pixels that no object covers.

    Returns:
        Classes (H, W) uint8; instance numbers (H, W) int32 from 1 on, 0 without an instance.
    """
    classes = np.full((height, width), background, dtype=np.uint8)
    instances = np.zeros((height, width), dtype=np.int32)
    number = 0
    for item in sorted(objects, key=lambda item: (not item.is_crowd, -int(item.mask.sum()))):
        classes[item.mask] = item.label
        is_instance = not item.is_crowd and item.label != IGNORE_LABEL and bool(item.mask.any())
        number += is_instance
        instances[item.mask] = number if is_instance else 0
    return classes, instances
