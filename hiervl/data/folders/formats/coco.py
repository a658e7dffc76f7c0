"""COCO JSON: instances of all images in one file, as COCO and many tools write it.

Polygons and run lengths (packed or not) are read. If the JSON has no sizes, they come from the image files. Small
objects lie on top of large ones. Annotations with only a box have no outline: if they are few, their area does not
count. Described at https://cocodataset.org/#format-data.
"""

import ast
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import ONLY_BOXES, Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationList, load_json
from hiervl.data.folders.kinds import COCO, kind_of_json
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

logger = logging.getLogger(__name__)

KIND = "COCO JSON"
MAX_BOXES = 0.05  # the file is refused if a larger share of annotations has no outline
ODD_OUTLINES = (
    "outlines cannot be drawn (an odd number of coordinates, or fewer than 3 points): their box does not count"
)
NO_NUMBERS = "outlines have a coordinate that is no number: their box does not count"
NO_NUMBERS_NO_BOX = "outlines have a coordinate that is no number, and no box: they are left out"
NOT_DRAWN = "outlines of an odd number of coordinates, or of none, are left out"
NO_OUTLINE = "objects have neither outline nor box and are left out"
MIN_POINTS = 3
NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")  # "0003" and "3.0" are the number 3


class CocoFile(AnnotationList):
    """The annotations of a COCO file. The entry of a key is an image with its annotations."""

    kind = KIND

    def __init__(self, path: Path, class_map: ClassMap, images: Mapping[str, Path] | None = None):
        """
        Raises:
            UserError: the file is missing or not COCO JSON of instances; more than :data:`MAX_BOXES` of its
                annotations have no outline; or ids do not say which image or category annotations are of.
        """
        super().__init__(path, class_map, images or {})
        content = _read(path)
        try:
            by_id: dict[str, list[dict]] = {}
            for annotation in content["annotations"]:
                by_id.setdefault(id_text(annotation["image_id"]), []).append(annotation)
            self.categories = self._names_by_id(content["categories"])
            files = self._files_by_id(content["images"], by_id)
            written = _same_ids(by_id, files)
            self._refuse_unlisted(item for number in written.values() for item in by_id[number])
            for image in content["images"]:
                own = by_id.get(written.get(id_text(image["id"]), ""), [])
                self.add_entry(image["file_name"], (image, own))
        except (KeyError, TypeError, AttributeError) as error:
            missing = f"an entry has no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path} is not a COCO file of instances, with images, annotations and categories ({missing})."
            ) from None
        lost = {number: found for number, found in by_id.items() if number not in written.values()}
        if lost:
            self._report_lost(lost)
        self._refuse_boxes(content["annotations"])

    def _names_by_id(self, categories: Sequence[dict]) -> dict[str, str]:
        """The name of each category id.

        Raises:
            UserError: two categories have the same id.
        """
        names: dict[str, str] = {}
        for category in categories:
            number, name = id_text(category["id"]), str(category["name"])
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"{self.path} gives the id {number} to two categories, {names[number]} and {name}, so that objects "
                    "may be of either: export it again with a separate id for each category."
                )
        return names

    def _files_by_id(self, images: Sequence[dict], by_id: Mapping[str, list[dict]]) -> dict[str, str]:
        """The file of each image id.

        Raises:
            UserError: two images have the same id, and annotations refer to it.
        """
        files: dict[str, str] = {}
        for image in images:
            number, file = id_text(image["id"]), str(image["file_name"])
            if files.setdefault(number, file) != file and number in by_id:
                raise UserError(
                    f"{self.path} gives the id {number} to two images, {files[number]} and {file}, so that its "
                    "annotations may be of either: export it again with a separate id for each image."
                )
        return files

    def _report_lost(self, lost: Mapping[str, list[dict]]) -> None:
        """Report annotations whose images are not listed. They are harmless if the images were left out of the list on
        purpose, but not if images of the folder have lost their annotations.

        Raises:
            UserError: images of the folder have no annotations.
        """
        count = sum(map(len, lost.values()))
        which = (
            f"{count} annotations refer to {len(lost)} images that the file does not list (the first image_id: "
            f"{next(iter(lost))})"
        )
        empty = [key for key, (_, found) in self.keys.items() if not found and (not self.images or key in self.images)]
        if empty:
            raise UserError(
                f"{self.path}: {which}, and {len(empty)} images have no annotations, such as {empty[0]}: export it "
                "again, or correct the ids; only if these images really show no object, delete the annotations of the "
                "images that are not listed."
            )
        self.notes.append(f"{self.path}: {which}; they are left out.")
        logger.warning("%s", self.notes[-1])

    def _refuse_unlisted(self, annotations: Iterable[dict]) -> None:
        numbers = Counter(item.get("category_id") for item in annotations)
        unlisted = [number for number in numbers if id_text(number) not in self.categories]
        if not unlisted:
            return
        count = numbers[None] or sum(numbers[number] for number in unlisted)
        which = (
            "no category_id" if None in unlisted else
            f"category_id {listed(unlisted)}, which `categories` lacks"
        )  # fmt: skip
        advice = "add the category's id" if None in unlisted else "add the category"
        raise UserError(
            f"{self.path}: {count} {'annotations have' if count > 1 else 'annotation has'} {which}: export it again, "
            f"or {advice}."
        )

    def _refuse_boxes(self, annotations: Sequence[dict]) -> None:
        boxes = sum(not _has_outline(annotation.get("segmentation")) for annotation in annotations)
        if boxes > MAX_BOXES * len(annotations):
            raise UserError(
                f"{self.path}: {boxes} of {len(annotations)} annotations have no outline (boxes only): export them as "
                "polygons or run lengths (RLE)."
            )

    def annotation(self, key: str) -> Annotation:
        image, annotations = self.keys[key]
        size = (image.get("height"), image.get("width"))
        size = size if all(size) else _size_run_length_shapes(annotations)
        found = [_shapes_of(item, self.categories[id_text(item["category_id"])]) for item in annotations]
        found.sort(key=lambda pair: -pair[0])
        drawn = [shape for _, shapes in found for shape in shapes]
        return Annotation(drawn, (int(size[0]), int(size[1])) if all(size) else None)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path)
    except OSError as error:
        raise UserError(f"the masks {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        reason = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"{path} is not a JSON file ({reason}): export it again.") from None
    kind = kind_of_json(content)
    if kind != COCO:
        name = kind.name if kind is not None else "another kind"
        raise UserError(
            f"{path} is not a COCO file of instances, with images, annotations and categories, but {name}: "
            f"{kind.advice if kind is not None else 'export COCO JSON'}."
        )
    return content


def id_text(number: Any) -> str:
    """An id as text; 3 and 3.0 are the same."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _same_ids(written: Collection[str], listed: Collection[str]) -> dict[str, str]:
    """Listed id → the same id as annotations write it: equal, or the only one of the same number ("0003" and "3")."""
    by_number = {_number(one): one for one in written}
    counts = [Counter(map(_number, ids)) for ids in (written, listed)]
    found = {}
    for one in listed:
        number = _number(one)
        if one in written:
            found[one] = one
        elif all(count[number] == 1 for count in counts):
            found[one] = by_number[number]
    return found


def _number(text: str) -> str:
    match = NUMBER.fullmatch(text)
    return match[1] if match else text


def _size_run_length_shapes(annotations: Sequence[dict]) -> tuple[Any, Any]:
    """Height and width of the image that run lengths are for; (None, None): there are none."""
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict) and len(size := segmentation.get("size", ())) == 2:
            return size[0], size[1]
    return None, None


def _has_outline(segmentation: Any) -> bool:
    return bool(segmentation) and (isinstance(segmentation, list) or "counts" in segmentation)


def _shapes_of(annotation: dict, name: str) -> tuple[float, list[Shape]]:
    """The area of an annotation, and its parts as shapes of one group.

    Raises:
        ValueError, TypeError, AttributeError: its run lengths cannot be read.
    """
    segmentation, group = annotation.get("segmentation"), annotation.get("id")
    if segmentation is None or not _has_outline(segmentation):
        return _box(annotation.get("bbox"), name)
    is_crowd = bool(annotation.get("iscrowd"))
    if isinstance(segmentation, dict):
        return _run_length_shapes(segmentation, name, is_crowd)
    if all(isinstance(part, dict) for part in segmentation):  # run lengths of several parts
        found = [_run_length_shapes(part, name, is_crowd) for part in segmentation]
        return sum(area for area, _ in found), [replace(shape, group=group) for _, own in found for shape in own]
    area, parts, boxes = 0.0, [], []
    for values, ring in zip(*_rings(segmentation)):
        if ring is None or len(np.unique(ring, axis=0)) < MIN_POINTS:
            boxes.append(_undrawn(values, annotation.get("bbox"), name))
            continue
        part = shapes.polygon(name, ring.tolist(), group=group)
        parts.append(shapes.crowd(part) if is_crowd else part)
        x, y = ring.T
        area += abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    return area, [*boxes, *parts]  # what can be drawn lies on top


def _undrawn(values: Any, box: Any, name: str) -> Shape:
    """The area of an outline that cannot be drawn: the box of its points, else of the whole object."""
    flat = np.array([_number_or_nan(value) for value in values] if isinstance(values, list) else [], dtype=np.float64)
    points = flat[: len(flat) // 2 * 2].reshape(-1, 2)
    wrong = not np.isfinite(flat).all()
    points = points[np.isfinite(points).all(axis=1)]
    low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(2), np.zeros(2))
    whole = _ring(box)
    if not (high > low).all() and whole is not None and len(whole) == 2:
        low, high = whole[0], whole.sum(axis=0)
    if not (np.isfinite([low, high]).all() and (high > low).all()):
        problem = NO_NUMBERS_NO_BOX if wrong else NOT_DRAWN if len(points) != 2 else shapes.FEW_POINTS
        return shapes.left_out(name, problem)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return shapes.box(name, left, top, right, bottom, problem=NO_NUMBERS if wrong else ODD_OUTLINES)


def _number_or_nan(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _rings(segmentation: list) -> tuple[list, list[np.ndarray | None]]:
    """The parts of an outline as written, and as points (n, 2); None for invalid ones. Some tools write one outline
    without a list, some as a list of points."""
    if not any(isinstance(value, (list, dict)) for value in segmentation):
        segmentation = [segmentation]
    elif len(segmentation) > 2 and all(isinstance(point, list) and len(point) == 2 for point in segmentation):
        segmentation = [[coordinate for point in segmentation for coordinate in point]]
    return segmentation, [_ring(values) for values in segmentation]


def _ring(values: Any) -> np.ndarray | None:
    try:
        flat = np.asarray(values, dtype=np.float64).ravel()
    except (ValueError, TypeError):
        return None
    return flat.reshape(-1, 2) if len(flat) and len(flat) % 2 == 0 and np.isfinite(flat).all() else None


def _box(box: Any, name: str) -> tuple[float, list[Shape]]:
    ring = _ring(box)
    if ring is None or len(ring) != 2:
        return 0.0, [shapes.left_out(name, NO_OUTLINE)]
    (left, top), (width, height) = ring
    area = float(width * height)
    return area, [shapes.box(name, left, top, left + width, top + height, problem=ONLY_BOXES)]


def _run_length_shapes(segmentation: dict, name: str, is_crowd: bool) -> tuple[float, list[Shape]]:
    height, width = map(int, segmentation["size"])
    encoded, counts = segmentation, segmentation["counts"]
    if isinstance(counts, list):
        encoded = coco_mask.frPyObjects(segmentation, height, width)
    elif counts.startswith(("b'", 'b"')):  # bytes that Python's str() was applied to
        encoded = {**segmentation, "counts": ast.literal_eval(counts)}
    left, top, columns, rows = map(int, coco_mask.toBbox(encoded))

    def draw(image_height: int, image_width: int) -> shapes.Patch:
        if (image_height, image_width) != (height, width):
            raise ValueError(f"run lengths of {width}×{height} pixels, but an image of {image_width}×{image_height}")
        pixels = coco_mask.decode(encoded)[top : top + rows, left : left + columns]
        return shapes.Patch(top, left, pixels.astype(bool))

    shape = Shape(name, draw)
    return float(coco_mask.area(encoded)), [shapes.crowd(shape) if is_crowd else shape]
