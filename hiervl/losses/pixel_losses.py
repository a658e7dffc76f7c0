"""Losses on the normalised semantic map."""

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from .normalisation import mean_over_processes

# Keeps the logarithm of a class that no row claims finite; far below any probability that matters.
EPSILON = 1e-5


def normalised(scores: Tensor) -> Tensor:
    """S / Σ_c S over dimension 1: (B, C, …) → class probabilities of every pixel."""
    scores = scores + EPSILON
    return scores / scores.sum(1, keepdim=True)


def pixel_cross_entropy(scores: Tensor, labels: Tensor, ignore_value: int, keep: Optional[Tensor] = None) -> Tensor:
    """−log of the normalised semantic map at the labels, averaged over *all* labelled pixels of all processes.

    Args:
        scores: (B, C, h, w) unnormalised semantic map, resized to the labels.
        labels: (B, H, W), ``ignore_value`` where a pixel does not count.
        keep: (B, H, W) bool, pixels whose loss is kept; the others still count in the average (UniMatch).
    """
    if scores.shape[2:] != labels.shape[1:]:
        scores = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False)
    valid = labels != ignore_value
    at_label = scores.gather(1, labels.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)
    total = scores.sum(1) + EPSILON * scores.shape[1]
    loss = torch.log(total) - torch.log(at_label + EPSILON)
    kept = valid if keep is None else valid & keep
    return (loss * kept).sum() / mean_over_processes(valid.sum())


def pixel_entropy(scores: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of −Σ_c p_c·log p_c, in nats (0 … log C), p being the normalised semantic map.

    Args:
        scores: (B, C, h, w) unnormalised semantic map.
        valid: (B, H, W) bool, False on padding; resized to the map.
    """
    if valid.shape[1:] != scores.shape[2:]:
        valid = F.interpolate(valid.unsqueeze(1).float(), size=scores.shape[2:], mode="nearest").squeeze(1) > 0.5
    probability = normalised(scores)
    entropy = -(probability * probability.log()).sum(1)
    return (entropy * valid).sum() / mean_over_processes(valid.sum())
