"""Instances and panoptic segments from instance rows and the semantic map, within one window and across windows."""

from dataclasses import dataclass, replace
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from hiervl.evaluation.sliding_window import Window

Box = Tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive

# Rows below it are not asked; chosen on ShapesWorld's validation scenes, see docs/method.md.
ROW_SCORE = 0.7
# Masks of one class that agree so much are one object: those of two rows, and those of two windows where both look.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        label: index of its class.
        score: 0…1, probability of the class times the mean probability of the mask's pixels where an instance row
            found it, else the mean confidence of its pixels.
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

    def full_mask(self, image_size: Tuple[int, int]) -> np.ndarray:
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


def row_masks(masks: Tensor, padded_size: Tuple[int, int], seen_size: Tuple[int, int]) -> Tensor:
    """Mask logits (N, H', W') of one image → probabilities (N, *seen_size), without the padding."""
    masks = F.interpolate(masks[None].float(), padded_size, mode="bilinear", align_corners=False)[0]
    return masks[:, : seen_size[0], : seen_size[1]].sigmoid()


def instances_of_rows(
    logits: Tensor, probability: Tensor, things: Sequence[int], *, min_score: float = ROW_SCORE
) -> List[Instance]:
    """What instance rows are sure of, best first; masks of one class do not overlap.

    Of several rows with one object (``SAME_OBJECT_IOU``) the best stays: networks trained with few labels have not
    learnt to leave an object to one row.

    Args:
        logits: (N, C + 1), the last column "no object".
        probability: (N, H, W) of the masks; a pixel belongs to a mask from 0.5 on.
        things: classes that come as objects.
        min_score: rows of lower score are left out, as are empty masks.
    """
    if not len(things) or not len(logits):
        return []
    inside = probability > 0.5
    area = inside.flatten(1).sum(1)
    scores, labels = logits.softmax(-1)[:, list(things)].max(-1)
    scores = scores * (probability * inside).flatten(1).sum(1) / area.clamp(min=1)
    rows = scores.argsort(descending=True, stable=True)
    rows = rows[(area[rows] > 0) & (scores[rows] >= min_score)]
    scores, labels, inside, probability = scores[rows], labels[rows], inside[rows], probability[rows]
    best = _best_of_each_object(labels, inside)
    scores, labels, inside, probability = scores[best], labels[best], inside[best], probability[best]
    found = []
    for label in labels.unique().tolist():
        of_class = (labels == label).nonzero().flatten()
        owner = (scores[of_class, None, None] * probability[of_class]).argmax(0)
        for place, row in enumerate(of_class.tolist()):
            mask = inside[row] & (owner == place)
            if mask.any():
                found.append(_instance(things[label], scores[row].item(), mask.cpu().numpy(), (0, 0)))
    return sorted(found, key=lambda instance: -instance.score)


def objects_of_map(
    labels: np.ndarray, confidence: np.ndarray, things: Sequence[int], rows: Sequence[Instance] = ()
) -> List[Instance]:
    """Every connected region of a thing class, shared out among the instance rows that lie in it; best first.

    The text rows say what is where, the instance rows which of it belongs together. A region that no row covers is an
    object of its own, as is what rows leave of a region of which they cover less than half. Else the nearest row has
    what they leave.

    Args:
        labels: (H, W) classes; confidence: (H, W) 0…1, whose mean over a region is its score.
        rows: what the instance rows found, best first, with scores of their own; nothing for networks without.
    """
    found = []
    for thing in sorted(set(things) & set(np.unique(labels).tolist())):
        of_class = [row for row in rows if row.label == thing]
        is_thing = labels == thing
        owner = _owners(of_class, is_thing)
        regions, count = ndimage.label(is_thing)
        for number, place in enumerate(ndimage.find_objects(regions, count), start=1):
            _share_out(owner[place], regions[place] == number, len(of_class) + number)
        for number, place in enumerate(ndimage.find_objects(owner), start=1):
            if place is None:
                continue
            mask = owner[place] == number
            is_row = number <= len(of_class)
            score = of_class[number - 1].score if is_row else float(confidence[place][mask].mean())
            box = (place[0].start, place[1].start, place[0].stop, place[1].stop)
            found.append(Instance(int(thing), score, box, mask))
    return sorted(found, key=lambda instance: -instance.score)


