"""Teacher predictions as labels: confidence, thresholds, CutMix (UniMatch; design §2)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from hiervl.losses.pixel_losses import EPSILON
from hiervl.utils.errors import UserError
from hiervl.utils.transfer import to_device

THRESHOLDS = ("fixed", "class", "adaptive")


class PseudoLabels(NamedTuple):
    """Labels of unlabelled images, at their size."""

    labels: Tensor  # (B, H, W) int64, the ignore value on padding
    keep: Tensor  # (B, H, W) bool: confident enough to be learnt from


class ConfidenceThreshold(nn.Module):
    """Decides which pixels are confident enough to be learnt from.

    "fixed": all pixels with at least ``threshold``. "class": the threshold of class c is scaled by the teacher's mean
    confidence in c, relative to its most confident class (FlexMatch's idea, with mean confidences in place of counts),
    so that hard classes are not excluded. "adaptive": the same, with the teacher's mean confidence over all pixels in
    place of ``threshold`` (FreeMatch): the threshold follows the network, however flat its semantic maps are. Classes
    that the teacher has not predicted yet are left out.
    """

    mean_confidence: Tensor  # (C,), moving average
    updates: Tensor  # (C,): how often the class was predicted
    pixels: Tensor  # (C,)

    momentum = 0.99

    def __init__(self, num_classes: int, threshold: float, mode: str = "fixed"):
        super().__init__()
        if mode not in THRESHOLDS:
            raise UserError(f"SEMI.THRESHOLD is one of {', '.join(THRESHOLDS)}, not '{mode}'.")
        self.threshold, self.mode = threshold, mode
        self.register_buffer("mean_confidence", torch.zeros(num_classes))
        self.register_buffer("updates", torch.zeros(num_classes))
        self.register_buffer("pixels", torch.zeros(num_classes))

    @torch.no_grad()
    def forward(self, confidence: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """confidence, labels, valid: (B, H, W) → (B, H, W) bool. Updates the mean confidences, except in "fixed"
        mode."""
        if self.mode != "fixed":
            self._update(confidence[valid], labels[valid])
        return self.keeps(confidence, labels, valid)

    def keeps(self, confidence: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """As :meth:`forward`, but without updating the mean confidences."""
        if self.mode == "fixed":
            return valid & (confidence >= self.threshold)
        base = self._overall_mean() if self.mode == "adaptive" else self.threshold
        relative = self.mean_confidence / self.mean_confidence.max()
        per_class = base * relative.where(self.updates > 0, torch.ones_like(relative))
        return valid & (confidence >= per_class[labels])

    def _overall_mean(self) -> Tensor:
        """The teacher's mean confidence over all pixels: the mean of the classes, weighted by their pixels."""
        return (self.mean_confidence * self.pixels).sum() / self.pixels.sum().clamp(min=EPSILON)

    def _update(self, confidence: Tensor, labels: Tensor) -> None:
        num_classes = len(self.mean_confidence)
        count = torch.bincount(labels, minlength=num_classes)
        total = torch.bincount(labels, weights=confidence, minlength=num_classes)
        if comm.get_world_size() > 1:  # one threshold for all processes
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(total)
        self.pixels.lerp_((count / count.sum().clamp(min=1)).to(self.pixels.dtype), 1.0 - self.momentum)
        mean = total / count.clamp(min=1)
        self.updates += count > 0
        # At first the plain mean, then the moving average, so that the start value has no weight.
        rate = (1.0 - self.momentum) / (1.0 - self.momentum ** self.updates.clamp(min=1))
        moved = self.mean_confidence.lerp(mean.to(self.mean_confidence.dtype), rate)
        self.mean_confidence.copy_(torch.where(count > 0, moved, self.mean_confidence))


@torch.no_grad()
def make_pseudo_labels(
    scores: Tensor, valid: Tensor, threshold: Callable[[Tensor, Tensor, Tensor], Tensor], *, ignore_value: int
) -> PseudoLabels:
    """
    Args:
        scores: (B, C, H, W) unnormalised semantic map of the teacher.
        valid: (B, H, W) bool, False on padding.
        threshold: a :class:`ConfidenceThreshold`, or its ``keeps``.
    """
    best, labels = scores.max(dim=1)
    confidence = (best + EPSILON) / (scores.sum(dim=1) + EPSILON * scores.shape[1])  # of the normalised map
    keep = threshold(confidence, labels, valid)
    return PseudoLabels(labels.masked_fill(~valid, ignore_value), keep)


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (B, 4) as x0, y0, x1, y1 (exclusive) → (B, H, W) bool, True inside."""
    y = torch.arange(height, device=boxes.device)[None, :, None]
    x = torch.arange(width, device=boxes.device)[None, None, :]
    x0, y0, x1, y1 = (side[:, None, None] for side in boxes.unbind(1))
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def cutmix(x: Tensor, inside: Tensor) -> Tensor:
    """Replace the pixels ``inside`` (B, H, W) of x (B, …, H, W) by those of another image of the batch. The partner is
    the image at the mirrored place of the batch (as in UniMatch). In a batch of odd size the middle image would be its
    own partner, so the image before is used. Images, labels and masks go through this same function with the same
    boxes."""
    while inside.dim() < x.dim():
        inside = inside.unsqueeze(1)
    partner = x.roll(1, 0) if len(x) % 2 else x.flip(0)
    return torch.where(inside, partner, x)


def kept_fractions(pseudo: PseudoLabels, background: Sequence[int], ignore_value: int) -> dict[str, Tensor]:
    """Share of the pixels that are learnt from: of all pixels, of foreground and of background."""
    valid = pseudo.labels != ignore_value
    kept = {"pseudo/kept": _share(pseudo.keep, valid)}
    if background:
        is_background = torch.isin(pseudo.labels, to_device(torch.tensor(background), pseudo.labels.device))
        kept["pseudo/kept_background"] = _share(pseudo.keep, valid & is_background)
        kept["pseudo/kept_foreground"] = _share(pseudo.keep, valid & ~is_background)
    return kept


def _share(keep: Tensor, among: Tensor) -> Tensor:
    return (keep & among).sum() / among.sum().clamp(min=1)
