"""CVAT for images, version 1.1: one XML file of all images.

Polygons, boxes, ellipses and masks (run lengths inside their box) are read. Shapes with a larger ``z_order`` lie on
top. Points, polylines, cuboids and skeletons have no area. Described in CVAT's documentation, "XML annotation format".
The standard library's expat reads the file; every entity is refused.
"""

from collections import Counter
from pathlib import Path
from typing import Any
from xml.parsers import expat

from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationList, reading
from hiervl.utils.errors import UserError

KIND = "CVAT for images XML 1.1"
DRAWN = ("polygon", "box", "ellipse", "mask")
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


class CvatFile(AnnotationList):
    """The annotations of a CVAT XML file. The entry of a key is the attributes and elements of an image."""

    kind = KIND

    def __init__(self, path, class_map, images):
        super().__init__(path, class_map, images)
        with reading(str(path), KIND):
            content = read_cvat(path)
            for attributes, elements in content.images:
                self.add_entry(attributes["name"], (attributes, elements))

    def annotation(self, key: str) -> Annotation:
        attributes, elements = self.keys[key]
        size = int(attributes["height"]), int(attributes["width"])
        elements = sorted(elements, key=lambda element: int(element[1].get("z_order", 0)))
        left_out = Counter(f"{tag} shapes have no area and are left out" for tag, _ in elements if tag in WITHOUT_AREA)
        return Annotation([_shape(*element) for element in elements if element[0] in DRAWN], size, left_out)


class CvatContent:
    """The result of :func:`read_cvat`.

    Attributes:
        images: per image its attributes and its elements, each a tag and its attributes.
        labels: name and colour (``#rrggbb``, or "") of every label of the task.
    """

    def __init__(self):
        self.images: list[tuple[dict[str, str], list[tuple[str, dict[str, str]]]]] = []
        self.labels: list[tuple[str, str]] = []


def read_cvat(path: Path) -> CvatContent:
    """
    Raises:
        OSError: the file cannot be read.
        ValueError: it is not XML of CVAT for images, or it declares entities.
    """
    content = CvatContent()
    stack: list[str] = []
    texts: dict[str, str] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        if not stack and tag != "annotations":
            raise ValueError(f"its root is '{tag}'")
        stack.append(tag)
        if tag == "label":
            texts.clear()
        if tag == "track":
            raise UserError(f"{path} is CVAT for video XML: export the task from CVAT as 'CVAT for images 1.1'.")
        if tag == "image":
            content.images.append((attributes, []))
        elif "image" in stack[:-1] and stack[-2] == "image":
            content.images[-1][1].append((tag, attributes))

    def end(tag: str) -> None:
        stack.pop()
        if tag == "label" and "labels" in stack and texts.get("name", "").strip():
            content.labels.append((texts["name"].strip(), texts.get("color", "").strip()))

    def text(data: str) -> None:
        if len(stack) > 1 and stack[-2] == "label":
            texts[stack[-1]] = texts.get(stack[-1], "") + data

    def refuse(*_: Any) -> int:
        raise ValueError("it declares entities, which no tool for annotations does")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = parser.UnparsedEntityDeclHandler = refuse
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise ValueError(f"no XML: {error}") from None
    return content


def _shape(tag: str, attributes: dict[str, str]) -> Shape:
    name = attributes["label"]
    group = attributes.get("group_id") or None
    if tag == "mask":
        height, width = int(attributes["height"]), int(attributes["width"])
        pixels = shapes.runs([int(count) for count in attributes["rle"].split(",")], height, width)
        return shapes.bitmap(name, pixels, int(attributes["top"]), int(attributes["left"]), group)
    if tag == "polygon":
        points = [[float(value) for value in pair.split(",")] for pair in attributes["points"].split(";") if pair]
        return shapes.polygon(name, points, group=group)
    angle = float(attributes.get("rotation", 0))
    if tag == "box":
        left, top, right, bottom = (float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        return shapes.box(name, left, top, right, bottom, angle)
    x, y, radius_x, radius_y = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
    return shapes.ellipse(name, x, y, radius_x, radius_y, angle, group)
