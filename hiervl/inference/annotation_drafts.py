"""Predictions as drafts for annotation tools, where people correct them: labelme, CVAT, Label Studio, YOLO's text
files.@@Every connected region of a class (except background) is a polygon, as in COCO drafts (``annotation_files.py``).
``hiervl/data/folders/formats/`` can read these files as annotations.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import yaml

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.inference.outlines import draft_regions
from hiervl.inference.predictor import Prediction
from hiervl.utils.files import json_text, write_text

FORMATS = ("labelme", "cvat", "label_studio", "yolo")
LABELME_VERSION = "5.5.0"  # their formats are written
MODEL_VERSION = "hiervl"
# CVAT takes an image that it does not find by name for the frame of this number, if there is one: better an error.
FIRST_CVAT_ID = 1_000_000


class Region(NamedTuple):
    """A region of one class: its label, and x, y, x, y, … of its outline in pixels."""

    label: int
    outline: list[float]


class DraftImage(NamedTuple):
    """An image and its regions.

    Attributes:
        name: name of its results, with / between folders and without a suffix.
        file: its path.
        size: height and width.
        regions: of all classes but the background.
    """

    name: str
    file: str
    size: tuple[int, int]
    regions: Sequence[Region]

    @property
    def file_name(self) -> str:
        """The name with the file's suffix, by which annotation tools know the image."""
        has_suffix = Path(self.name).name == Path(self.file).name  # where another file has the name without it
        return self.name if has_suffix else self.name + Path(self.file).suffix


def regions_of(prediction: Prediction, classes: Sequence[ClassDefinition]) -> list[Region]:
    """The regions of a prediction that are large enough to be worth correcting."""
    return [Region(region.label, outline) for region, outline in draft_regions(prediction, drawn_classes(classes))]


def drawn_classes(classes: Sequence[ClassDefinition]) -> list[int]:
    """Labels of the drawn classes: all except the background."""
    return [label for label, definition in enumerate(classes) if not definition.background]


class AnnotationDrafts:
    """Writes drafts into ``labelme/``, ``cvat/``, ``label_studio/`` and ``yolo/`` below a folder."""

    def __init__(self, folder: Path, classes: Sequence[ClassDefinition], formats: Sequence[str]):
        """
        Args:
            classes: in the order of the labels.
            formats: some of :data:`FORMATS`.
        """
        self.folder, self.classes = folder, list(classes)
        self.formats = [name for name in FORMATS if name in formats]
        self.drawn = drawn_classes(classes)

    def write_image(self, image: DraftImage) -> None:
        """Write the files of one image: those of labelme and YOLO."""
        if "labelme" in self.formats:
            path = self._path("labelme", f"{image.name}.json")
            content = labelme_content(image, path, self.classes)
            write_text(path, json_text(content, indent=2))
        if "yolo" in self.formats:
            write_text(self._path("yolo", f"labels/{image.name}.txt"), yolo_lines(image, self.drawn))

    def write_all(self, images: Iterable[DraftImage]) -> None:
        """Write the files for all images together, and the lists of classes."""
        images = list(images)
        if "cvat" in self.formats:
            text = "".join(cvat_lines(images, self.classes, self.drawn))
            write_text(self._path("cvat", "annotations.xml"), text)
        if "label_studio" in self.formats:
            tasks = [label_studio_task(image, self.classes) for image in images]
            write_text(self._path("label_studio", "tasks.json"), json_text(tasks))
            config = label_studio_config(self.classes, self.drawn)
            write_text(self._path("label_studio", "labeling_config.xml"), config)
        if "yolo" in self.formats:
            names = {number: self.classes[label].name for number, label in enumerate(self.drawn)}
            # Without a "path" the folders are taken from where the file lies, with "." from the working directory.
            content = {"train": "images", "val": "images", "nc": len(names), "names": names}
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            write_text(self._path("yolo", "data.yaml"), text)

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / name


def _points(region: Region) -> list[tuple[float, float]]:
    return list(zip(region.outline[::2], region.outline[1::2]))


def labelme_content(image: DraftImage, path: Path, classes: Sequence[ClassDefinition]) -> dict[str, Any]:
    """The content of a labelme file at ``path``. labelme loads the image beside it, or from the path in it."""
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": [
            {
                "label": classes[region.label].name,
                "points": [list(point) for point in _points(region)],
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for region in image.regions
        ],
        "imagePath": _relative(image.file, path.parent),
        "imageData": None,
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
    }


def _relative(file: str, folder: Path) -> str:
    """The path of a file as seen from a folder; on another drive of Windows the whole path."""
    try:
        return Path(os.path.relpath(os.path.abspath(file), folder.absolute())).as_posix()
    except ValueError:
        return Path(os.path.abspath(file)).as_posix()


def yolo_lines(image: DraftImage, drawn: Sequence[int]) -> str:
    """A line per region: the number of its class among the drawn classes, and its outline in shares of the size."""
    height, width = image.size
    lines = []
    for region in image.regions:
        shares = " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in _points(region))
        lines.append(f"{drawn.index(region.label)} {shares}\n")
    return "".join(lines)


def cvat_lines(images: Sequence[DraftImage], classes: Sequence[ClassDefinition], drawn: Sequence[int]) -> Iterator[str]:
    """CVAT for images, version 1.1."""
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task><labels>\n'
    for label in drawn:
        name, color = _text(classes[label].name), _hex(classes[label].color)
        yield f"    <label><name>{name}</name><color>{color}</color><attributes></attributes></label>\n"
    yield "  </labels></task></meta>\n"
    for number, image in enumerate(images, start=FIRST_CVAT_ID):
        height, width = image.size
        yield f'  <image id="{number}" name={quoteattr(_utf8(image.file_name))} width="{width}" height="{height}">\n'
        for region in image.regions:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in _points(region))
            name = quoteattr(classes[region.label].name)
            yield f'    <polygon label={name} source="auto" occluded="0" points="{points}" z_order="0"></polygon>\n'
        yield "  </image>\n"
    yield "</annotations>\n"


def label_studio_task(image: DraftImage, classes: Sequence[ClassDefinition]) -> dict[str, Any]:
    """A task with a prediction, which Label Studio shows as a draft. The image comes from local storage."""
    height, width = image.size
    result = [
        {
            "id": f"region{number}",
            "type": "polygonlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "points": [[100 * x / width, 100 * y / height] for x, y in _points(region)],
                "closed": True,
                "polygonlabels": [classes[region.label].name],
            },
        }
        for number, region in enumerate(image.regions)
    ]
    prediction = {"model_version": MODEL_VERSION, "result": result}
    return {
        "data": {"image": f"/data/local-files/?d={quote(image.file_name, errors='surrogateescape')}"},
        "predictions": [prediction],
    }


def label_studio_config(classes: Sequence[ClassDefinition], drawn: Sequence[int]) -> str:
    """The labelling interface that the predictions of the tasks need."""
    labels = "".join(
        f"    <Label value={quoteattr(classes[label].name)} background={quoteattr(_hex(classes[label].color))}/>\n"
        for label in drawn
    )
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <PolygonLabels name="label" toName="image">\n'
        f"{labels}  </PolygonLabels>\n</View>\n"
    )


def _utf8(name: str) -> str:
    """A file's name with a question mark for whatever is no UTF-8, which no XML may hold."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _text(text: str) -> str:
    return quoteattr(text)[1:-1]


def _hex(color: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)
