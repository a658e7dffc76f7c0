"""Instances and panoptic segments from instance queries and the semantic map, within one window and across windows."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from hiervl.evaluation.sliding_window import Window

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive

# Queries of a lower score are not used. This score and the two shares were chosen on ShapesWorld's training scenes
# (docs/experiments.md).
MIN_QUERY_SCORE = 0.1
MAIN_SHARE = 0.15  # of the region in which most of a query's mask lies: a query that covers this much gets a part
OTHER_SHARE = 0.5  # the same for any other region: an object may be cut in two by something in front of it
# Masks of one class with at least this IoU are one object: masks of two queries, or of two windows where they overlap.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Instance:
    """One object.

    Attributes:
        label: index of its class.
        score: 0…1. For a query: probability of the class times the mean probability of the mask's pixels. For an
            object: see ``objects_of_map``.
        box: top, left, bottom, right in pixels of the image, the last two exclusive.
        mask: (bottom − top, right − left) bool, inside the box.
    """

    label: int
    score: float
    box: Box
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())

    def full_mask(self, image_size: tuple[int, int]) -> np.ndarray:
        """The mask in an image of ``image_size`` (height, width): bool."""
        full = np.zeros(image_size, bool)
        top, left, bottom, right = self.box
        full[top:bottom, left:right] = self.mask
        return full


class Segment(NamedTuple):
    """One segment of a panoptic map."""

    id: int  # its value in the map, from 1 on
    label: int
    score: float  # 0…1
    is_thing: bool  # an object; otherwise all pixels of its class are one segment


def query_masks(masks: Tensor, padded_size: tuple[int, int], seen_size: tuple[int, int]) -> Tensor:
    """Mask logits (N, H', W') of one image → probabilities (N, *seen_size), without the padding."""
    masks = F.interpolate(masks[None].float(), padded_size, mode="bilinear", align_corners=False)[0]
    return masks[:, : seen_size[0], : seen_size[1]].sigmoid()


def instances_from_queries(
    logits: Tensor, probability: Tensor, things: Sequence[int], *, min_score: float = MIN_QUERY_SCORE
) -> list[Instance]:
    """The instances of the instance queries, best first. Masks of one class do not overlap.

    If several queries have one object (``SAME_OBJECT_IOU``), the best one stays: networks trained with few labels have
    not learnt to leave an object to one query.

    Args:
        logits: (N, C + 1), the last column "no object".
        probability: (N, H, W) of the masks; a pixel belongs to a mask from 0.5 on.
        things: classes that come as objects.
        min_score: queries of a lower score are left out. So are empty masks.
    """
    if not len(things) or not len(logits):
        return []
    inside = probability > 0.5
    area = inside.flatten(1).sum(1)
    scores, labels = logits.softmax(-1)[:, list(things)].max(-1)
    scores = scores * (probability * inside).flatten(1).sum(1) / area.clamp(min=1)
    order = scores.argsort(descending=True, stable=True)
    order = order[(area[order] > 0) & (scores[order] >= min_score)]
    scores, labels, inside, probability = scores[order], labels[order], inside[order], probability[order]
    best = _best_of_each_object(labels, inside)
    scores, labels, inside, probability = scores[best], labels[best], inside[best], probability[best]
    found = []
    for label in labels.unique().tolist():
        same_class = (labels == label).nonzero().flatten()
        owner = (scores[same_class, None, None] * probability[same_class]).argmax(0)
        for place, query in enumerate(same_class.tolist()):
            mask = inside[query] & (owner == place)
            if mask.any():
                found.append(_instance(things[label], scores[query].item(), mask.cpu().numpy(), (0, 0)))
    return sorted(found, key=lambda instance: -instance.score)


def objects_of_map(
    labels: np.ndarray, confidence: np.ndarray, things: Sequence[int], candidates: Sequence[Instance] | None = None
) -> list[Instance]:
    """Divide every connected region of a thing class between the candidates that lie in it. Best object first.

    The semantic map says what is where. The candidates, found by instance queries, say which pixels belong together and
    how certain it is that they are an object. A candidate gets a part of the region in which most of it lies, and of
    regions of which it covers more than half. Pixels that no candidate covers go to the nearest one in their region. A
    region without candidates is one object.

    Args:
        labels: (H, W) classes.
        confidence: (H, W) 0…1. The score of an object is its mean over the object. With candidates it is multiplied by
            ½ + ½ · (the best score · IoU of a candidate with the object).
        candidates: what the instance queries found, best first; None for a network without them.
    """
    found = []
    for thing in sorted(set(things) & set(np.unique(labels).tolist())):
        same_class = [candidate for candidate in candidates or () if candidate.label == thing]
        owner = _owners(same_class, ndimage.label(labels == thing)[0])
        agreement = _agreement(same_class, owner) if candidates is not None else None
        for number, place in enumerate(ndimage.find_objects(owner), start=1):
            if place is None:
                continue
            mask = owner[place] == number
            score = float(confidence[place][mask].mean())
            if agreement is not None:
                score *= (1 + agreement[number]) / 2
            found.append(Instance(int(thing), score, _slice_box(place), mask))
    return sorted(found, key=lambda instance: -instance.score)


def panoptic_of_map(
    labels: np.ndarray, confidence: np.ndarray, things: Sequence[int], objects: Sequence[Instance]
) -> tuple[np.ndarray, list[Segment]]:
    """The objects of the map as segments. Every class that is not a thing is one segment.

    Returns:
        (H, W) int32 of segment numbers, and the segments.
    """
    ids = np.zeros(labels.shape, np.int32)
    segments: list[Segment] = []
    for instance in objects:
        segments.append(Segment(len(segments) + 1, instance.label, instance.score, True))
        top, left, bottom, right = instance.box
        ids[top:bottom, left:right][instance.mask] = len(segments)
    for label in np.unique(labels).tolist():
        if label not in things:
            mask = labels == label
            segments.append(Segment(len(segments) + 1, label, float(confidence[mask].mean()), False))
            ids[mask] = len(segments)
    return ids, segments


class InstanceCollector:
    """Joins the instances of overlapping windows: the two parts of an object at a border become one."""

    def __init__(self) -> None:
        self._found: list[tuple[Instance, Box]] = []  # with the box that its windows have covered

    def add(self, window: Window, instances: Sequence[Instance]) -> None:
        """Take a window's instances, in coordinates of the window."""
        box = _window_box(window)
        earlier = [pair for pair in self._found if _overlap(pair[1], box)]
        for instance in instances:
            moved = _moved(instance, window.top, window.left)
            twin = next((pair for pair in earlier if _is_same(pair, (moved, box))), None)
            if twin is None:
                self._found.append((moved, box))
                continue
            earlier.remove(twin)  # two instances of one window are two objects
            self._found.remove(twin)
            self._found.append((_united(twin[0], moved), _hull(twin[1], box)))

    def instances(self) -> list[Instance]:
        """Everything found, best first."""
        return sorted((instance for instance, _ in self._found), key=lambda instance: -instance.score)


