"""Streaming metrics of semantic segmentation: one confusion matrix for any number of images.

Conventions, all in percent:

* IoU of a class: intersection / union of its pixels in truth and prediction. A class that is predicted but does not
  occur in the truth has IoU 0; a class that occurs in neither has none (nan).
* mIoU: mean over the classes that occur in the truth or the prediction, as semi-supervised papers and Detectron2 up
  to 0.6 compute it.
* mIoU_in_truth: mean over the classes that occur in the truth. Detectron2's main branch calls this mIoU since 2022. It
  is higher if a class is predicted that does not occur.
* fwIoU: mean of the IoUs weighted by the classes' pixels in the truth.
* mACC: mean over the classes that occur in the truth of the share of their pixels that is predicted right.
* pACC: share of all pixels that is predicted right.
* F1 of a class (its Dice coefficient): 2 · intersection / (pixels in truth + pixels in prediction). It is 0 and unknown
  where IoU is; mF1 is its mean as mIoU is that of IoU.
* precision of a class: share of the pixels predicted as it that are right, unknown (nan) where nothing is predicted as
  it. recall: share of its pixels that is predicted right, unknown where it does not occur in the truth.

Pixels that the truth ignores do not count at all, neither as truth nor as prediction.
"""

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from hiervl.data.loading import readers
from hiervl.utils.files import write_text

TASK = "sem_seg"
TABLE_ROWS = 25  # with more classes than this, the table has two halves side by side
OF_CLASSES = ("IoU", "F1", "precision", "recall")  # scores that every class has
MEANS = ("mIoU", "mIoU_in_truth", "fwIoU", "mACC", "pACC", "mF1")

logger = logging.getLogger(__name__)


class ClassScores(dict):
    """Scores by class name.

    Formatted, it is the mean of the known scores, because Detectron2's ``print_csv_format`` writes every entry of a
    task as one number.
    """

    def __format__(self, spec: str) -> str:
        return format(mean_known(list(self.values())), spec) if spec else str(self)


class SemanticEvaluator(DatasetEvaluator):
    """Compares predicted class maps with label files, as an evaluator for Detectron2's ``inference_on_dataset``.

    It reads "labels", so class maps of whole images are not needed. Other evaluators need "sem_seg".

    The state is one int64 matrix (C, C), rows truth and columns prediction, and a count of images. With several
    processes, each counts its own images, and the first one adds the matrices.
    """

    reads_class_maps = False

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        ignore_label: int = 255,
        distributed: bool = True,
        read_label: Callable[..., np.ndarray] = readers.read_label,
    ):
        """
        Args:
            class_names: the C classes in the order of their labels; no name twice.
            ignore_label: label of the pixels that do not count.
            distributed: add the counts of all processes; off: only this process counts.
            read_label: reads a label file, with the arguments of the default.
        """
        if len(set(class_names)) != len(class_names):
            raise ValueError(f"class names must differ, results are listed by name: {list(class_names)}")
        self.class_names = list(class_names)
        self.ignore_label = ignore_label
        self.distributed = distributed
        self._read_label = read_label
        self.reset()

    def reset(self) -> None:
        num_classes = len(self.class_names)
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.images = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count a batch.

        Args:
            inputs: dicts with "sem_seg_file_name", the file of the truth.
            outputs: dicts with "labels" (height, width), the predicted classes in the truth's size; else with
                "sem_seg" (C, height, width), the class maps that Detectron2's networks give.

        Raises:
            ValueError: truth and prediction differ in size, or the truth holds a label that is not a class.
        """
        for image_inputs, image_outputs in zip(inputs, outputs):
            prediction = _labels(image_outputs)
            truth = self._truth(image_inputs, prediction.shape)
            self.confusion += confusion_matrix(truth, prediction, len(self.class_names), self.ignore_label)
            self.images += 1

    def _truth(self, image_inputs: dict, image_size: Sequence[int]) -> np.ndarray:
        path = image_inputs.get("sem_seg_file_name")
        if path is None:
            raise ValueError(f"{image_inputs.get('file_name')} has no sem_seg_file_name to compare with")
        image_file = image_inputs.get("file_name", "")
        truth = self._read_label(path, len(self.class_names), self.ignore_label, tuple(image_size), image_file)
        if truth.shape != tuple(image_size):
            raise ValueError(f"{path}: labels of size {truth.shape}, prediction of size {tuple(image_size)}")
        return truth

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Metrics of the images seen since the last reset; None on all processes but the first.

        Returns:
            ``{"sem_seg": {"mIoU", "mIoU_in_truth", "fwIoU", "mACC", "pACC", "mF1": percent, "IoU", "F1", "precision",
            "recall": {class name: percent}, "images": int}}``, see the module's conventions. Without any counted pixel
            all scores are nan.
        """
        confusion, images = self.confusion, self.images
        if self.distributed and comm.get_world_size() > 1:
            counts = comm.gather((confusion, images), dst=0)
            if not comm.is_main_process():
                return None
            confusion = sum(process_confusion for process_confusion, _ in counts)
            images = sum(process_images for _, process_images in counts)
        scores = scores_from_confusion(confusion, self.class_names)
        scores["images"] = images
        results = OrderedDict({TASK: scores})
        logger.info("Semantic segmentation of %d images:\n%s", images, format_results_table(results))
        return results


