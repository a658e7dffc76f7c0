"""Suggest which unlabelled images to label next: scores of one image, and the choice among many.

A label of an image helps if the network is uncertain there, if student and teacher disagree, and if the image shows
something that no chosen image shows yet. Uncertain pixels are counted by class, relative to the mean of the class over
all images. Otherwise frequent classes would decide, but with few labels the rare classes are missing.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hiervl.evaluation.label_maps import CLASS_MAP_BYTES
from hiervl.evaluation.sliding_window import averaged_strips, cut, normalize_over_classes, plan_windows
from hiervl.modeling import HierVL

COPIES = 6  # bytes for the class maps of both networks while they are averaged and compared
FLOOR = 1e-12


class ImageScores(NamedTuple):
    """The scores of an image.

    Attributes:
        uncertainty: (C,) float32. Summed over the classes it is the mean over the pixels of the entropy of the two
            networks' mean class map, as a share of log C: 0…1. A pixel's entropy is divided among the classes as the
            map is.
        disagreement: (C,) float32, the same for the Jensen-Shannon divergence between the two networks' maps, as a
            share of log 2: 0…1.
        embedding: (D,) float32 of length 1, CLIP's pooled embedding of the whole image.
    """

    uncertainty: np.ndarray
    disagreement: np.ndarray
    embedding: np.ndarray


class LabelScorer:
    """Scores images of any size with a student and its teacher, in windows of the training crop."""

    def __init__(
        self,
        student: HierVL,
        teacher: HierVL,
        *,
        crop_size: int,
        short_side: int = 0,
        overlap: float = 0.5,
        window_batch: int = 4,
    ):
        """
        Args:
            student, teacher: in evaluation mode, with the same classes.
            crop_size, short_side, overlap, window_batch: as in ``HierVLPredictor``.
        """
        self.student = student
        self.teacher = teacher
        self.crop_size = crop_size
        self.short_side = short_side
        self.overlap = overlap
        self.window_batch = window_batch

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> ImageScores:
        """image (H, W, 3) uint8 RGB."""
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(self.student.device)
        size = (pixels.shape[1], pixels.shape[2])
        scale = self.short_side / min(size) if self.short_side else 1.0
        classes = len(self.student.class_names)
        side = round(self.crop_size / scale)
        widest = CLASS_MAP_BYTES // (4 * COPIES * 2 * classes * side)
        unsure, disagreeing = torch.zeros(classes), torch.zeros(classes)
        for strip in averaged_strips(
            lambda window: cut(pixels, window),
            size,
            plan_windows(size, self.crop_size, self.overlap, (scale,)),
            lambda windows, _: self._both_maps(windows),
            window_batch=self.window_batch,
            blend=True,
            max_width=max(2 * side, widest),
        ):
            strip_scores = by_class(strip.class_map[:classes], strip.class_map[classes:])
            unsure += strip_scores[0].cpu()
            disagreeing += strip_scores[1].cpu()
        pixel_count = size[0] * size[1]
        return ImageScores((unsure / pixel_count).numpy(), (disagreeing / pixel_count).numpy(), self.embed(pixels))

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> np.ndarray:
        """(3, H, W) uint8 → CLIP's pooled embedding of the whole image, resized to one square crop: (D,), length 1."""
        square = F.interpolate(
            pixels[None].float(), (self.crop_size, self.crop_size), mode="bilinear", align_corners=False, antialias=True
        )
        images = self.student.normalize(list(square))
        pooled = self.student.pooled_embedding(images)
        return F.normalize(pooled[0].float(), dim=0).cpu().numpy()

    def _both_maps(self, windows: Tensor) -> Tensor:
        """(n, 3, h, w) → (n, 2 · C, h, w): the student's class map above the teacher's."""
        maps = [normalize_over_classes(network.semantic_maps(windows)) for network in (self.student, self.teacher)]
        return torch.cat(maps, dim=1)


