"""labelme: a JSON file per image, beside the images or in a separate folder.

``shapes`` are drawn in the file's order, as in labelme's own masks. Polygons, rectangles (also X-AnyLabeling's rotated
ones), circles and masks are read; lines and points have no area. The image inside the file (``imageData``) is ignored.
The format is described in labelme's ``label_file.py`` and its examples.
"""

import math
from pathlib import Path
from typing import Any

from hiervl.data.classes.class_maps import IGNORED
from hiervl.data.folders.files import list_files
from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationFiles, load_json

KIND = "labelme JSON"
OTHER_IMAGE = (
    "files have the name of one image and the imagePath of another, and are read for the one of their name: if "
    "imagePath is right, rename the files so; else correct it"
)
# Labels with a special meaning in labelme's examples.
IGNORE_LABEL, BACKGROUND_LABEL = "__ignore__", "_background_"


class LabelmeFiles(AnnotationFiles):
    """The annotations of labelme's JSON files in a folder and its subfolders."""

    kind = KIND

    def __init__(self, path, class_map, images):
        super().__init__(path, class_map, images)
        for name in list_files(path, (".json",)):
            file = Path(name)
            stem = file.relative_to(path).with_suffix("").as_posix()
            self.add_file(self.image_names.find_for_file(stem) or self._image_in(file) or stem, file)

    def _image_in(self, file: Path) -> str | None:
        """The image named in the file, if its name differs from the file's."""
        try:
            return self.image_names.find(load_json(file)["imagePath"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # reading it reports the problem

    def label_of(self, name: str) -> int | None:
        label = super().label_of(name)
        if label is None and name == IGNORE_LABEL:
            return IGNORED
        return self.class_map.background if label is None and name == BACKGROUND_LABEL else label

    def annotation(self, key: str) -> Annotation:
        content = load_json(self.keys[key])
        height, width = content.get("imageHeight"), content.get("imageWidth")
        size = (int(height), int(width)) if height and width else None
        remarks = {OTHER_IMAGE: 1} if self._names_other_image(key, content.get("imagePath")) else {}
        return Annotation([_shape(item, str(self.keys[key])) for item in content["shapes"]], size, remarks)

    def _names_other_image(self, key: str, written: Any) -> bool:
        """Whether ``imagePath`` is another image of the dataset than the one of the file's own name."""
        found = self.image_names.find(written) if isinstance(written, str) and written else None
        return found is not None and key in self.images and self.images[found] != self.images[key]


def _shape(item: dict[str, Any], file: str) -> Shape:
    name, points, kind = str(item["label"]), item["points"], item.get("shape_type") or "polygon"
    group = item.get("group_id")
    if kind in ("polygon", "oriented_rectangle", "rotation", "quadrilateral"):
        return shapes.polygon(name, points, group=group)
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return shapes.polygon(name, [(left, top), (right, top), (right, bottom), (left, bottom)], group=group)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        return shapes.ellipse(name, x, y, radius, radius, group=group)
    if kind == "mask":
        pixels = shapes.png_bytes(item["mask"], file)
        return shapes.bitmap(name, pixels, round(points[0][1]), round(points[0][0]), group)
    return shapes.left_out(name, f"{kind} shapes have no area and are left out")
