"""Ground truth of one image as the losses need it."""

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ImageTargets(NamedTuple):
    """Label map of one image, its classes, and its segments.

    Segments are what instance rows are matched to: annotated instances (and, beside them, the class regions that
    belong to no instance) where the image has instances, else the classes themselves. They do not overlap, so that one
    map of their numbers says all of their masks.
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

    def presence(self, num_classes: int) -> Tensor:
        """(C,) bool: classes with at least one labelled pixel."""
        present = torch.zeros(num_classes, dtype=torch.bool, device=self.sem_seg.device)
        present[self.class_labels] = True
        return present


def image_targets(
    sem_seg: Tensor, instance_ids: Optional[Tensor], size: Tuple[int, int], ignore_value: int
) -> ImageTargets:
    """Targets of one image, padded at the right and the bottom to ``size``.

    Args:
        sem_seg: (h, w) classes; instance_ids: (h, w), 0 outside every instance, or None.
        size: (H, W) of the padded batch.
        ignore_value: label of pixels that count nowhere.
    """
    padding = (0, size[1] - sem_seg.shape[1], 0, size[0] - sem_seg.shape[0])
    sem_seg = F.pad(sem_seg.long(), padding, value=ignore_value)
    valid = sem_seg != ignore_value
    class_labels, of_pixel = torch.unique(sem_seg[valid], return_inverse=True)
    if instance_ids is None:
        segment_labels = class_labels
    else:
        instance_ids = F.pad(instance_ids.long(), padding)
        instances, instance_of_pixel = torch.unique(instance_ids[valid], return_inverse=True)
        # Pairs of class and instance as single numbers: sorting rows of two is nine times slower.
        pairs, of_pixel = torch.unique(of_pixel * len(instances) + instance_of_pixel, return_inverse=True)  # (S,)
        segment_labels = class_labels[pairs // len(instances)]
    segments = torch.full_like(sem_seg, len(segment_labels))
    segments[valid] = of_pixel
    return ImageTargets(sem_seg, valid, class_labels, segments, segment_labels)
