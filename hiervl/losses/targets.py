"""Ground truth of one image as the losses need it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiervl.utils.transfer import to_device

COUNTABLE = 2**20  # if instance numbers are larger, they are renumbered first


class ImageTargets(NamedTuple):
    """Label map of one image, its classes, and its segments.

    Instance queries are matched to segments. If the image has instances, segments are the instances and the class
    regions outside them; else they are the classes. For images without annotated instances the mapper can give
    connected regions as instances (INPUT.REGIONS_AS_INSTANCES). Segments do not overlap, so one map of their numbers
    holds all masks.
    """

    sem_seg: Tensor  # (H, W) int64, the ignore value on unlabelled pixels and padding
    valid: Tensor  # (H, W) bool: pixels with a label
    class_labels: Tensor  # (T,) classes of the image, ascending
    segments: Tensor  # (H, W) int64: number of the segment, S where the pixel has no label
    segment_labels: Tensor  # (S,) class of every segment

    @property
    def class_masks(self) -> Tensor:
        """(T, H, W) bool"""
        return self.sem_seg == self.class_labels[:, None, None]

    @property
    def segment_masks(self) -> Tensor:
        """(S, H, W) bool"""
        numbers = torch.arange(len(self.segment_labels), device=self.segments.device)
        return self.segments == numbers[:, None, None]

    def to(self, device: torch.device) -> "ImageTargets":
        """The same on another device."""
        return ImageTargets(*(to_device(part, device) for part in self))

    def presence(self, num_classes: int) -> Tensor:
        """(C,) bool: classes with at least one labelled pixel."""
        present = torch.zeros(num_classes, dtype=torch.bool, device=self.sem_seg.device)
        present[self.class_labels] = True
        return present


def image_targets(
    sem_seg: Tensor, instance_ids: Tensor | None, size: tuple[int, int], ignore_value: int
) -> ImageTargets:
    """Targets of one image, padded at the right and the bottom to ``size``. Computed on the CPU, where they stay.

    Args:
        sem_seg: (h, w) classes; instance_ids: (h, w), 0 outside every instance, or None.
        size: (H, W) of the padded batch.
        ignore_value: label of pixels that count nowhere.
    """
    padding = ((0, size[0] - sem_seg.shape[0]), (0, size[1] - sem_seg.shape[1]))
    classes = np.pad(sem_seg.cpu().numpy().astype(np.int64), padding, constant_values=ignore_value)
    valid = classes != ignore_value
    num_classes = 1 + int(classes.max(where=valid, initial=-1))
    class_labels, pixel_classes = _numbered(np.where(valid, classes, num_classes), num_classes)
    segment_labels, segments = class_labels, pixel_classes
    if instance_ids is not None:
        ids = np.pad(instance_ids.cpu().numpy().astype(np.int64), padding)
        if ids.max() >= COUNTABLE:
            ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
        instances, pixel_instances = _numbered(ids, 1 + int(ids.max()))
        # Each pair of class and instance becomes one number; pixels without a label get the highest ones.
        pairs, segments = _numbered(
            pixel_classes * len(instances) + pixel_instances, len(class_labels) * len(instances)
        )
        segment_labels = class_labels[pairs // len(instances)]  # (S,)
    return ImageTargets(*map(torch.from_numpy, (classes, valid, class_labels, segments, segment_labels)))


def _numbered(values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct values below ``limit``. This counts, because sorting all pixels would take much longer.

    Returns:
        the distinct values (n,) in ascending order; for every pixel the number of its value, n if it is not below.
    """
    values = np.minimum(values, limit)
    is_there = np.bincount(values.ravel(), minlength=limit + 1)[:limit] > 0
    number = np.append(is_there.cumsum() - 1, is_there.sum())
    return np.flatnonzero(is_there), number[values]
