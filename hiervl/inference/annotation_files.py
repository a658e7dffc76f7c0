"""Label maps as drafts for annotation tools: regions as polygons in COCO's JSON, which the tools let people drag."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.inference.postprocess import objects_of_map
from hiervl.inference.predictor import Prediction
from hiervl.inference.results import category_id, coco_box
from hiervl.utils.files import write_json

# Polygons may leave a region's border by so many pixels, which saves most of their points: the first at which the
# polygon and the region agree well enough. The last one is exact.
TOLERANCES = (1.0, 0.5, 0.0)
MIN_IOU = 0.95
# Regions of a smaller share of the image, or of fewer pixels, are no work for a person: they are left out.
MIN_SHARE = 1e-4
MIN_AREA = 4
ENLARGED = 2  # OpenCV's outlines run through the centres of pixels: so enlarged, a line of one pixel has an area


class CocoDraft:
    """Collects label maps and writes them as one COCO file of instances.

    Every connected region of a class that is no background is an annotation with one polygon, a hole being joined to
    the outline by a cut of no width: Label Studio reads neither run lengths nor rings of their own.
    """

    def __init__(self, classes: Sequence[ClassDefinition]):
        self.drawn = [label for label, definition in enumerate(classes) if not definition.background]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [{"id": category_id(label), "name": classes[label].name} for label in self.drawn]

    def add(self, file_name: str, prediction: Prediction) -> None:
        """file_name: the image's, as the annotation tool will know it."""
        height, width = prediction.semantic.shape
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        least = max(MIN_AREA, MIN_SHARE * height * width)
        for region in objects_of_map(prediction.semantic, prediction.confidence, self.drawn):
            if region.area < least:
                continue
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id(region.label),
                    "segmentation": [outline(region.mask, region.box[0], region.box[1])],
                    "area": region.area,
                    "bbox": coco_box(region.box),
                    "iscrowd": 0,
                }
            )

    def write(self, path: Path) -> None:
        """Write the file, which appears complete or not at all."""
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        write_json(path, content)


def outline(mask: np.ndarray, top: int = 0, left: int = 0) -> list[float]:
    """A connected region (h, w) bool, whose first pixel is at (top, left) → x, y, x, y, … of its polygon.

    It has as few points as it may have without covering another area than the region. Pixel (row, column) covers rows
    row … row + 1 and columns column … column + 1, as in COCO's format.
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
    """One ring (n, 2) that goes round ``ring``, from its point nearest to ``hole`` over and round that, and back."""
    distance, nearest = cKDTree(ring).query(hole)
    there = int(distance.argmin())
    at = int(nearest[there])
    return np.concatenate([ring[: at + 1], hole[there:], hole[: there + 1], ring[at:]])
