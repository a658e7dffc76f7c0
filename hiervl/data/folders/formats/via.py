"""VGG Image Annotator (VIA) 1 and 2: one JSON file of all images, a project or the export of its annotations.

Polygons, rectangles, circles and ellipses are read. Later regions lie on top. The class of a region is one of its
attributes: the only one, or the one whose values are classes. Described in VIA's documentation and ``via.js``.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationList, load_json, reading
from hiervl.utils.errors import UserError

KIND = "VIA JSON"
NO_LABEL = "(no label)"


class ViaFile(AnnotationList):
    """The annotations of a VIA file. The entry of a key is the list of regions."""

    kind = KIND

    def __init__(self, path, class_map, images):
        """
        Raises:
            UserError: also if several attributes could be the class.
        """
        super().__init__(path, class_map, images)
        with reading(str(path), KIND):
            for file_name, regions in read_regions(path):
                self.add_entry(file_name, regions)
            self.attribute = self._class_attribute() if class_map.names else ""

    def _class_attribute(self) -> str:
        """The attribute whose values are classes."""
        values = attribute_values(regions for regions in self.keys.values())
        if len(values) < 2:
            return next(iter(values), "")
        fitting = [name for name, counts in values.items() if any(value in self.class_map.names for value in counts)]
        if len(fitting) == 1:
            return fitting[0]
        raise UserError(
            f"{self.path} has the region attributes {', '.join(sorted(values))}, and "
            f"{'none has' if not fitting else 'several have'} values that {self.class_map.path} names: make the class "
            "file name the values of the one that is the class."
        )

    def annotation(self, key: str) -> Annotation:
        return Annotation([_shape(region, self.attribute) for region in self.keys[key]])


def read_regions(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """File name and regions of every image."""
    content = load_json(path)
    for entry in content.get("_via_img_metadata", content).values():
        regions = entry["regions"]
        yield entry["filename"], list(regions.values() if isinstance(regions, dict) else regions)  # VIA 1 has a dict


def attribute_values(images) -> dict[str, Counter]:
    """How often each attribute of the regions has each value."""
    found: dict[str, Counter] = {}
    for regions in images:
        for region in regions:
            for name in region.get("region_attributes", {}):
                found.setdefault(name, Counter())[_value(region, name)] += 1
    return found


def _value(region: dict[str, Any], attribute: str) -> str:
    """The value of an attribute: a text, or the ticked one of several."""
    value = region.get("region_attributes", {}).get(attribute, "")
    if isinstance(value, dict):
        value = " + ".join(str(name) for name, ticked in value.items() if ticked)
    return str(value).strip() or NO_LABEL


def _shape(region: dict[str, Any], attribute: str) -> Shape:
    name, outline = _value(region, attribute), region["shape_attributes"]
    kind = outline["name"]
    if kind == "polygon":
        return shapes.polygon(name, list(zip(outline["all_points_x"], outline["all_points_y"])))
    if kind == "rect":
        left, top = outline["x"], outline["y"]
        return shapes.box(name, left, top, left + outline["width"], top + outline["height"])
    if kind == "circle":
        return shapes.ellipse(name, outline["cx"], outline["cy"], outline["r"], outline["r"])
    if kind == "ellipse":
        angle = math.degrees(outline.get("theta", 0))
        return shapes.ellipse(name, outline["cx"], outline["cy"], outline["rx"], outline["ry"], angle)
    return shapes.left_out(name, f"{kind} regions have no area and are left out")
