"""Ground truth of one image as the losses need it."""

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ImageTargets(NamedTuple):
    """Label map of one image, its classes as masks, and its segments.

    ``segments`` are what instance rows are matched to: annotated instances (and, beside them, the class regions that
    belong to no instance) where the image has instances, else the classes themselves.
    """

    sem_seg: Tensor  # (H, W) int64, the ignore value on unlabelled pixels and padding
    valid: Tensor  # (H, W) bool: pixels with a label
    class_labels: Tensor  # (T,) classes of the image, ascending
    class_masks: Tensor  # (T, H, W) bool
    segment_labels: Tensor  # (S,)
    segment_masks: Tensor  # (S, H, W) bool

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
    class_labels = torch.unique(sem_seg[valid])
    class_masks = sem_seg == class_labels[:, None, None]
    if instance_ids is None:
        return ImageTargets(sem_seg, valid, class_labels, class_masks, class_labels, class_masks)

    instance_ids = F.pad(instance_ids.long(), padding)
    pairs = torch.unique(torch.stack((sem_seg[valid], instance_ids[valid]), dim=1), dim=0)  # (S, 2)
    segment_masks = (sem_seg == pairs[:, :1, None]) & (instance_ids == pairs[:, 1:, None])
    return ImageTargets(sem_seg, valid, class_labels, class_masks, pairs[:, 0], segment_masks)
