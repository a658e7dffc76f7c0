"""Label maps as drafts for annotation tools: regions as polygons in COCO's JSON, which people can edit there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.inference.outlines import draft_regions
from hiervl.inference.predictor import Prediction
from hiervl.inference.results import category_id, coco_box
from hiervl.utils.files import write_json


class CocoDraft:
    """Collects label maps and writes them as one COCO file of instances.

    Every connected region of a class (except background) is an annotation with one polygon. A hole is joined to the
    outline by a cut of zero width, because Label Studio reads neither run lengths nor separate rings.
    """

    def __init__(self, classes: Sequence[ClassDefinition]):
        self.drawn = [label for label, definition in enumerate(classes) if not definition.background]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [{"id": category_id(label), "name": classes[label].name} for label in self.drawn]

    def add(self, file_name: str, prediction: Prediction) -> None:
        """file_name: the name by which the annotation tool knows the image."""
        height, width = prediction.semantic.shape
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for region, polygon in draft_regions(prediction, self.drawn):
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id(region.label),
                    "segmentation": [polygon],
                    "area": region.area,
                    "bbox": coco_box(region.box),
                    "iscrowd": 0,
                }
            )

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all."""
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        write_json(path, content)
