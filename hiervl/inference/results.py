"""The folder of predictions: pictures, numbers, and what is needed to continue after an interruption.

``{output}/`` holds ``classes.yaml`` (name, phrases and colour of every index), ``mask/``, ``overlay/``,
``confidence/``, ``panoptic/`` with a file per image, ``json/`` with the figures of each image, and
``instances.json`` and ``panoptic.json`` in COCO's formats; ``labelme/``, ``cvat/``, ``label_studio/`` and ``yolo/``
hold what these tools import. An image's JSON file is written last: if it exists, the image is done.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.classes.records import to_records, write_classes
from hiervl.inference.annotation_drafts import FORMATS as DRAFT_FORMATS
from hiervl.inference.annotation_drafts import AnnotationDrafts, DraftImage, Region, regions_of
from hiervl.inference.postprocess import Instance
from hiervl.inference.predictor import Panoptic, Prediction
from hiervl.utils.errors import UserError
from hiervl.utils.files import json_text, whole_file, write_json, write_png
from hiervl.visualization.pictures import overlay_with_legend

KINDS = ("mask", "overlay", "confidence", "instances", "panoptic", *DRAFT_FORMATS)
SETTINGS_FILE = "predict.json"
OUTLINE = (255, 255, 255)


class ResultFolder:
    """Writes the results that are asked for. Names have / between folders."""

    def __init__(self, folder: str, classes: Sequence[ClassDefinition], kinds: Sequence[str], things: Sequence[int]):
        """
        Args:
            classes: in the order of the labels.
            kinds: some of ``KINDS``; the JSON file of each image is always written.
            things: classes with separate objects.
        """
        self.folder = Path(folder)
        self.classes = list(classes)
        self.names = [definition.name for definition in classes]
        self.colors = [definition.color for definition in classes]
        self.kinds = tuple(kinds)
        self.things = tuple(things)
        self.drafts = AnnotationDrafts(self.folder, self.classes, self.kinds)

    def prepare(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Create the folder. One process calls it.

        Args:
            settings: the settings that the predictions depend on, as plain values.
            overwrite: predict images again that are done.

        Raises:
            UserError: it holds predictions made with other settings, or cannot be written to.
        """
        settings = json.loads(json.dumps({**settings, "classes": to_records(self.classes)}))
        path = self.folder / SETTINGS_FILE
        if path.is_file() and overwrite:
            shutil.rmtree(self.folder / "json", ignore_errors=True)
        elif path.is_file():
            earlier = self._earlier_settings(path)
            changed = sorted(key for key in {*settings, *earlier} if settings.get(key) != earlier.get(key))
            if changed:
                raise UserError(
                    f"{self.folder} holds predictions that were made with other {', '.join(changed)}: name another "
                    "folder with --output, or predict again with --overwrite."
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, settings, indent=2)
            write_classes(self.folder / "classes.yaml", self.classes)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.folder} is a file or lies in one: name a folder with --output.") from None
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written to ({error.strerror}).") from None

    def _earlier_settings(self, path: Path) -> dict[str, Any]:
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            return dict(settings)
        except (OSError, ValueError, TypeError):
            raise UserError(
                f"{path} is damaged, so that nobody knows what the predictions beside it were made with: name another "
                "folder with --output, or predict again with --overwrite."
            ) from None

    def path(self, kind: str, name: str, suffix: str = ".png") -> str:
        """The path of a file, by kind and image. Its folder is created."""
        path = self.folder / kind / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def record(self, name: str) -> dict[str, Any] | None:
        """The JSON of an image; None if it is not done."""
        try:
            return json.loads((self.folder / "json" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def is_done(self, name: str) -> bool:
        """Whether everything that is asked for has been written for this image."""
        record = self.record(name)
        return record is not None and set(self.kinds) <= set(record["saved"])

    def write(self, name: str, file: str, image: np.ndarray, prediction: Prediction, skip: Sequence[str] = ()) -> None:
        """Write the results of an image, its JSON last. Kinds in ``skip`` are written elsewhere."""
        kinds = [kind for kind in self.kinds if kind not in skip]
        if "mask" in kinds:
            write_png(self.path("mask", name), palette_image(prediction.semantic, self.colors))
        if "confidence" in kinds:
            write_png(self.path("confidence", name), Image.fromarray(confidence_bytes(prediction.confidence)))
        if "overlay" in kinds:
            write_png(self.path("overlay", name), Image.fromarray(self.overlay(image, prediction)))
        counts, sure = self.count(prediction.semantic, prediction.confidence)
        extra: dict[str, Any] = {}
        if "instances" in self.kinds and prediction.instances is not None:
            size = prediction.semantic.shape
            extra["instances"] = [coco_annotation(instance, size) for instance in prediction.instances]
        if "panoptic" in self.kinds and prediction.panoptic is not None:
            write_png(self.path("panoptic", name), Image.fromarray(panoptic_colors(prediction.panoptic.ids)))
            extra["panoptic"] = coco_segments(prediction.panoptic)
        if self.drafts.formats:
            regions = regions_of(prediction, self.classes)
            self.drafts.write_image(DraftImage(name, file, prediction.semantic.shape, regions))
            extra["regions"] = [{"label": region.label, "outline": region.outline} for region in regions]
        self.write_record(name, file, prediction.semantic.shape, counts, sure, **extra)

    def overlay(self, image: np.ndarray, prediction: Prediction, shown: Sequence[int] | None = None) -> np.ndarray:
        """The image tinted with the colours of its classes, with outlines of objects, above a legend."""
        drawn = overlay_with_legend(image, prediction.semantic, self.names, self.colors, shown)
        drawn = np.ascontiguousarray(drawn)
        for instance in prediction.instances or ():
            top, left = instance.box[:2]
            outlines, _ = cv2.findContours(
                instance.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)
            )
            cv2.drawContours(drawn, outlines, -1, OUTLINE, 1)
        return drawn

    def count(self, labels: np.ndarray, confidence: np.ndarray):
        """Pixels of every class, and the sum of their confidences: (C,) and (C,)."""
        size = len(self.names)
        flat = labels.ravel()
        return np.bincount(flat, minlength=size), np.bincount(flat, confidence.ravel(), minlength=size)

    def write_record(self, name: str, file: str, size, counts: np.ndarray, sure: np.ndarray, **extra: Any) -> None:
        """The JSON of an image, which marks it as done."""
        pixels = int(counts.sum())
        record = {
            "file": file,
            "height": int(size[0]),
            "width": int(size[1]),
            "mean_confidence": round(float(sure.sum()) / pixels, 6),
            "classes": [
                {
                    "index": index,
                    "name": self.names[index],
                    "pixels": int(counts[index]),
                    "share": round(float(counts[index]) / pixels, 6),
                    "mean_confidence": round(float(sure[index] / counts[index]), 6),
                }
                for index in np.flatnonzero(counts).tolist()
            ],
            "saved": list(self.kinds),
            **extra,
        }
        write_json(self.path("json", name, ".json"), record)

    def write_coco(self, names: Sequence[str]) -> None:
        """Write ``instances.json`` and ``panoptic.json`` for the finished images, in the order of ``names``."""
        for kind in ("instances", "panoptic"):
            if kind in self.kinds:
                self._write_coco_file(kind, names)

    def write_drafts(self, names: Sequence[str]) -> None:
        """Write the annotation files for all finished images together, in the order of ``names``."""
        records = ((name, self.record(name)) for name in names)
        self.drafts.write_all(
            DraftImage(
                name,
                record["file"],
                (record["height"], record["width"]),
                [Region(region["label"], region["outline"]) for region in record["regions"]],
            )
            for name, record in records
            if record is not None and "regions" in record
        )

    def _write_coco_file(self, kind: str, names: Sequence[str]) -> None:
        """Written image by image, so memory does not grow with the number of images."""
        number = 0
        with (
            whole_file(self.folder / f"{kind}.json") as temporary,
            open(temporary, "w", encoding="utf-8") as images,
            tempfile.TemporaryFile("w+", encoding="utf-8", dir=self.folder) as annotations,
        ):
            images.write('{"images": [')
            image_id = 0
            for name in names:
                record = self.record(name)
                if record is None or kind not in record:
                    continue
                image_id += 1
                entry = {key: record[key] for key in ("width", "height")}
                entry.update(id=image_id, file_name=record["file"])
                images.write((",\n" if image_id > 1 else "\n") + json_text(entry))
                for annotation in self._coco_entries(kind, name, image_id, record[kind]):
                    number += 1
                    if kind == "instances":
                        annotation["id"] = number
                    annotations.write((",\n" if number > 1 else "\n") + json_text(annotation))
            images.write('\n],\n"annotations": [')
            annotations.seek(0)
            for line in annotations:
                images.write(line)
            categories = [category for category in self._categories() if kind == "panoptic" or category["isthing"]]
            images.write('\n],\n"categories": ' + json_text(categories) + "}\n")

    def _coco_entries(self, kind: str, name: str, image_id: int, entries: list[dict]) -> list[dict]:
        if kind == "instances":
            return [{"image_id": image_id, **entry} for entry in entries]
        return [{"image_id": image_id, "file_name": f"{name}.png", "segments_info": entries}]

    def _categories(self) -> list[dict]:
        return [
            {
                "id": category_id(index),
                "name": definition.name,
                "isthing": int(index in self.things),
                "color": list(definition.color),
            }
            for index, definition in enumerate(self.classes)
        ]


def category_id(label: int) -> int:
    """COCO counts categories from 1."""
    return label + 1


def palette_image(labels: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """A palette image for uint8 labels (pixels are indices); for other types an image of 16 or 32 bits."""
    if labels.dtype != np.uint8:
        return Image.fromarray(labels.astype(np.int32 if labels.max() > 65535 else np.uint16))
    image = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    image.putpalette([int(channel) for color in colors for channel in color])
    return image


def confidence_bytes(confidence: np.ndarray) -> np.ndarray:
    """0…1 → uint8 0…255."""
    return np.rint(255 * np.clip(confidence, 0, 1)).astype(np.uint8)


def panoptic_colors(ids: np.ndarray) -> np.ndarray:
    """Segment numbers as COCO's panoptic PNGs hold them: id = R + 256·G + 65536·B."""
    return np.stack((ids % 256, ids // 256 % 256, ids // 65536), axis=-1).astype(np.uint8)


def coco_annotation(instance: Instance, size) -> dict[str, Any]:
    """An instance in COCO's format, without its numbers."""
    encoded = coco_mask.encode(np.asfortranarray(instance.full_mask(size).astype(np.uint8)))
    return {
        "category_id": category_id(instance.label),
        "score": round(instance.score, 6),
        "bbox": coco_box(instance.box),
        "area": instance.area,
        "iscrowd": 0,
        "segmentation": {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode("ascii")},
    }


def coco_segments(panoptic: Panoptic) -> list[dict[str, Any]]:
    """The ``segments_info`` of COCO's panoptic format."""
    infos = []
    for segment in panoptic.segments:
        mask = panoptic.ids == segment.id
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        infos.append(
            {
                "id": segment.id,
                "category_id": category_id(segment.label),
                "isthing": int(segment.is_thing),
                "score": round(segment.score, 6),
                "area": int(mask.sum()),
                "bbox": coco_box(box),
                "iscrowd": 0,
            }
        )
    return infos


def coco_box(box) -> list[int]:
    """Left, top, width, height."""
    top, left, bottom, right = box
    return [left, top, right - left, bottom - top]
