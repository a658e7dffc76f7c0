"""Paste classes of labelled images onto the strong views of unlabelled ones.

Half of the classes of a labelled image are pasted with their true labels (Tranheden et al., "DACS", 2021, after Olsson
et al., "ClassMix", 2021). The student sees true labels among the colours and surroundings of unlabelled images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiervl.utils.transfer import to_device

from .pseudo_labels import PseudoLabels


class PastedClasses(NamedTuple):
    """What is pasted onto a batch of views."""

    images: Tensor  # (B, 3, H, W) in 0…255
    labels: Tensor  # (B, H, W) int64
    inside: Tensor  # (B, H, W) bool: the pixels that are pasted

    def onto_images(self, images: Tensor) -> Tensor:
        return torch.where(self.inside[:, None], self.images, images)

    def onto_labels(self, pseudo: PseudoLabels) -> PseudoLabels:
        """The pasted pixels get their true labels, and all of them are kept."""
        return PseudoLabels(torch.where(self.inside, self.labels, pseudo.labels), pseudo.keep | self.inside)


def draw_classes(
    samples: Sequence[dict], count: int, probability: float, ignore_value: int, device: torch.device
) -> PastedClasses:
    """Draw what is pasted onto ``count`` views: with ``probability`` half of the classes, rounded up, of one sample.

    Args:
        samples: labelled, with "image" (3, H, W) and "sem_seg" (H, W), all of the size of the views.
    """
    images, labels, inside = [], [], []
    for _ in range(count):
        sample = samples[int(torch.randint(len(samples), ()))]
        truth = to_device(sample["sem_seg"], device).long()
        classes = truth.unique()
        classes = classes[classes != ignore_value]
        number = (len(classes) + 1) // 2 if torch.rand(()) < probability else 0
        chosen = classes[torch.randperm(len(classes), device=classes.device)[:number]]
        images.append(to_device(sample["image"], device).float())
        labels.append(truth)
        inside.append(torch.isin(truth, chosen))
    return PastedClasses(torch.stack(images), torch.stack(labels), torch.stack(inside))
