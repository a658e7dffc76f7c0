"""Which query is compared with which target (design §2; Mask2Former §3.1 for the matching)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hiervl.utils.transfer import to_device

from .mask_losses import point_sample
from .target_maps import TargetMaps
from .targets import ImageTargets

HIGHEST_COST = 1e6


class Assignment(NamedTuple):
    """What the queries of a batch should predict. Only queries with an object have a mask target (Mask2Former)."""

    target_classes: Tensor  # (B, Q): class, or C for "no object"
    image: Tensor  # (R,) image of every query that has a mask target
    query: Tensor  # (R,) its place among the queries
    target_map: Tensor  # (R,) and its target: the map of TargetMaps …
    target_number: Tensor  # (R,) … and the number there


@torch.no_grad()
def matching_costs(
    logits: Tensor,
    masks: Tensor,
    labels: Tensor,
    truth: Tensor,
    counts: Tensor,
    points: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Cost of giving each of T targets to each of Q queries, for all images of one prediction: (B, Q, T).

    Args:
        logits: (B, Q, C + 1); masks: (B, Q, h, w) logits; labels: (B, T) classes of the targets.
        truth: (B, T, P) target masks at the points, 0 where ``counts`` is; counts: (B, 1, P), 1 at labelled points.
        points: (P, 2) shared by queries and targets; weights: of the class, mask and dice cost.
    """
    # The few targets come first in all products. On a CPU this takes a quarter of the time of the other order.
    predicted = point_sample(masks.float(), points.expand(len(masks), -1, -1)).transpose(1, 2)  # (B, P, Q)
    probability = predicted.sigmoid()
    class_cost = -logits.float().softmax(-1).gather(2, labels.unsqueeze(1).expand(-1, logits.shape[1], -1))
    # log(1 + e^-x) where the target is 1, log(1 + e^x) where it is 0; the former is the latter minus x.
    mask_cost = (counts @ F.softplus(predicted) - truth @ predicted) / counts.sum(-1, keepdim=True).clamp(min=1)
    overlap, area = truth @ probability, counts @ probability + truth.sum(-1, keepdim=True)
    dice_cost = 1 - (2 * overlap + 1) / (area + 1)
    return weights[0] * class_cost + (weights[1] * mask_cost + weights[2] * dice_cost).transpose(1, 2)


def match(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest one-to-one assignment for a (Q, T) cost: queries, targets. Non-finite costs count as very high."""
    finite = np.nan_to_num(cost, nan=HIGHEST_COST, posinf=HIGHEST_COST, neginf=-HIGHEST_COST)
    return linear_sum_assignment(finite.clip(-HIGHEST_COST, HIGHEST_COST))


def assign(
    pred_logits: Sequence[Tensor],
    pred_masks: Sequence[Tensor],
    query_classes: Tensor,
    query_valid: Tensor,
    targets: Sequence[ImageTargets],
    maps: TargetMaps,
    *,
    fixed: bool,
    points: Tensor,
    weights: tuple[float, float, float],
) -> list[Assignment]:
    """Assign the queries of every prediction. The costs of all predictions go to the CPU in one transfer.

    Args:
        pred_logits: (B, Q, C + 1) each; pred_masks: (B, Q, h, w) each; query_classes, query_valid: (B, Q).
        targets: one per image; maps: of the same targets.
        fixed: text queries get the mask of their class, instance queries are matched; else all queries are matched.
        points: (P, 2) where masks are compared for the matching; weights: of the class, mask and dice cost.
    """
    num_classes = pred_logits[0].shape[-1] - 1
    is_text = query_valid & (query_classes >= 0) & fixed
    is_free = query_valid & ~is_text
    by_class = _text_queries(query_classes, is_text, targets, num_classes)
    matched = _matched_queries(pred_logits, pred_masks, is_free, targets, maps, points, weights)
    labels = torch.cat([target.segment_labels for target in targets])
    first = np.cumsum([0] + [len(target.segment_labels) for target in targets])
    numbers = [np.stack((image, query, segment, first[image] + segment)) for image, query, segment in matched]
    on_device = to_device(torch.from_numpy(np.concatenate(numbers, axis=1)), query_classes.device)
    found = []
    for image, query, segment, label in on_device.split([x.shape[1] for x in numbers], dim=1):
        target_classes = by_class.target_classes.clone()
        target_classes[image, query] = labels[label]
        found.append(
            Assignment(
                target_classes,
                torch.cat((by_class.image, image)),
                torch.cat((by_class.query, query)),
                torch.cat((by_class.target_map, image + len(targets))),
                torch.cat((by_class.target_number, segment)),
            )
        )
    return found


def _text_queries(
    query_classes: Tensor, is_text: Tensor, targets: Sequence[ImageTargets], num_classes: int
) -> Assignment:
    """A text query gets the mask of its class if the image shows the class, else "no object".

    Queries of absent classes have no mask target: most queries are absent, so they would dominate the mean of the mask
    losses. All predictions share the result.
    """
    presence = torch.stack([target.presence(num_classes) for target in targets])
    is_there = is_text & presence.gather(1, query_classes.clamp(min=0))
    image, query = torch.nonzero(is_there, as_tuple=True)
    classes = torch.where(is_there, query_classes, num_classes)
    return Assignment(classes, image, query, image, query_classes[image, query])


def _matched_queries(
    pred_logits: Sequence[Tensor],
    pred_masks: Sequence[Tensor],
    is_free: Tensor,
    targets: Sequence[ImageTargets],
    maps: TargetMaps,
    points: Tensor,
    weights: tuple[float, float, float],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For every prediction: the images, queries and segments that were matched."""
    columns = torch.nonzero(is_free.any(0)).flatten()
    num_segments = [len(target.segment_labels) for target in targets]
    empty = np.zeros(0, dtype=np.int64)
    if not len(columns) or not max(num_segments):
        return [(empty, empty, empty)] * len(pred_logits)
    points = _in_reading_order(points, *pred_masks[0].shape[2:])
    labels = pad_sequence([target.segment_labels for target in targets], batch_first=True)  # (B, T)
    truth, counts = maps.segments_at(points, labels.shape[1])
    truth = (truth * counts).contiguous()
    # Instance queries are the last ones, so a slice is enough; an index would copy.
    queries = slice(int(columns[0]), int(columns[-1]) + 1)
    costs = torch.stack(
        [
            matching_costs(logits[:, queries], masks[:, queries], labels, truth, counts, points, weights)
            for logits, masks in zip(pred_logits, pred_masks)
        ]
    )
    free_queries = is_free.cpu().numpy()
    found = []
    for layer_costs in costs.cpu().numpy():
        images, matched, segments = [], [], []
        for b, (cost, number) in enumerate(zip(layer_costs, num_segments)):
            free = np.flatnonzero(free_queries[b])
            chosen, matched_segments = match(cost[free - queries.start, :number])
            images.append(np.full_like(chosen, b))
            matched.append(free[chosen])
            segments.append(matched_segments)
        found.append((np.concatenate(images), np.concatenate(matched), np.concatenate(segments)))
    return found


def _in_reading_order(points: Tensor, height: int, width: int) -> Tensor:
    """Points (P, 2) sorted by row and column of the mask. Neighbours then lie in the same cache lines of all masks. On
    a CPU, sampling many masks at the same points is three times as fast this way."""
    return points[((points[:, 1] * height).floor() * width + points[:, 0] * width).argsort()]
