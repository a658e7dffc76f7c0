"""Losses between masks, compared at sampled points (PointRend; Mask2Former §3.3)."""

from typing import Tuple

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


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor, num_points: int, oversample_ratio: float, importance_share: float
) -> Tensor:
    """Points (R, P, 2) for masks (R, H, W): a share where the prediction is least sure, the rest uniform."""
    num_masks = len(mask_logits)
    candidates = torch.rand(num_masks, int(num_points * oversample_ratio), 2, device=mask_logits.device)
    certainty = point_sample(mask_logits.unsqueeze(1), candidates).squeeze(1).abs_()
    num_important = int(importance_share * num_points)
    best = certainty.topk(num_important, dim=1, largest=False, sorted=False).indices
    important = candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    uniform = torch.rand(num_masks, num_points - num_important, 2, device=mask_logits.device)
    return torch.cat((important, uniform), dim=1)


def sampled_mask_losses(logits: Tensor, targets: Tensor, counts: Tensor) -> Tuple[Tensor, Tensor]:
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
