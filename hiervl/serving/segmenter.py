"""From an uploaded file and a table of classes to pictures. One image at a time; the latest answers are kept."""

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

PICTURE_SIDE = 2048  # longer side of the pictures; larger images are reduced after the prediction
KEPT_ANSWERS = 4  # each takes at most 32 MiB
HIDDEN = -1  # label of classes that are not drawn
THE_IMAGE = "the image"  # its name in messages, which must not show paths of the server


@dataclass(frozen=True)
class UploadLimits:
    """Limits for an image."""

    bytes: int
    pixels: int


class FoundClass(NamedTuple):
    """A class that occurs in an image."""

    definition: ClassDefinition
    share: float  # of the pixels, 0…1
    confidence: float  # mean over its pixels, 0…1
    is_shown: bool


class Drawing(NamedTuple):
    """What the page shows of an image. Pictures are (h, w, 3) uint8 RGB; the confidence is (h, w) uint8."""

    overlay: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray  # 255 means a confidence of 1
    found: list[FoundClass]  # the most frequent first
    size: tuple[int, int]  # height and width of the image
    seconds: float  # time of the network, now or when it saw this image with these classes before


class _Answer(NamedTuple):
    image: np.ndarray  # (h, w, 3) uint8; like the next two, as large as the pictures
    labels: np.ndarray  # (h, w)
    confidence: np.ndarray  # (h, w) uint8
    shares: np.ndarray  # (C,), share of the whole image
    confidences: np.ndarray  # (C,), mean over the pixels of the class
    size: tuple[int, int]
    seconds: float


class PageSegmenter:
    """Segments what visitors upload.

    The steps for one image: limit its bytes, then its pixels (by the header, before decoding); set the classes of the
    network if they changed; label every pixel. Showing or hiding a class, or changing a colour, only draws the kept
    answer again.
    """

    def __init__(self, predictor: HierVLPredictor, limits: UploadLimits):
        self.predictor = predictor
        self.limits = limits
        self._lock = threading.Lock()  # the network holds one list of classes at a time
        self._answers: OrderedDict[tuple, _Answer] = OrderedDict()

    def __call__(self, path: Path, chosen: ChosenClasses) -> Drawing:
        """Segment an uploaded file.

        Raises:
            UserError: it is not an image, it is too large, or the network cannot predict these classes.
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
