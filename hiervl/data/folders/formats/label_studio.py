"""Label Studio: JSON of a project, one file of all tasks; JSON-MIN, and CSV and TSV, whose cells hold JSON-MIN.

Polygons, rectangles, ellipses (in percent of the image) and brush strokes (packed run lengths) are read. Later regions
lie on top. If an image has several annotations, the one marked as ground truth counts, else the newest. Predictions do
not count. Described in Label Studio's documentation, "Export annotations"; the packing of brush strokes is that of
``@thi.ng/rle-pack``. label-studio-converter reads it too, but does not give objects by image and brings the SDK.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationList, load_json, reading
from hiervl.data.loading.readers import MAX_PIXELS
from hiervl.utils.files import read_text

KIND = "Label Studio JSON"
DRAWN = ("polygon", "rectangle", "ellipse", "brush")
OLDER = "annotations are left out, because their image has a newer one"
NEWER_EMPTY = (
    "annotations without a region are newer than one with regions of the same image, and are left out: if that image "
    "shows none of the classes, delete its older annotations"
)
RGBA = 4
OPAQUE = 128  # least alpha of a pixel of a brush stroke that counts


class LabelStudioFile(AnnotationList):
    """The annotations of a Label Studio export. The entry of a key is the list of a task's annotations."""

    kind = KIND

    def __init__(self, path, class_map, images):
        super().__init__(path, class_map, images)
        with reading(str(path), KIND):
            of_task: dict[Any, list[dict[str, Any]]] = {}
            for task in read_tasks(path):
                annotations = annotations_of(task)
                if "annotation_id" in task and task.get("id") in of_task:  # an entry for each annotation of the task
                    of_task[task["id"]].extend(annotations)
                elif annotations:
                    self.add_entry(image_of(task, self.image_names), annotations)
                    of_task[task.get("id")] = annotations

    def annotation(self, key: str) -> Annotation:
        annotations = self.keys[key]
        results = list(_merged(chosen(annotations)["result"]))
        drawn = [result for result in results if _type(result) in DRAWN]
        size = next((_size(result) for result in drawn if "original_height" in result), None)
        left = _left_out(annotations)
        for result in results:
            if _type(result) in ("keypoint", "vector"):
                kind = f"{_type(result)} regions have no area and are left out"
                left[kind] = left.get(kind, 0) + 1
        if drawn and size is None:
            raise ValueError("its regions have no original_width and original_height")
        return Annotation([_shape(result, size) for result in drawn] if size is not None else [], size, left)


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of an export. A single task becomes a list of one."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return _tasks_from_table(path)
    content = load_json(path)
    tasks = [content] if isinstance(content, dict) else content
    if not all(isinstance(task, dict) for task in tasks):
        raise ValueError("its tasks are not objects")
    return tasks


