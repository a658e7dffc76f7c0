"""From windows to the class of every pixel. Memory does not depend on the image's size, nor (up to a point) on the
number of classes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hiervl.evaluation.sliding_window import Strip, Window, averaged_strips

# Limit in bytes for the class maps of a batch of windows, and for the accumulator of the unfinished part of an image.
# If one window needs more, the limit is one window and an accumulator of twice its width.
CLASS_MAP_BYTES = 2**30


class LabelStrip(NamedTuple):
    """A finished part of an image that is never in memory as a whole."""

    top: int
    left: int
    labels: np.ndarray  # (h, w) index of the best class, of label_type
    confidence: np.ndarray  # (h, w) float32: that class's share


class LabelMap(NamedTuple):
    """The best class of every pixel."""

    labels: np.ndarray  # (H, W), of label_type
    confidence: np.ndarray  # (H, W) float32: that class's share, 1/C…1


def label_type(num_classes: int) -> type:
    """Number type of class indices."""
    return np.uint8 if num_classes <= 256 else np.int32


@torch.no_grad()
def label_strips(
    read: Callable[[Window], torch.Tensor],
    image_size: tuple[int, int],
    windows: Sequence[Window],
    predict: Callable[[torch.Tensor, Sequence[Window]], torch.Tensor],
    num_classes: int,
    *,
    window_batch: int = 4,
    blend: bool = False,
    out_size: tuple[int, int] | None = None,
    look_at: Callable[[Strip], None] | None = None,
) -> Iterator[LabelStrip]:
    """The best class of every pixel, from the mean of overlapping windows, in strips.

    Arguments are those of :func:`averaged_strips`. If class maps would exceed CLASS_MAP_BYTES, fewer windows than
    ``window_batch`` go through the model at once, and wide images are done in columns. ``look_at`` is called with every
    strip and its class maps.
    """
    column_bytes = 4 * num_classes * max(window.height for window in windows)
    width = max(window.width for window in windows)
    seen = max(max(w.height * w.width, w.seen_size[0] * w.seen_size[1]) for w in windows)
    strips = averaged_strips(
        read,
        image_size,
        windows,
        predict,
        window_batch=max(1, min(window_batch, CLASS_MAP_BYTES // (4 * num_classes * seen))),
        blend=blend,
        max_width=max(2 * width, CLASS_MAP_BYTES // column_bytes),
        out_size=out_size,
    )
    for strip in strips:
        if look_at is not None:
            look_at(strip)
        top, left, class_map = strip
        confidence, labels = class_map.max(0)
        del class_map, strip
        yield LabelStrip(top, left, labels.cpu().numpy().astype(label_type(num_classes)), confidence.cpu().numpy())


def assemble(strips: Iterable[LabelStrip], size: tuple[int, int], num_classes: int) -> LabelMap:
    """The label map of an image of ``size`` (height, width), from all its strips."""
    whole = LabelMap(np.empty(size, label_type(num_classes)), np.empty(size, np.float32))
    for strip in strips:
        height, width = strip.labels.shape
        place = (slice(strip.top, strip.top + height), slice(strip.left, strip.left + width))
        whole.labels[place], whole.confidence[place] = strip.labels, strip.confidence
    return whole
