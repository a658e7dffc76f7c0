"""From an uploaded file and a table of classes to pictures; one image at a time, the latest answers kept."""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.loading.readers import decode_image, rgb_of
from hiervl.inference.predictor import HierVLPredictor
from hiervl.utils.errors import UserError
from hiervl.visualization.pictures import colorize, overlay

from .class_rows import ChosenClasses

PICTURE_SIDE = 2048  # longer side of the pictures; larger images are reduced to it after the prediction
KEPT_ANSWERS = 4  # each takes at most 32 MiB
HIDDEN = -1  # label of the classes that are not to be drawn
THE_IMAGE = "the image"  # what messages call it: the file's path on the server is nobody's business


@dataclass(frozen=True)
class UploadLimits:
    """What an image may have at most."""

    bytes: int
    pixels: int


class FoundClass(NamedTuple):
    """A class that occurs in an image."""

    definition: ClassDefinition
    share: float  # of the pixels, 0…1
    confidence: float  # mean over its pixels, 0…1
    is_shown: bool


class Drawing(NamedTuple):
    """What the page shows of an image; pictures are (h, w, 3) uint8 RGB, the confidence (h, w) uint8."""

    overlay: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray  # 255: a confidence of 1
    found: list[FoundClass]  # the most frequent first
    size: tuple[int, int]  # height and width of the image
    seconds: float  # that the network took, now or when it saw this image and these classes before


class _Answer(NamedTuple):
    image: np.ndarray  # (h, w, 3) uint8, as large as the pictures, as are the next two
    labels: np.ndarray  # (h, w)
    confidence: np.ndarray  # (h, w) uint8
    shares: np.ndarray  # (C,) of the whole image
    confidences: np.ndarray  # (C,) mean over the class's pixels
    size: tuple[int, int]
    seconds: float


class PageSegmenter:
    """Segments what visitors upload.

    The steps for one image: its bytes are bounded, then its pixels, by the header and before they are decoded; the
    classes are described to the network if they are others than before; the network labels every pixel. To show or
    hide a class or to change a colour only draws the kept answer anew.
    """

    def __init__(self, predictor: HierVLPredictor, limits: UploadLimits):
        self.predictor = predictor
        self.limits = limits
        self._lock = threading.Lock()  # the network holds one list of classes at a time
        self._answers: OrderedDict[tuple, _Answer] = OrderedDict()

    def __call__(self, path: Path, chosen: ChosenClasses) -> Drawing:
        """Segment an uploaded file.

        Raises:
            UserError: it is not an image, too large, or the network cannot predict these classes.
        """
        data = self._read(path)
        key = (
            hashlib.sha256(data).digest(),
            tuple((definition.name, definition.phrases, definition.background) for definition in chosen.classes),
        )
        with self._lock:
            if key not in self._answers:
                self._answers[key] = self._ask(data, chosen.classes)
            self._answers.move_to_end(key)
            while len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
            answer = self._answers[key]
        return _draw(answer, chosen)

    def _read(self, path: Path) -> bytes:
        try:
            with open(path, "rb") as file:
                data = file.read(self.limits.bytes + 1)
        except OSError:
            raise UserError("the image is no longer on the server: drop it again.") from None
        if len(data) > self.limits.bytes:
            raise UserError(f"{THE_IMAGE} has more than {self.limits.bytes} bytes: make it smaller.")
        return data

    def _ask(self, data: bytes, classes: tuple[ClassDefinition, ...]) -> _Answer:
        image = rgb_of(decode_image(data, THE_IMAGE, upright=True, max_pixels=self.limits.pixels), THE_IMAGE)
        if classes != self.predictor.classes:
            self.predictor.set_classes(classes)
        start = time.perf_counter()
        try:
            prediction = self.predictor(image, instances=False, panoptic=False)
        except torch.OutOfMemoryError:
            raise UserError(f"{THE_IMAGE} does not fit into the GPU's memory: make it smaller.") from None
        seconds = time.perf_counter() - start
        labels = prediction.semantic.ravel()
        counts = np.bincount(labels, minlength=len(classes))
        sums = np.bincount(labels, prediction.confidence.ravel(), minlength=len(classes))
        size = prediction.semantic.shape
        return _Answer(
            _reduced(image, cv2.INTER_AREA),
            _reduced(prediction.semantic, cv2.INTER_NEAREST),
            _reduced(np.rint(255 * prediction.confidence).astype(np.uint8), cv2.INTER_AREA),
            counts / labels.size,
            sums / np.maximum(counts, 1),
            (size[0], size[1]),
            seconds,
        )


def _reduced(picture: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = picture.shape[:2]
    factor = PICTURE_SIDE / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=interpolation)


def _draw(answer: _Answer, chosen: ChosenClasses) -> Drawing:
    visible = np.where(chosen.shown, np.arange(len(chosen.classes)), HIDDEN)
    labels = visible[answer.labels]
    colors = [definition.color for definition in chosen.classes]
    found = [
        FoundClass(*found_class)
        for found_class in zip(chosen.classes, answer.shares.tolist(), answer.confidences.tolist(), chosen.shown)
    ]
    return Drawing(
        overlay(answer.image, labels, colors),
        colorize(labels, colors),
        answer.confidence,
        sorted((found_class for found_class in found if found_class.share), key=lambda found_class: -found_class.share),
        answer.size,
        answer.seconds,
    )