def _tasks_from_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, in the form of JSON-MIN: lists of regions are JSON in a cell."""
    text = read_text(path)
    header = text.partition("\n")[0]
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # brush strokes are long
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count)))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return [{name: _value_of_cell(name, cell) for name, cell in row.items()} for row in rows]


def _value_of_cell(name: str, cell: Any) -> Any:
    if name == "annotation_id":
        return int(cell)
    return json.loads(cell) if isinstance(cell, str) and cell.startswith("[") else cell


def annotations_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The finished annotations of a task, in the form of the JSON export.

    JSON-MIN has no list of annotations: the regions are under the names of the labelling tags.
    """
    if "data" in task:
        annotations = task.get("annotations", task.get("completions")) or []
        return [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    regions = [
        {"original_height": region.get("original_height"), "original_width": region.get("original_width"),
         "type": _type_of_value(region), "value": region}
        for value in task.values() if isinstance(value, list)
        for region in value if isinstance(region, dict) and _type_of_value(region)
    ]  # fmt: skip
    if not regions and "annotation_id" not in task:
        return []
    return [{"result": regions, "id": task.get("annotation_id"), "updated_at": task.get("updated_at")}]


def chosen(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """The annotation that counts: the ground truth, else the newest with regions."""
    return max(annotations, key=lambda each: (bool(each.get("ground_truth")), bool(each.get("result")), *_age(each)))


def _age(annotation: dict[str, Any]) -> tuple[str, int]:
    return str(annotation.get("updated_at") or ""), annotation.get("id") or 0


def _left_out(annotations: list[dict[str, Any]]) -> dict[str, int]:
    """The annotations that do not count, by what is said of them."""
    choice = chosen(annotations)
    others = [annotation for annotation in annotations if annotation is not choice]
    empty = sum(_age(annotation) > _age(choice) and not annotation.get("result") for annotation in others)
    is_replaced = empty and not choice.get("ground_truth")
    counts = {NEWER_EMPTY: empty if is_replaced else 0, OLDER: len(others) - (empty if is_replaced else 0)}
    return {problem: count for problem, count in counts.items() if count}


def image_of(task: dict[str, Any], names) -> str:
    """The path of a task's image, as the export writes it."""
    data = task.get("data", task)
    written = [
        value for key, value in data.items() if isinstance(value, str) and key not in ("created_at", "updated_at")
    ]
    known = next((value for value in written if names.find(value)), None)
    if known is not None:
        return known
    if isinstance(data.get("image"), str) or written:
        return data["image"] if isinstance(data.get("image"), str) else written[0]
    raise ValueError(f"task {task.get('id')} names no image")


def _merged(results: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The regions. If geometry and label are separate results with one id, they are merged."""
    regions: dict[Any, dict[str, Any]] = {}
    for number, result in enumerate(results):
        if not isinstance(result.get("value"), dict):
            continue
        own = regions.setdefault(result.get("id", number), {**result, "value": {}})
        if _type(result) in DRAWN:
            own["type"] = result["type"]
        own["value"] = {**own["value"], **result["value"]}
    yield from regions.values()


def _type(result: dict[str, Any]) -> str:
    return str(result.get("type", "")).removesuffix("labels")


def _type_of_value(region: dict[str, Any]) -> str:
    if "points" in region:
        return "polygonlabels"
    if "rle" in region:
        return "brushlabels"
    if "radiusX" in region:
        return "ellipselabels"
    return "rectanglelabels" if {"x", "y", "width", "height"} <= region.keys() else ""


def _size(result: dict[str, Any]) -> tuple[int, int]:
    return int(result["original_height"]), int(result["original_width"])


def _shape(result: dict[str, Any], size: tuple[int, int]) -> Shape:
    value, kind = result["value"], _type(result)
    if size is None:
        raise ValueError("a region has no original_width and original_height")
    if result.get("image_rotation"):
        raise ValueError(f"the image is turned by {result['image_rotation']} degrees in Label Studio: turn the file")
    names = value.get(f"{kind}labels") or value.get("labels") or []
    name = str(names[0]) if names else "(no label)"
    if len(names) > 1:
        name = " + ".join(map(str, names))
    scale = np.array([size[1], size[0]]) / 100
    if kind == "polygon":
        return shapes.polygon(name, np.asarray(value["points"], dtype=float) * scale)
    if kind == "rectangle":
        return _rectangle(name, value, scale)
    if kind == "ellipse":
        x, y = np.array([value["x"], value["y"]]) * scale
        radius_x, radius_y = np.array([value["radiusX"], value["radiusY"]]) * scale
        return shapes.ellipse(name, x, y, radius_x, radius_y, float(value.get("rotation") or 0))
    pixels = unpack_runs(value["rle"])
    if pixels.size != size[0] * size[1] * RGBA:
        raise ValueError(f"a brush stroke of {pixels.size // RGBA} pixels for {size[1]}×{size[0]}")
    return shapes.bitmap(name, pixels.reshape(*size, RGBA)[:, :, 3] >= OPAQUE)


def _rectangle(name: str, value: dict[str, Any], scale: np.ndarray) -> Shape:
    """A rectangle, rotated about its upper left corner."""
    left, top = np.array([value["x"], value["y"]]) * scale
    width, height = np.array([value["width"], value["height"]]) * scale
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    angle = float(value.get("rotation") or 0)
    return shapes.turned_polygon(name, corners, (left, top), angle if math.isfinite(angle) else 0.0)


def unpack_runs(packed: list[int]) -> np.ndarray:
    """Unpack numbers of ``@thi.ng/rle-pack``: uint8 (n,).

    The bits are: 32 with the count n, 5 with the bits of a number (less one), four times 4 with the bits of a run's
    length (less one); then blocks of 1 bit (a run of one number, or single ones), 2 bits (which of the four), the
    length (less one), and the number or numbers.

    Raises:
        ValueError: the bits end too early, or the numbers have other than 8 bits.
    """
    bits = np.unpackbits(np.array(packed, dtype=np.uint8))
    place = 0

    def read(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("packed run lengths that end too early")
        word = bits[place : place + count]
        place += count
        return int(word @ (1 << np.arange(count - 1, -1, -1, dtype=np.int64)))

    count, word_size = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if word_size != 8 or count > RGBA * MAX_PIXELS:
        raise ValueError(f"packed run lengths of {count} numbers of {word_size} bits")
    out = np.zeros(count, dtype=np.uint8)
    done = 0
    while done < count:
        is_run = read(1)
        end = done + read(lengths[read(2)]) + 1
        if end > count:
            raise ValueError("packed run lengths that are longer than they say")
        if is_run:
            out[done:end] = read(word_size)
        else:
            size = (end - done) * word_size
            if place + size > len(bits):
                raise ValueError("packed run lengths that end too early")
            out[done:end] = np.packbits(bits[place : place + size])
            place += size
        done = end
    return out
