"""Supervisely: a JSON file per image in ``ann/``, named like the image with ``.json`` after its suffix.

Bitmaps (a PNG in zlib in base64, placed by its origin), polygons with holes and rectangles are read. Later objects lie
on top. Coordinates are pixels, so the pixels of an outline belong to the object. Described in Supervisely's
documentation, "Supervisely annotation JSON format".
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hiervl.data.folders.files import list_files
from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Patch, Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationFiles, load_json
from hiervl.data.loading.readers import MAX_PIXELS

KIND = "Supervisely JSON"
NO_ANNOTATIONS = ("meta.json", "key_id_map.json", "obj_class_to_machine_color.json")


class SuperviselyFiles(AnnotationFiles):
    """The annotations of Supervisely's JSON files in a folder and its subfolders."""

    kind = KIND

    def __init__(self, path, class_map, images):
        super().__init__(path, class_map, images)
        for name in list_files(path, (".json",)):
            file = Path(name)
            if file.name not in NO_ANNOTATIONS:
                written = file.relative_to(path).with_suffix("").as_posix()
                self.add_file(self.image_names.find_for_file(written) or self.image_names.clean(written), file)

    def annotation(self, key: str) -> Annotation:
        content = load_json(self.keys[key])
        size = int(content["size"]["height"]), int(content["size"]["width"])
        return Annotation([_shape(item, str(self.keys[key])) for item in content["objects"]], size)


def _shape(item: dict[str, Any], file: str) -> Shape:
    name, kind = str(item["classTitle"]), item.get("geometryType") or ("bitmap" if item.get("bitmap") else "polygon")
    if kind == "bitmap":
        left, top = item["bitmap"]["origin"]
        return shapes.bitmap(name, shapes.png_bytes(item["bitmap"]["data"], file, _inflated), top, left)
    if kind == "polygon":
        return _pixel_polygon(name, item["points"]["exterior"], item["points"].get("interior", ()))
    if kind == "rectangle":
        (left, top), (right, bottom) = item["points"]["exterior"]
        return shapes.box(name, min(left, right), min(top, bottom), max(left, right) + 1, max(top, bottom) + 1)
    return shapes.left_out(name, f"{kind} figures have no area and are left out")


def _inflated(data: bytes) -> bytes:
    """Decompress zlib data, up to the largest possible image."""
    try:
        return zlib.decompressobj().decompress(data, MAX_PIXELS)
    except zlib.error as error:
        raise ValueError(f"a bitmap that zlib cannot unpack: {error}") from None


def _pixel_polygon(name: str, exterior: Sequence, interior: Sequence[Sequence]) -> Shape:
    """A polygon through centres of pixels, which belong to it, as Supervisely's SDK fills it with OpenCV."""
    rings = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in (exterior, *interior)]
    if not all(np.isfinite(ring).all() for ring in rings):
        raise ValueError("points that are not pairs of numbers")
    if len(rings[0]) < 3:
        return shapes.left_out(name, shapes.FEW_POINTS)

    def draw(height: int, width: int) -> Patch:
        far = shapes.FARTHEST * max(height, width)
        whole = [ring.clip(-far, far).round().astype(np.int32) for ring in rings]
        low, high = whole[0].min(axis=0), whole[0].max(axis=0) + 1
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, (width, height))
        pixels = np.zeros((max(0, bottom - top), max(0, right - left)), dtype=np.uint8)
        if pixels.size:
            for ring, value in zip(whole, [1, *[0] * len(interior)]):
                cv2.fillPoly(pixels, [(ring - (left, top)).astype(np.int32)], value)
        return Patch(int(top), int(left), pixels.astype(bool))

    return Shape(name, draw)
