"""Losses on the normalised semantic map."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .normalization import mean_over_processes

# Keeps the logarithm finite for a class that no query predicts. Far below any probability that matters.
EPSILON = 1e-5


def normalized(scores: Tensor) -> Tensor:
    """S / Σ_c S over dimension 1: (B, C, …) → class probabilities of every pixel."""
    scores = scores + EPSILON
    return scores / scores.sum(1, keepdim=True)


def pixel_cross_entropy(
    scores: Tensor, labels: Tensor, ignore_value: int, keep: Tensor | None = None, balance: float = 0.0
) -> Tensor:
    """−log of the normalised semantic map at the labels, averaged over *all* labelled pixels of all processes.

    Args:
        scores: (B, C, h, w) unnormalised semantic map, resized to the labels.
        labels: (B, H, W), ``ignore_value`` where a pixel does not count.
        keep: (B, H, W) bool, pixels whose loss is kept; the others still count in the average (UniMatch).
        balance: exponent b of the weight n_c^−b of a pixel of class c, n_c being the kept pixels of that class in the
            batch (of this process); all weights together are as many as the kept pixels.
    """
    valid = labels != ignore_value
    at_label = resized_at_labels(scores, labels.masked_fill(~valid, 0))
    total = scores.sum(1, keepdim=True)
    if total.shape[2:] != labels.shape[1:]:  # resizing is linear: the sum of resized maps is the resized sum
        total = F.interpolate(total, size=labels.shape[1:], mode="bilinear", align_corners=False)
    total = total.squeeze(1) + EPSILON * scores.shape[1]
    loss = torch.log(total) - torch.log(at_label + EPSILON)
    kept = valid if keep is None else valid & keep
    if balance:
        loss = loss * _balancing_weights(labels, kept, scores.shape[1], balance)
    return (loss * kept).sum() / mean_over_processes(valid.sum())


def _balancing_weights(labels: Tensor, counted: Tensor, num_classes: int, exponent: float) -> Tensor:
    """n_c^−exponent at the pixels of class c, scaled to the mean 1 over the pixels that count: (B, H, W)."""
    count = torch.bincount(labels[counted], minlength=num_classes).float()
    weight = count.clamp(min=1) ** -exponent
    weight = weight * count.sum() / (weight * count).sum().clamp(min=EPSILON)
    return weight[labels.masked_fill(~counted, 0)]


def pixel_entropy(scores: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of −Σ_c p_c·log p_c, in nats (0 … log C), p being the normalised semantic map.

    Args:
        scores: (B, C, h, w) unnormalised semantic map.
        valid: (B, H, W) bool, False on padding; resized to the map.
    """
    if valid.shape[1:] != scores.shape[2:]:
        valid = F.interpolate(valid.unsqueeze(1).float(), size=scores.shape[2:], mode="nearest").squeeze(1) > 0.5
    probability = normalized(scores)
    entropy = -(probability * probability.log()).sum(1)
    return (entropy * valid).sum() / mean_over_processes(valid.sum())


def resized_at_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores resized bilinearly to the labels' size, read at the label of every pixel.

    Only these values are computed: maps of all classes at full size would be the largest tensors in training.

    Args:
        scores: (B, C, h, w); labels: (B, H, W), each in 0 … C − 1.

    Returns:
        (B, H, W)
    """
    (height, width), size = scores.shape[2:], labels.shape[1:]
    if size == (height, width):
        return scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    flat = scores.flatten(1)
    first = labels * (height * width)  # of the label's map
    result = scores.new_zeros(labels.shape)
    for row, row_weight in _neighbors(size[0], height, scores):
        for column, column_weight in _neighbors(size[1], width, scores):
            place = first + (row[:, None] * width + column)
            corner = flat.gather(1, place.flatten(1)).view(labels.shape)
            result = result + corner * (row_weight[:, None] * column_weight)
    return result


def _neighbors(length: int, source: int, like: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Lower and upper neighbour along an axis that is resized from ``source`` to ``length``: (indices, weights)."""
    place = torch.arange(length, device=like.device, dtype=torch.float32)
    place = ((place + 0.5) * (source / length) - 0.5).clamp(min=0)
    lower = place.long().clamp(max=source - 1)
    upper_weight = (place - lower).to(like.dtype)
    return (lower, 1 - upper_weight), ((lower + 1).clamp(max=source - 1), upper_weight)