def _owners(candidates: Sequence[Instance], regions: np.ndarray) -> np.ndarray:
    """(H, W) int32: the object of every pixel of the class, from 1 on: candidates, then regions without candidates.

    regions: (H, W) numbers from 1 on, 0 elsewhere.
    """
    areas = np.bincount(regions.ravel())
    sharers: dict[int, list[int]] = defaultdict(list)  # region → candidates that have a part of it
    for number, candidate in enumerate(candidates, start=1):
        covered, pixels = _overlapped(candidate, regions)
        if covered.size:
            share = np.full(covered.size, OTHER_SHARE)
            share[pixels.argmax()] = MAIN_SHARE
            for region in covered[pixels >= share * areas[covered]].tolist():
                sharers[region].append(number)
    owner = np.zeros(regions.shape, np.int32)
    for region, place in enumerate(ndimage.find_objects(regions), start=1):
        sharing = sharers.get(region, [len(candidates) + region])
        is_region = regions[place] == region
        owner[place][is_region] = sharing[0]
        if len(sharing) > 1:
            parts = _parts([(number, candidates[number - 1]) for number in sharing], _slice_box(place), is_region)
            owner[place][is_region] = parts[is_region]
    return owner


def _parts(candidates: Sequence[tuple[int, Instance]], box: Box, is_region: np.ndarray) -> np.ndarray:
    """(h, w) number of the nearest candidate of every pixel of ``box``; where two overlap, the first one."""
    owner = np.zeros(is_region.shape, np.int32)
    for number, candidate in candidates:
        owner[_crop(candidate, box) & is_region & (owner == 0)] = number
    nearest = ndimage.distance_transform_edt(owner == 0, return_distances=False, return_indices=True)
    return owner[tuple(nearest)]


