"""Which row is compared with which target (design §2; Mask2Former §3.1 for the matching)."""

from typing import List, NamedTuple, Sequence, Tuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from .mask_losses import point_sample
from .targets import ImageTargets


class Assignment(NamedTuple):
    """Rows of a batch and what they should predict."""

    target_classes: Tensor  # (B, Q): class, or C for "no object"
    image: Tensor  # (R,) image of every row that has a mask target
    row: Tensor  # (R,) its row
    masks: Tensor  # (R, H, W) bool, its target, empty for rows of absent classes
    is_matched: Tensor  # (R,) bool: the target is an object (not an empty mask)


def text_row_targets(row_classes: Tensor, row_valid: Tensor, target: ImageTargets, num_classes: int):
    """Text rows of one image belong to their class: its mask if it is there, else an empty mask and "no object".

    Args:
        row_classes, row_valid: (Q,); rows of class < 0 are instance rows and are left alone.

    Returns:
        rows (R,), their classes (R,), their masks (R, H, W)
    """
    rows = torch.nonzero(row_valid & (row_classes >= 0)).flatten()
    wanted = row_classes[rows]
    same = wanted[:, None] == target.class_labels[None, :]  # (R, T)
    is_there = same.any(1)
    masks = target.sem_seg.new_zeros((len(rows), *target.sem_seg.shape), dtype=torch.bool)
    if is_there.any():
        masks[is_there] = target.class_masks[same[is_there].float().argmax(1)]
    return rows, torch.where(is_there, wanted, torch.full_like(wanted, num_classes)), masks


@torch.no_grad()
def matching_cost(
    logits: Tensor, masks: Tensor, labels: Tensor, target_masks: Tensor, valid: Tensor, points: Tensor,
    weights: Tuple[float, float, float],
) -> Tensor:
    """Cost of giving each of T targets to each of Q rows of one image: (Q, T).

    Args:
        logits: (Q, C + 1); masks: (Q, h, w) logits; labels: (T,); target_masks: (T, H, W) bool; valid: (H, W) bool.
        points: (P, 2) shared by rows and targets; weights: of class, mask and dice.
    """
    predicted = point_sample(masks.unsqueeze(0).float(), points.unsqueeze(0))[0]  # (Q, P)
    truth = point_sample(target_masks.unsqueeze(0).float(), points.unsqueeze(0))[0]  # (T, P)
    counts = (point_sample(valid[None, None].float(), points.unsqueeze(0))[0, 0] > 0.5).float()  # (P,)
    truth = truth * counts
    of_class = -logits.float().softmax(-1)[:, labels]
    # log(1 + e^-x) where the target is 1, log(1 + e^x) where it is 0
    inside, outside = F.softplus(-predicted) * counts, F.softplus(predicted) * counts
    of_mask = (inside @ truth.T + outside @ (counts - truth).T) / counts.sum().clamp(min=1)
    probability = predicted.sigmoid() * counts
    of_dice = 1 - (2 * probability @ truth.T + 1) / (probability.sum(1)[:, None] + truth.sum(1) + 1)
    return weights[0] * of_class + weights[1] * of_mask + weights[2] * of_dice


def match(cost: Tensor) -> Tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment of a (Q, T) cost: rows, targets. Non-finite costs count as very high."""
    finite = torch.nan_to_num(cost.float(), nan=1e6, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)
    rows, targets = linear_sum_assignment(finite.cpu().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(targets, device=cost.device)


def assign(
    logits: Tensor, masks: Tensor, row_classes: Tensor, row_valid: Tensor, targets: Sequence[ImageTargets],
    *, fixed: bool, points: Tensor, weights: Tuple[float, float, float],
) -> Assignment:
    """Assign the rows of one prediction.

    Args:
        logits: (B, Q, C + 1); masks: (B, Q, h, w); row_classes, row_valid: (B, Q); targets: one per image.
        fixed: text rows belong to their class and instance rows are matched; else all rows are matched.
        points: (P, 2) where masks are compared for the matching; weights: of the class, mask and dice cost.
    """
    num_classes = logits.shape[-1] - 1
    classes = torch.full_like(row_classes, num_classes)
    images: List[Tensor] = []
    rows: List[Tensor] = []
    row_masks: List[Tensor] = []
    matched: List[Tensor] = []

    def add(image: int, which: Tensor, of_class: Tensor, target_masks: Tensor) -> None:
        classes[image, which] = of_class
        images.append(torch.full_like(which, image))
        rows.append(which)
        row_masks.append(target_masks)
        matched.append(of_class < num_classes)

    for b, target in enumerate(targets):
        if fixed:
            add(b, *text_row_targets(row_classes[b], row_valid[b], target, num_classes))
        free = torch.nonzero(row_valid[b] & ((row_classes[b] < 0) | (not fixed))).flatten()
        if len(free) and len(target.segment_labels):
            cost = matching_cost(
                logits[b, free], masks[b, free], target.segment_labels, target.segment_masks, target.valid, points,
                weights,
            )
            chosen, of_target = match(cost)
            add(b, free[chosen], target.segment_labels[of_target], target.segment_masks[of_target])
    return Assignment(classes, *map(_concatenate, (images, rows, row_masks, matched)))


def _concatenate(parts: List[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