def panoptic_of_map(
    labels: np.ndarray, confidence: np.ndarray, things: Sequence[int], objects: Sequence[Instance]
) -> Tuple[np.ndarray, List[Segment]]:
    """The objects of the map as segments; every class that is no thing is one segment.

    Returns:
        (H, W) int32 of segment numbers, and the segments.
    """
    ids = np.zeros(labels.shape, np.int32)
    segments: List[Segment] = []
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
        self._found: List[Tuple[Instance, Box]] = []  # with the box of everything its windows have seen

    def add(self, window: Window, instances: Sequence[Instance]) -> None:
        """Take a window's instances, in coordinates of the window."""
        box = _box_of(window)
        earlier = list(self._found)
        for instance in instances:
            moved = _moved(instance, window.top, window.left)
            twin = next((pair for pair in earlier if _is_same(pair, (moved, box))), None)
            if twin is None:
                self._found.append((moved, box))
                continue
            earlier.remove(twin)  # two instances of one window are two objects
            self._found.remove(twin)
            self._found.append((_united(twin[0], moved), _hull(twin[1], box)))

    def instances(self) -> List[Instance]:
        """Everything found, best first."""
        return sorted((instance for instance, _ in self._found), key=lambda instance: -instance.score)


def _owners(rows: Sequence[Instance], is_thing: np.ndarray) -> np.ndarray:
    """(H, W) int32: the row of every pixel of the class, from 1 on; 0 where there is none. The first row wins."""
    owner = np.zeros(is_thing.shape, np.int32)
    for number, row in enumerate(rows, start=1):
        top, left, bottom, right = row.box
        part = owner[top:bottom, left:right]
        part[row.mask & is_thing[top:bottom, left:right] & (part == 0)] = number
    return owner


def _share_out(owner: np.ndarray, region: np.ndarray, newcomer: int) -> None:
    """Give what no row owns of a region to the nearest row, or to ``newcomer``; in place, (h, w) both."""
    is_free = region & (owner == 0)
    if 2 * is_free.sum() > region.sum():
        owner[is_free] = newcomer
    elif is_free.any():
        is_other = ~region | is_free
        nearest = ndimage.distance_transform_edt(is_other, return_distances=False, return_indices=True)
        owner[is_free] = owner[tuple(nearest)][is_free]


def _best_of_each_object(labels: Tensor, inside: Tensor) -> List[int]:
    """Of rows, best first, those that are no second row of an object of the same class.

    labels: (K,); inside: (K, H, W) bool.
    """
    flat = inside.flatten(1).float()
    overlap = flat @ flat.T
    area = overlap.diagonal()
    is_same = (overlap > SAME_OBJECT_IOU * (area[:, None] + area - overlap)) & (labels[:, None] == labels)
    is_same = is_same.cpu().numpy()
    best: List[int] = []
    for row in range(len(labels)):
        if not is_same[row, best].any():
            best.append(row)
    return best


def _instance(label: int, score: float, mask: np.ndarray, at: Tuple[int, int]) -> Instance:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    box = (int(top) + at[0], int(left) + at[1], int(bottom) + at[0], int(right) + at[1])
    return Instance(int(label), float(score), box, mask[top:bottom, left:right].copy())


def _moved(instance: Instance, down: int, right: int) -> Instance:
    box = instance.box
    return replace(instance, box=(box[0] + down, box[1] + right, box[2] + down, box[3] + right))


def _box_of(window: Window) -> Box:
    return window.top, window.left, window.top + window.height, window.left + window.width


def _common(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _hull(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _crop(instance: Instance, box: Box) -> np.ndarray:
    """The instance's mask inside ``box``."""
    full = np.zeros((box[2] - box[0], box[3] - box[1]), bool)
    part = _common(instance.box, box)
    if part[0] < part[2] and part[1] < part[3]:
        top, left = instance.box[:2]
        inside = instance.mask[part[0] - top : part[2] - top, part[1] - left : part[3] - left]
        full[part[0] - box[0] : part[2] - box[0], part[1] - box[1] : part[3] - box[1]] = inside
    return full


def _is_same(one: Tuple[Instance, Box], other: Tuple[Instance, Box]) -> bool:
    if one[0].label != other[0].label:
        return False
    touched = _common(one[0].box, other[0].box)
    if touched[0] >= touched[2] or touched[1] >= touched[3]:
        return False
    both_see = _common(one[1], other[1])
    a, b = _crop(one[0], both_see), _crop(other[0], both_see)
    return (a & b).sum() >= SAME_OBJECT_IOU * (a | b).sum()


def _united(a: Instance, b: Instance) -> Instance:
    box = _hull(a.box, b.box)
    return Instance(a.label, max(a.score, b.score), box, _crop(a, box) | _crop(b, box))
