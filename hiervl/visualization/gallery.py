"""The report's part about an evaluation: the best, worst and most uncertain images, and the confusion matrix."""

import base64
import bisect
import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from hiervl.data.loading.readers import read_label
from hiervl.evaluation.semantic_evaluator import (
    SemanticEvaluator,
    confusion_matrix,
    scores_from_confusion,
)
from hiervl.utils.files import write_json
from hiervl.utils.tolerance import going_on_without
from hiervl.visualization.pictures import colorize

GROUPS = ("best", "worst", "uncertain")
SIDE = 480  # longer side of the pictures, in pixels; smaller images keep their size
JPEG_QUALITY = 85


class EvaluationGallery(DatasetEvaluator):
    """Keeps a few images of every group during an evaluation, and writes them as one JSON file.

    Memory: the pictures of the kept images. It adds no results of its own.
    """

    def __init__(
        self,
        evaluator: SemanticEvaluator,
        path: str,
        colors: Sequence[Sequence[int]],
        *,
        count: int = 4,
        facts: dict[str, Any] | None = None,
    ):
        """
        Args:
            evaluator: sees the same images; its confusion matrix is written.
            path: the file.
            colors: RGB of every class.
            count: images per group.
            facts: plain values that are also written.
        """
        self.evaluator = evaluator
        self.path = path
        self.colors = colors
        self.count = count
        self.facts = facts or {}
        self.reset()

    def reset(self) -> None:
        self._kept: dict[str, list[tuple]] = {group: [] for group in GROUPS}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """As :meth:`SemanticEvaluator.process`, with "confidence" (height, width), 0…1, beside the labels."""
        for image_inputs, image_outputs in zip(inputs, outputs):
            if "sem_seg_file_name" in image_inputs:
                self._consider(image_inputs, image_outputs["labels"], image_outputs["confidence"])

    def _consider(self, inputs: dict, labels: np.ndarray, confidence: np.ndarray) -> None:
        """Keep the image in the groups where it belongs among the first."""
        names, ignored = self.evaluator.class_names, self.evaluator.ignore_label
        image_file = inputs.get("file_name", "")
        truth = read_label(inputs["sem_seg_file_name"], len(names), ignored, labels.shape, image_file)
        confusion = confusion_matrix(truth, labels, len(names), ignored)
        if not confusion.any():
            return
        score = scores_from_confusion(confusion, names)["mIoU"]
        sure = float(confidence.mean())
        entry = None
        for group, rank in zip(GROUPS, (-score, score, sure)):
            kept = self._kept[group]
            if len(kept) == self.count and rank >= kept[-1][0]:
                continue
            if entry is None:
                entry = {
                    "file": inputs["file_name"],
                    "mIoU": score,
                    "confidence": 100 * sure,
                    "pictures": self._pictures(inputs["image"], truth, labels, confidence),
                }
            bisect.insort(kept, (rank, inputs["file_name"], entry), key=lambda item: item[:2])
            del kept[self.count :]

    def _pictures(self, image, truth: np.ndarray, labels: np.ndarray, confidence: np.ndarray) -> dict[str, str]:
        """Data URLs by caption."""
        factor = min(1.0, SIDE / max(labels.shape))
        size = tuple(max(1, round(length * factor)) for length in labels.shape[::-1])
        photo = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)

        def draw_labels(indices: np.ndarray) -> np.ndarray:
            small = cv2.resize(indices.astype(np.int32).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
            return colorize(small.astype(np.int32), self.colors)

        gray = cv2.resize(np.rint(255 * confidence).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
        return {
            "image": data_url(photo, "JPEG"),
            "truth": data_url(draw_labels(truth), "PNG"),
            "prediction": data_url(draw_labels(labels), "PNG"),
            "confidence": data_url(gray, "JPEG"),
        }

    def evaluate(self) -> dict | None:
        """Write the file. All processes must call it, after the last image."""
        gathered = comm.gather((self._kept, self.evaluator.confusion), dst=0)
        if not comm.is_main_process():
            return None
        groups = {
            group: [
                entry
                for _, _, entry in sorted(
                    (item for kept, _ in gathered for item in kept[group]), key=lambda item: item[:2]
                )[: self.count]
            ]
            for group in GROUPS
        }
        content = {
            "class_names": self.evaluator.class_names,
            "colours": [list(map(int, color)) for color in self.colors],
            "confusion": sum(confusion for _, confusion in gathered).tolist(),
            "groups": groups,
            **self.facts,
        }
        with going_on_without(self.path):
            write_json(self.path, content)
        return None


def data_url(picture: np.ndarray, kind: str) -> str:
    """A picture (H, W) or (H, W, 3), uint8, as a data URL for an HTML page."""
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(picture).save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
