"""Losses between masks, compared at sampled points (PointRend; Mask2Former §3.3)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps (R, C, H, W) at points (R, P, 2), x and y in [0, 1] → (R, C, P)."""
    grid = points.unsqueeze(2).mul(2).sub_(1)
    return F.grid_sample(maps, grid, align_corners=False).squeeze(3)


def random_points(num_points: int, device: torch.device) -> Tensor:
    """Points (P, 2), uniform in [0, 1]²."""
    return torch.rand(num_points, 2, device=device)


class PointDraw(NamedTuple):
    """Random places on R masks, from which :func:`uncertain_points` chooses. Coordinates go from −1 to 1, as in
    ``grid_sample``."""

    candidates: Tensor  # (R, N, 2)
    uniform: Tensor  # (R, P − I, 2), always taken
    num_important: int  # I: how many of the P points are chosen by uncertainty


def draw_points(
    num_masks: int, num_points: int, oversample_ratio: float, importance_share: float, device: torch.device
) -> PointDraw:
    """Draw uniform places for P = ``num_points`` points per mask.

    All decoder layers can share them: each layer still sees random points. On a CPU, drawing points for every layer
    would take a fifth of the losses' time.
    """
    num_important = int(importance_share * num_points)
    sizes = int(num_points * oversample_ratio), num_points - num_important
    candidates, uniform = (torch.rand(num_masks, size, 2, device=device).mul_(2).sub_(1) for size in sizes)
    return PointDraw(candidates, uniform, num_important)


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, draw: PointDraw) -> Tensor:
    """Points (R, P, 2), x and y in [0, 1], for masks (R, H, W): a share where the prediction is least certain, the rest
    uniform."""
    grid = draw.candidates.unsqueeze(2)
    certainty = F.grid_sample(mask_logits.unsqueeze(1), grid, align_corners=False).flatten(1).abs_()
    best = _smallest(certainty, draw.num_important)
    # Both coordinates of a point are copied together, as one number of 64 bits.
    pairs = draw.candidates.view(torch.int64).squeeze(-1)
    important = pairs.gather(1, best).unsqueeze(-1).view(grid.dtype)
    return torch.cat((important, draw.uniform), dim=1).add_(1).div_(2)


def _smallest(values: Tensor, count: int) -> Tensor:
    """Indices (R, count) of the smallest values in every row of (R, N), in any order."""
    num_rows, length = values.shape
    if values.device.type == "cpu" and count and num_rows:
        # NumPy finds the limits with vector instructions; this takes two thirds of topk's time.
        limits = [np.partition(row, count - 1)[count - 1 : count] for row in values.numpy()]
        places = np.flatnonzero(values.numpy() <= np.stack(limits))
        if len(places) == num_rows * count:
            places = places.reshape(num_rows, count) - length * np.arange(num_rows)[:, None]
            if places[:, 0].min() >= 0 and places[:, -1].max() < length:  # else values equal a limit, or are NaN
                return torch.from_numpy(places)
    return values.topk(count, dim=1, largest=False, sorted=False).indices


def sampled_mask_losses(logits: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice loss of every mask.

    Args:
        logits: (R, P) predictions at the points; targets: (R, P) in [0, 1].
        counts: (R, P), 1 where the pixel is labelled, 0 where it is not.

    Returns:
        (R,) mean binary cross-entropy over the counted points, (R,) dice loss 1 − (2·|x∩y| + 1) / (|x| + |y| + 1).
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    cross_entropy = (cross_entropy * counts).sum(1) / counts.sum(1).clamp(min=1)
    probability = logits.sigmoid() * counts
    targets = targets * counts
    overlap = 2 * (probability * targets).sum(1)
    dice = 1 - (overlap + 1) / (probability.sum(1) + targets.sum(1) + 1)
    return cross_entropy, dice