def by_class(student: Tensor, teacher: Tensor) -> Sequence[Tensor]:
    """Class maps (C, h, w) whose pixels sum to 1 → sums over the pixels, as :class:`ImageScores`: (C,) and (C,)."""
    mean = (student + teacher) / 2
    entropy_of_mean = _entropy(mean)
    divergence = (entropy_of_mean - (_entropy(student) + _entropy(teacher)) / 2).clamp(min=0)
    unsure = (mean * entropy_of_mean).sum((1, 2)) / math.log(max(len(mean), 2))  # one class is never uncertain
    return unsure, (mean * divergence).sum((1, 2)) / math.log(2)


def _entropy(class_map: Tensor) -> Tensor:
    """(C, h, w) → (h, w), in nats."""
    return -(class_map * class_map.clamp(min=FLOOR).log()).sum(0)


class ScoreTable:
    """Scores of many images, a few hundred numbers each, in arrays that are allocated once."""

    def __init__(self, size: int):
        """size: the largest number of images that will be added."""
        self.size = size
        self.names: list[str] = []
        self._columns: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, scores: ImageScores) -> None:
        """name: unique; breaks ties."""
        if not self._columns:
            self._columns = [np.empty((self.size, len(column)), np.float32) for column in scores]
        for column, row in zip(self._columns, scores):
            column[len(self.names)] = row
        self.names.append(name)

    @property
    def uncertainty(self) -> np.ndarray:
        """(images, C)"""
        return self._columns[0][: len(self)]

    @property
    def disagreement(self) -> np.ndarray:
        """(images, C)"""
        return self._columns[1][: len(self)]

    @property
    def embeddings(self) -> np.ndarray:
        """(images, D)"""
        return self._columns[2][: len(self)]


class Suggestion(NamedTuple):
    """A chosen image."""

    index: int  # type: ignore[assignment]  # in the table; it hides tuple.index
    novelty: float  # 0…2, distance of its embedding to the nearest image labelled or chosen before; 2 for the first


def suggest(table: ScoreTable, count: int, labeled: np.ndarray | None = None) -> list[Suggestion]:
    """Choose images greedily, best first.

    Let m_ic = uncertainty_ic / mean_j uncertainty_jc + disagreement_ic / mean_j disagreement_jc be the uncertainty
    about class c in image i. The next image is the one with the largest

        gain · novelty = Σ_c [log(1 + M_c + m_ic) − log(1 + M_c)] · min_k ‖e_i − e_k‖,

    where M_c is the sum of m over the images chosen before, and k runs over these and the labelled images. Because of
    the logarithm, a class counts less the more of it has been chosen.

    Args:
        count: the largest number of images to choose.
        labeled: (L, D) embeddings of length 1 of the images that have labels; None: unknown.

    Returns:
        Images in the order of choice. For ties the first name wins; the order of the table does not matter.
    """
    order = sorted(range(len(table)), key=table.names.__getitem__)
    unsure = _against_mean(table.uncertainty[order]) + _against_mean(table.disagreement[order])
    embeddings = table.embeddings[order]
    distance = np.full(len(order), 2.0, np.float32)
    for embedding in () if labeled is None else labeled:
        distance = np.minimum(distance, _distance(embeddings, embedding))
    chosen: list[Suggestion] = []
    covered = np.zeros(unsure.shape[1], np.float32)
    left = np.ones(len(order), bool)
    for _ in range(min(count, len(order))):
        gain = np.log1p(unsure / (1 + covered)).sum(1)
        # Copies of chosen images all have novelty 0. Then the gain decides between them.
        best = int(np.lexsort((-np.arange(len(order)), gain, np.where(left, gain * distance, -1)))[-1])
        chosen.append(Suggestion(order[best], float(distance[best])))
        covered += unsure[best]
        left[best] = False
        distance = np.minimum(distance, _distance(embeddings, embeddings[best]))
    return chosen


def _against_mean(column: np.ndarray) -> np.ndarray:
    """(images, C), divided by the mean of the class; 0 where that is 0."""
    return column / np.maximum(column.mean(0, dtype=np.float64), FLOOR).astype(np.float32)


def _distance(embeddings: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """(images, D), (D,), all of length 1 → (images,): Euclidean, 0…2."""
    return np.sqrt(np.maximum(2 - 2 * (embeddings @ embedding), 0))
