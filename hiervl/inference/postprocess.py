"""Instances and panoptic segments from instance rows (Mask2Former §3.4), within one window and across windows."""

from dataclasses import dataclass, replace
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from hiervl.evaluation.sliding_window import Window

Box = Tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive
VOID = 0  # in panoptic maps: no segment

# What Mask2Former uses on COCO.
KEEP_SCORE = 0.8
KEEP_SHARE = 0.8
# Segments of two windows are one object if they agree so much where both windows look.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        label: index of its class.
        score: 0…1, probability of the class times the mean probability of the mask's pixels.
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
    logits: Tensor, probability: Tensor, things: Sequence[int], *, min_score: float = 0.0, top: int = 100
) -> List[Instance]:
    """The most probable pairs of row and class as instances, best first; one row may give several.

    Args:
        logits: (N, C + 1), the last column "no object".
        probability: (N, H, W) of the masks; a pixel belongs to a mask from 0.5 on.
        things: classes that come as objects.
        min_score: instances of lower score are left out, as are empty masks.
        top: at most so many.
    """
    if not len(things) or not len(logits):
        return []
    scores = logits.softmax(-1)[:, list(things)]
    values, order = scores.flatten().topk(min(top, scores.numel()))
    inside = probability > 0.5
    area = inside.flatten(1).sum(1)
    quality = (probability * inside).flatten(1).sum(1) / area.clamp(min=1)
    found = []
    for value, index in zip(values.tolist(), order.tolist()):
        row, column = divmod(index, len(things))
        score = value * quality[row].item()
        if area[row] and score >= min_score:
            found.append(_instance(things[column], score, inside[row].cpu().numpy(), (0, 0)))
    return sorted(found, key=lambda instance: -instance.score)


def panoptic_of_rows(
    logits: Tensor,
    probability: Tensor,
    things: Sequence[int],
    *,
    keep_score: float = KEEP_SCORE,
    keep_share: float = KEEP_SHARE,
) -> Tuple[np.ndarray, List[Segment]]:
    """Every pixel to the row of highest score · mask probability.

    Rows whose best class is "no object" or scores at most ``keep_score`` take no part; a segment that keeps less than
    ``keep_share`` of its own mask is dropped. Segments of a class that is no thing become one.

    Returns:
        (H, W) int32 of segment numbers, 0 where there is none, and the segments.
    """
    ids = np.zeros(probability.shape[1:], np.int32)
    segments: List[Segment] = []
    if not len(logits):
        return ids, segments
    scores, labels = logits.softmax(-1).max(-1)
    kept = (labels < logits.shape[1] - 1) & (scores > keep_score)
    if not kept.any():
        return ids, segments
    scores, labels, probability = scores[kept], labels[kept], probability[kept]
    owner = (scores[:, None, None] * probability).argmax(0)
    of_stuff: dict = {}
    for row, (score, label) in enumerate(zip(scores.tolist(), labels.tolist())):
        own = probability[row] >= 0.5
        seen = (owner == row) & own
        if not seen.any() or seen.sum() / own.sum() < keep_share:
            continue
        is_thing = label in things
        if not is_thing and label in of_stuff:
            ids[seen.cpu().numpy()] = of_stuff[label]
            continue
        segments.append(Segment(len(segments) + 1, label, score, is_thing))
        of_stuff[label] = len(segments)
        ids[seen.cpu().numpy()] = len(segments)
    return ids, segments


def instances_of_regions(labels: np.ndarray, confidence: np.ndarray, things: Sequence[int]) -> List[Instance]:
    """For networks without instance rows: every connected region of a thing class is an instance, best first.

    Args:
        labels: (H, W) classes; confidence: (H, W) 0…1, whose mean over the region is the score.
    """
    found = []
    for thing in things:
        regions, count = ndimage.label(labels == thing)
        for number, place in enumerate(ndimage.find_objects(regions, count), start=1):
            mask = regions[place] == number
            box = (place[0].start, place[1].start, place[0].stop, place[1].stop)
            found.append(Instance(int(thing), float(confidence[place][mask].mean()), box, mask))
    return sorted(found, key=lambda instance: -instance.score)


def panoptic_of_regions(
    labels: np.ndarray, confidence: np.ndarray, things: Sequence[int]
) -> Tuple[np.ndarray, List[Segment]]:
    """As :func:`panoptic_of_rows`, from connected regions; every class that is no thing is one segment."""
    ids = np.zeros(labels.shape, np.int32)
    segments: List[Segment] = []
    for instance in instances_of_regions(labels, confidence, things):
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


class PanopticCollector:
    """Joins the panoptic maps of overlapping windows into one of the whole image; pixels keep their first segment."""

    def __init__(self, image_size: Tuple[int, int]):
        self.ids = np.zeros(image_size, np.int32)
        self._segments: dict = {}
        self._seen = np.zeros(image_size, bool)
        self._of_stuff: dict = {}

    def add(self, window: Window, ids: np.ndarray, segments: Sequence[Segment]) -> None:
        """Take a window's map and segments."""
        top, left, bottom, right = _box_of(window)
        whole, seen = self.ids[top:bottom, left:right], self._seen[top:bottom, left:right]
        before = np.where(seen, whole, VOID)
        taken: set = set()
        for segment in segments:
            mask = ids == segment.id
            of_stuff = self._of_stuff.get(segment.label)
            number = self._twin(segment, mask, before, seen) if segment.is_thing else of_stuff
            if number is None or number in taken:
                number = len(self._segments) + 1
                self._segments[number] = segment._replace(id=number)
            taken.add(number)
            if not segment.is_thing:
                self._of_stuff[segment.label] = number
            whole[mask & (whole == VOID)] = number
        seen[:] = True

    def _twin(self, segment: Segment, mask: np.ndarray, before: np.ndarray, seen: np.ndarray):
        """The earlier segment of the same class that is the same object where both windows look."""
        shared = mask & seen
        numbers, counts = np.unique(before[shared], return_counts=True)
        best, best_iou = None, SAME_OBJECT_IOU
        for number, common in zip(numbers.tolist(), counts.tolist()):
            if number == VOID or self._segments[number].label != segment.label:
                continue
            iou = common / ((before == number).sum() + shared.sum() - common)
            if iou >= best_iou:
                best, best_iou = number, iou
        return best

    def result(self) -> Tuple[np.ndarray, List[Segment]]:
        """(H, W) int32 and the segments that own at least one pixel."""
        present = set(np.unique(self.ids).tolist())
        return self.ids, [segment for number, segment in self._segments.items() if number in present]


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
