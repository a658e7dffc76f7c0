"""Regions of a label map as polygons that people can edit. A hole is joined to the outline by a cut of zero width."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from hiervl.inference.postprocess import Instance, objects_of_map
from hiervl.inference.predictor import Prediction

# Tolerances in pixels for simplified polygons, which need far fewer points. The first one with a good enough match is
# used; the last one is exact.
TOLERANCES = (1.0, 0.5, 0.0)
MIN_IOU = 0.95
# Regions with a smaller share of the image, or fewer pixels, are left out: they are not worth correcting.
MIN_SHARE = 1e-4
MIN_AREA = 4
ENLARGED = 2  # OpenCV's outlines go through pixel centres; enlarged by this, a line of one pixel has an area


def draft_regions(prediction: Prediction, drawn: Sequence[int]) -> Iterator[tuple[Instance, list[float]]]:
    """Every connected region of the labels ``drawn`` that is large enough, with its outline: x, y, x, y, …"""
    height, width = prediction.semantic.shape
    least = max(MIN_AREA, MIN_SHARE * height * width)
    for region in objects_of_map(prediction.semantic, prediction.confidence, drawn):
        if region.area >= least:
            yield region, outline(region.mask, region.box[0], region.box[1])


def outline(mask: np.ndarray, top: int = 0, left: int = 0) -> list[float]:
    """A connected region (h, w) bool, whose first pixel is at (top, left) → x, y, x, y, … of its polygon.

    It has as few points as possible while covering the same area. Pixel (row, column) covers rows row … row + 1 and
    columns column … column + 1, as in COCO's format.
    """
    enlarged = np.repeat(np.repeat(mask.astype(np.uint8), ENLARGED, 0), ENLARGED, 1)
    rings, _ = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = sorted(rings, key=cv2.contourArea, reverse=True)  # the outline, then the holes
    region = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    for tolerance in TOLERANCES:
        simple = [cv2.approxPolyDP(ring, tolerance * ENLARGED, True)[:, 0] for ring in rings]
        polygon = simple[0]
        for hole in simple[1:]:
            if len(hole) > 2:
                polygon = _joined(polygon, hole)
        points = (polygon + 0.5) / ENLARGED
        if len(points) > 2 and _iou(points, region) >= MIN_IOU:
            break
    return [round(float(value), 2) for value in (points + (left, top)).ravel()]


def _iou(points: np.ndarray, region: dict[str, Any]) -> float:
    drawn = coco_mask.frPyObjects([points.ravel().tolist()], *region["size"])
    return coco_mask.iou(drawn, [region], [0])[0, 0]


def _joined(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring (n, 2) around ``ring`` that goes from the point nearest to ``hole`` around the hole and back."""
    distance, nearest = cKDTree(ring).query(hole)
    there = int(distance.argmin())
    at = int(nearest[there])
    return np.concatenate([ring[: at + 1], hole[there:], hole[: there + 1], ring[at:]])
