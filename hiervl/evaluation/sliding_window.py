"""Class maps of images of any size: a model's scores in overlapping windows, averaged strip by strip."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hiervl.evaluation.resizing import resized_column, source_column

# Added to every class before normalising, so that a pixel without scores becomes uniform instead of 0 / 0.
SCORE_FLOOR = 1e-12


class Window(NamedTuple):
    """A part of an image that the model sees at once."""

    top: int
    left: int
    height: int
    width: int
    seen_size: tuple[int, int]  # height and width at which the model sees it
    view: int = 0  # which scale it belongs to


class Strip(NamedTuple):
    """A finished part of the averaged class maps. Use it before taking the next one: its memory is reused."""

    top: int
    left: int
    class_map: torch.Tensor  # (C, h, w); the classes of every pixel sum to 1


def sliding_window_positions(length: int, window: int, overlap: float = 0.5) -> list[int]:
    """First pixels of the windows that cover ``length`` pixels along one axis, in increasing order.

    Neighbouring windows share at least ``overlap`` (0 ≤ overlap < 1) of their length, rounded to a pixel. The
    last window is moved back to end at the edge. A window as long as the axis, or longer, gives ``[0]``.
    """
    if length < 1 or window < 1:
        raise ValueError(f"length and window must be positive, got {length} and {window}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and less than 1, got {overlap}")
    if window >= length:
        return [0]
    stride = max(1, round(window * (1 - overlap)))
    last = length - window
    return list(range(0, last, stride)) + [last]


def normalize_over_classes(class_maps: torch.Tensor) -> torch.Tensor:
    """Scale non-negative maps (n, C, h, w) so that every pixel sums to 1; all-zero pixels become uniform."""
    class_maps = class_maps.float() + SCORE_FLOOR
    return class_maps.div_(class_maps.sum(dim=1, keepdim=True))


def plan_windows(
    image_size: tuple[int, int], crop_size: int, overlap: float = 0.5, scales: Sequence[float] = (1.0,)
) -> list[Window]:
    """Windows that cover an image (height, width) once per scale, from the top to the bottom.

    At scale s, a window of ``crop_size`` / s pixels is resized by s for the model. An axis shorter than the window is
    one window.
    """
    windows = []
    for view, scale in enumerate(scales):
        side = max(1, round(crop_size / scale))
        height, width = (min(side, length) for length in image_size)
        seen = (_seen_length(height, side, scale, crop_size), _seen_length(width, side, scale, crop_size))
        tops = sliding_window_positions(image_size[0], height, overlap)
        lefts = sliding_window_positions(image_size[1], width, overlap)
        windows += [Window(top, left, height, width, seen, view) for top in tops for left in lefts]
    return sorted(windows, key=lambda window: (window.top, window.view, window.left))


def _seen_length(length: int, side: int, scale: float, crop_size: int) -> int:
    """Length in pixels at which the model sees an axis of a window. A full window has exactly the size of a crop."""
    return crop_size if length == side else max(1, round(length * scale))


def averaged_strips(
    read: Callable[[Window], torch.Tensor],
    image_size: tuple[int, int],
    windows: Sequence[Window],
    predict: Callable[[torch.Tensor, Sequence[Window]], torch.Tensor],
    *,
    window_batch: int = 4,
    blend: bool = False,
    max_width: int | None = None,
    out_size: tuple[int, int] | None = None,
) -> Iterator[Strip]:
    """Average a model's scores in overlapping windows, and yield every part of the image when it is finished.

    Memory: one accumulator of C × (rows with unfinished windows) × ``max_width``, and one batch.

    Args:
        read: window → its pixels (3, height, width), uint8 or float in 0…255, on the model's device.
        image_size: height and width of the image.
        windows: of :func:`plan_windows`.
        predict: pixels (n, 3, *seen_size) of n windows of one size → class maps (n, C, *seen_size) that sum to 1.
        window_batch: windows that go through the model at once.
        blend: windows count less towards their edges; off: all pixels count alike.
        max_width: wider images are done in columns, with the windows between two columns done twice; None: no columns.
        out_size: height and width to which the mean is resized bilinearly; None: those of the image.
    """
    out_size = image_size if out_size is None else out_size
    out_width = out_size[1]
    step = out_width if max_width is None else max(1, max_width * out_width // image_size[1])
    for out_left in range(0, out_width, step):
        out_columns = (out_left, min(out_width, out_left + step))
        left, right = columns = source_column(out_columns, image_size, out_size)
        inside = [window for window in windows if window.left < right and window.left + window.width > left]
        strips = _column_strips(read, image_size[0], columns, inside, predict, window_batch, blend)
        if out_size != image_size:
            strips = resized_column(strips, image_size, out_size, out_columns)
        for top, class_map in strips:
            yield Strip(top, out_left, class_map)


def _column_strips(read, height, column, windows, predict, window_batch, blend) -> Iterator[tuple[int, torch.Tensor]]:
    """First row and class map (C, h, w) of every strip; the class map is a view of the accumulator."""
    left, right = column
    batches = _batches(windows, window_batch)
    rows = _open_rows(batches)
    total: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    done = 0  # rows above are finished; the accumulator starts here
    for batch in batches:
        top = batch[0].top
        if total is not None and weight is not None and top > done:
            yield done, _mean(total, weight, top - done)
            _move_up(total, top - done)
            _move_up(weight, top - done)
            done = top
        class_maps = _predict_windows(read, predict, batch)
        if total is None or weight is None:
            total = class_maps.new_zeros((class_maps.shape[1], rows, right - left))
            weight = class_maps.new_zeros((rows, right - left))
        window_weight = _window_weight(class_maps, blend)
        for window, class_map in zip(batch, class_maps):
            first, last = max(window.left, left), min(window.left + window.width, right)
            part = slice(first - window.left, last - window.left)
            place = (slice(window.top - done, window.top - done + window.height), slice(first - left, last - left))
            total[(slice(None), *place)].addcmul_(class_map[..., part], window_weight[..., part])
            weight[place] += window_weight[..., part]
        del class_maps, class_map  # else they stay in memory while the next ones are made
    if total is not None and weight is not None:
        yield done, _mean(total, weight, height - done)


def _batches(windows: Sequence[Window], window_batch: int) -> list[list[Window]]:
    """Batches of neighbours in the list that the model sees at the same size."""
    batches: list[list[Window]] = []
    for window in windows:
        last = batches[-1] if batches else None
        if last is not None and len(last) < window_batch and last[0][2:] == window[2:]:
            last.append(window)
        else:
            batches.append([window])
    return batches


def _open_rows(batches: Sequence[Sequence[Window]]) -> int:
    """The most rows between the start of a batch and the end of any window up to it."""
    bottom = rows = 0
    for batch in batches:
        bottom = max(bottom, *(window.top + window.height for window in batch))
        rows = max(rows, bottom - batch[0].top)
    return rows


def _predict_windows(read, predict, batch: Sequence[Window]) -> torch.Tensor:
    pixels = torch.stack([read(window) for window in batch])
    own_size, seen_size = (batch[0].height, batch[0].width), batch[0].seen_size
    if own_size == seen_size:
        return predict(pixels, batch)
    pixels = F.interpolate(pixels.float(), seen_size, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(predict(pixels, batch), own_size, mode="bilinear", align_corners=False)


def _window_weight(class_maps: torch.Tensor, blend: bool) -> torch.Tensor:
    """(h, w): ones, or rising from every edge to the middle."""
    ramps = []
    for length in class_maps.shape[-2:]:
        index = torch.arange(length, device=class_maps.device, dtype=class_maps.dtype)
        distance = torch.minimum(index + 1, length - index) / length
        ramps.append(distance if blend else torch.ones_like(index))
    return ramps[0][:, None] * ramps[1]


def _mean(total: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    """The mean of the first ``rows`` rows, computed in place."""
    return total[:, :rows].div_(weight[:rows])


def _move_up(accumulator: torch.Tensor, rows: int) -> None:
    """Drop the first ``rows`` rows of (…, rows, width) and move the others up."""
    height = accumulator.shape[-2]
    for start in range(rows, height, rows):  # no piece overlaps its target
        piece = accumulator[..., start : start + rows, :]
        accumulator[..., start - rows : start - rows + piece.shape[-2], :] = piece
    accumulator[..., max(0, height - rows) :, :] = 0


def cut(image: torch.Tensor, window: Window) -> torch.Tensor:
    """A view of the window's pixels."""
    return image[..., window.top : window.top + window.height, window.left : window.left + window.width]