def _labels(outputs: dict) -> np.ndarray:
    return outputs["labels"] if "labels" in outputs else outputs["sem_seg"].argmax(0).cpu().numpy()


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int = 255
) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column): int64 (C, C), from two label maps (H, W)."""
    counted = truth != ignore_label
    truth = truth[counted].astype(np.int64)
    prediction = prediction[counted].astype(np.int64)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f"{name} holds labels {labels.min()} to {labels.max()}, but there are {num_classes} classes"
            )
    pairs = np.bincount(num_classes * truth + prediction, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def scores_from_confusion(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """The means, and each class's IoU, F1, precision and recall, in percent, of a matrix (C, C) with rows of truth."""
    hits = np.diag(confusion).astype(np.float64)
    in_truth = confusion.sum(axis=1).astype(np.float64)
    in_prediction = confusion.sum(axis=0).astype(np.float64)

    iou = _ratio(hits, in_truth + in_prediction - hits)
    f1 = _ratio(2 * hits, in_truth + in_prediction)
    accuracy = _ratio(hits, in_truth)
    frequency = _ratio(in_truth, in_truth.sum())
    return {
        "mIoU": 100 * mean_known(iou),
        "mIoU_in_truth": 100 * mean_known(iou[in_truth > 0]),
        "fwIoU": 100 * float(np.sum((frequency * iou)[in_truth > 0])) if in_truth.any() else math.nan,
        "mACC": 100 * mean_known(accuracy),
        "pACC": 100 * float(_ratio(hits.sum(), in_truth.sum())),
        "mF1": 100 * mean_known(f1),
        "IoU": _by_name(class_names, iou),
        "F1": _by_name(class_names, f1),
        "precision": _by_name(class_names, _ratio(hits, in_prediction)),
        "recall": _by_name(class_names, accuracy),
    }


def _by_name(class_names: Sequence[str], shares: np.ndarray) -> ClassScores:
    return ClassScores((name, 100 * float(share)) for name, share in zip(class_names, shares))


def mean_known(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not nan; nan if there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else math.nan


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient; nan where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator), np.asarray(denominator))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def format_results_table(results: dict[str, dict[str, Any]]) -> str:
    """The results of :meth:`SemanticEvaluator.evaluate` as text: a table of the classes, then the means."""
    scores = results[TASK]
    classes = [(name, *(_percent(scores[kind][name]) for kind in OF_CLASSES)) for name in scores["IoU"]]
    height = max(TABLE_ROWS, -(-len(classes) // 2))
    blocks = [classes[start : start + height] for start in range(0, len(classes), height)]
    empty = ("",) * (1 + len(OF_CLASSES))
    rows = [
        [cell for block in blocks for cell in (block[index] if index < len(block) else empty)]
        for index in range(len(blocks[0]) if blocks else 0)
    ]
    class_table = tabulate(
        rows,
        headers=["class", *OF_CLASSES] * len(blocks),
        tablefmt="pipe",
        colalign=["left", *["right"] * len(OF_CLASSES)] * len(blocks),
        disable_numparse=True,
    )
    means = {name: _percent(scores[name]) for name in MEANS}
    mean_table = tabulate(
        [list(means.values()) + [str(scores["images"])]],
        headers=list(means) + ["images"],
        tablefmt="pipe",
        stralign="right",
        disable_numparse=True,
    )
    return f"{class_table}\n\n{mean_table}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def write_results(results: Mapping, path: str) -> None:
    """Write results as JSON, with nan as null. The file is written completely or keeps its old content."""
    write_text(path, json.dumps(_without_nan(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """``value`` in JSON's own types: mappings and sequences copied, NumPy numbers converted, nan as None."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