def _agreement(candidates: Sequence[Instance], owner: np.ndarray) -> np.ndarray:
    """The best score · IoU of a candidate with each object of ``owner`` (H, W), by the object's number."""
    areas = np.bincount(owner.ravel())
    best = np.zeros(len(areas))
    for candidate in candidates:
        objects, pixels = _overlapped(candidate, owner)
        iou = pixels / (candidate.area + areas[objects] - pixels)
        best[objects] = np.maximum(best[objects], candidate.score * iou)
    return best


def _overlapped(candidate: Instance, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers other than 0 under a candidate's mask, and how many pixels each has there."""
    top, left, bottom, right = candidate.box
    found, pixels = np.unique(numbers[top:bottom, left:right][candidate.mask], return_counts=True)
    return found[found > 0], pixels[found > 0]


def _best_of_each_object(labels: Tensor, inside: Tensor) -> list[int]:
    """Keep one query per object and class. The queries come best first.

    labels: (K,); inside: (K, H, W) bool.
    """
    flat = inside.flatten(1).float()
    overlap = flat @ flat.T
    area = overlap.diagonal()
    is_same = (overlap > SAME_OBJECT_IOU * (area[:, None] + area - overlap)) & (labels[:, None] == labels)
    same = is_same.cpu().numpy()
    best: list[int] = []
    for query in range(len(labels)):
        if not same[query, best].any():
            best.append(query)
    return best


def _instance(label: int, score: float, mask: np.ndarray, at: tuple[int, int]) -> Instance:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    box = (int(top) + at[0], int(left) + at[1], int(bottom) + at[0], int(right) + at[1])
    return Instance(int(label), float(score), box, mask[top:bottom, left:right].copy())


def _moved(instance: Instance, down: int, right: int) -> Instance:
    box = instance.box
    return replace(instance, box=(box[0] + down, box[1] + right, box[2] + down, box[3] + right))


def _window_box(window: Window) -> Box:
    return window.top, window.left, window.top + window.height, window.left + window.width


def _slice_box(place: tuple[slice, slice]) -> Box:
    return place[0].start, place[1].start, place[0].stop, place[1].stop


def _common(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _overlap(a: Box, b: Box) -> bool:
    top, left, bottom, right = _common(a, b)
    return top < bottom and left < right


def _hull(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _crop(instance: Instance, box: Box) -> np.ndarray:
    """The instance's mask inside ``box``."""
    full = np.zeros((box[2] - box[0], box[3] - box[1]), bool)
    if _overlap(instance.box, box):
        part = _common(instance.box, box)
        top, left = instance.box[:2]
        inside = instance.mask[part[0] - top : part[2] - top, part[1] - left : part[3] - left]
        full[part[0] - box[0] : part[2] - box[0], part[1] - box[1] : part[3] - box[1]] = inside
    return full


def _is_same(one: tuple[Instance, Box], other: tuple[Instance, Box]) -> bool:
    if one[0].label != other[0].label:
        return False
    if not _overlap(one[0].box, other[0].box):
        return False
    both_see = _common(one[1], other[1])
    a, b = _crop(one[0], both_see), _crop(other[0], both_see)
    return (a & b).sum() >= SAME_OBJECT_IOU * (a | b).sum()


def _united(a: Instance, b: Instance) -> Instance:
    box = _hull(a.box, b.box)
    return Instance(a.label, max(a.score, b.score), box, _crop(a, box) | _crop(b, box))
