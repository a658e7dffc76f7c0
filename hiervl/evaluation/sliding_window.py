"""Semantic segmentation of images of any size, window by window."""

from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import nn

# Added to every class before normalising, so that a pixel without any score becomes uniform instead of 0 / 0.
SCORE_FLOOR = 1e-12



class Window(NamedTuple):
    """A part of an image that the model sees at once."""

    top: int
    left: int
    height: int
    width: int
    seen_size: Tuple[int, int]  # height and width that the model is given it in
    view: int = 0  # which scale it belongs to


class Strip(NamedTuple):
    """A finished part of the averaged class maps."""

    top: int
    left: int
    class_map: torch.Tensor  # (C, h, w); the classes of every pixel sum to 1


def sliding_window_positions(length: int, window: int, overlap: float = 0.5) -> List[int]:
    """First pixels of windows that cover ``length`` pixels along one axis, in increasing order.

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


def normalise_over_classes(class_maps: torch.Tensor) -> torch.Tensor:
    """Scale non-negative maps (n, C, h, w) so that every pixel sums to 1; all-zero pixels become uniform."""
    class_maps = class_maps.float() + SCORE_FLOOR
    return class_maps / class_maps.sum(dim=1, keepdim=True)


def plan_windows(
    image_size: Tuple[int, int], crop_size: int, overlap: float = 0.5, scales: Sequence[float] = (1.0,)
) -> List[Window]:
    """Windows that cover an image (height, width) once per scale, from the top to the bottom.

    At scale s a window of ``crop_size`` / s pixels is shown to the model resized by s. An axis that is shorter than
    the window is one window.
    """
    windows = []
    for view, scale in enumerate(scales):
        side = max(1, round(crop_size / scale))
        height, width = (min(side, length) for length in image_size)
        seen = tuple(crop_size if length == side else max(1, round(length * scale)) for length in (height, width))
        tops = sliding_window_positions(image_size[0], height, overlap)
        lefts = sliding_window_positions(image_size[1], width, overlap)
        windows += [Window(top, left, height, width, seen, view) for top in tops for left in lefts]
    return sorted(windows, key=lambda window: (window.top, window.view, window.left))


def averaged_strips(
    read: Callable[[Window], torch.Tensor],
    image_size: Tuple[int, int],
    windows: Sequence[Window],
    predict: Callable[[torch.Tensor, Sequence[Window]], torch.Tensor],
    *,
    window_batch: int = 4,
    blend: bool = False,
    max_width: Optional[int] = None,
) -> Iterator[Strip]:
    """Average what a model says in overlapping windows, and hand out every part of the image once it is finished.

    Memory: one accumulator of C × (rows in which windows are still open) × ``max_width``, and one batch.

    Args:
        read: window → its pixels (3, height, width), uint8 or float in 0…255, on the model's device.
        image_size: height and width of the image.
        windows: of :func:`plan_windows`.
        predict: pixels (n, 3, *seen_size) of n windows of one size → class maps (n, C, *seen_size) that sum to 1.
        window_batch: windows that go through the model at once.
        blend: a window counts less towards its edges; otherwise all its pixels count alike.
        max_width: images wider than this are done in columns, the windows between two columns twice; None: in one.
    """
    height, width = image_size
    step = width if max_width is None else max(1, max_width)
    for left in range(0, width, step):
        right = min(width, left + step)
        inside = [window for window in windows if window.left < right and window.left + window.width > left]
        yield from _strips_of_column(read, height, (left, right), inside, predict, window_batch, blend)


def _strips_of_column(read, height, column, windows, predict, window_batch, blend) -> Iterator[Strip]:
    left, right = column
    batches = _batches(windows, window_batch)
    rows = _open_rows(batches)
    total = weight = None
    done = 0  # rows above are handed out; the accumulator starts here
    for batch in batches:
        top = batch[0].top
        if top > done:
            yield Strip(done, left, _finish(total, weight, top - done))
            done = top
        class_maps = _predict_windows(read, predict, batch)
        if total is None:
            total = class_maps.new_zeros((class_maps.shape[1], rows, right - left))
            weight = class_maps.new_zeros((rows, right - left))
        window_weight = _window_weight(class_maps, blend)
        for window, class_map in zip(batch, class_maps * window_weight):
            first, last = max(window.left, left), min(window.left + window.width, right)
            part = slice(first - window.left, last - window.left)
            place = (slice(window.top - done, window.top - done + window.height), slice(first - left, last - left))
            total[(slice(None), *place)] += class_map[..., part]
            weight[place] += window_weight[..., part]
    yield Strip(done, left, _finish(total, weight, height - done))


def _batches(windows: Sequence[Window], window_batch: int) -> List[List[Window]]:
    """Neighbours in the list that the model sees in one size."""
    batches: List[List[Window]] = []
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


def _finish(total: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Take the mean of the first ``rows`` rows out of the accumulator and move the others up."""
    class_map = total[:, :rows] / weight[:rows]
    kept = total.shape[1] - rows
    for accumulator in (total, weight):
        accumulator[..., :kept, :] = accumulator[..., rows:, :].clone()
        accumulator[..., kept:, :] = 0
    return class_map


class SlidingWindowSegmenter(nn.Module):
    """Applies a model to overlapping windows of every image and averages what it says about each pixel.

    The steps for one image:
      1. windows of ``min(crop, image side)`` per axis, so an image smaller than the crop is one window;
      2. each window's class maps are normalised over the classes;
      3. their mean, with equal weight, over the windows that cover a pixel;
      4. bilinear resizing to the image's original height and width.
    Beside the result (C, H, W) it holds an accumulator of a few windows' height and one batch of windows at a time.

    ``model`` is a module that offers ``semantic_maps(images)``: (n, 3, h, w), uint8 or float in 0…255, to
    non-negative class maps (n, C, h, w). This wrapper switches no modes: whoever calls it puts it into
    evaluation mode first, as Detectron2's ``inference_on_dataset`` does. It records no gradients.
    """

    def __init__(self, model: nn.Module, crop_size: int, overlap: float = 0.5, window_batch: int = 4):
        """
        Args:
            model: see above.
            crop_size: side of the square window in pixels (INPUT.CROP_SIZE).
            overlap: share by which neighbouring windows overlap at least, 0 ≤ overlap < 1 (TEST.OVERLAP).
            window_batch: windows that go through the model at once (TEST.WINDOW_BATCH).
        """
        super().__init__()
        if crop_size < 1 or window_batch < 1:
            raise ValueError(f"crop_size ({crop_size}) and window_batch ({window_batch}) must be positive")
        self.model = model
        self.crop_size = crop_size
        self.overlap = overlap
        self.window_batch = window_batch
        # inference_on_dataset restores the mode it found on the wrapper, and with it the model's.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: List[Dict]) -> List[Dict[str, torch.Tensor]]:
        """Segment every image of a batch.

        Args:
            batched_inputs: dicts with "image", uint8 (3, H, W), and the original "height" and "width"
                (default: H and W).

        Returns:
            One dict per image with "sem_seg", float32 (C, height, width) on the model's device; the classes
            of every pixel sum to 1.
        """
        if self.model.training:
            raise RuntimeError("the model is in training mode: call .eval() before segmenting")
        return [self._segment(inputs) for inputs in batched_inputs]

    def _segment(self, inputs: Dict) -> Dict[str, torch.Tensor]:
        class_map = self.average_windows(inputs["image"])
        image_size = tuple(class_map.shape[-2:])
        original_size = (inputs.get("height", image_size[0]), inputs.get("width", image_size[1]))
        if original_size != image_size:
            class_map = F.interpolate(class_map[None], original_size, mode="bilinear", align_corners=False)[0]
        return {"sem_seg": class_map}

    def average_windows(self, image: torch.Tensor) -> torch.Tensor:
        """Mean of the windows' normalised class maps for ``image`` (3, H, W): float32 (C, H, W)."""
        image = image.to(_device_of(self.model))
        image_size = tuple(image.shape[-2:])
        total = None
        for top, left, class_map in averaged_strips(
            lambda window: cut(image, window),
            image_size,
            plan_windows(image_size, self.crop_size, self.overlap),
            lambda pixels, _: self._normalised_maps(pixels),
            window_batch=self.window_batch,
        ):
            if class_map.shape[-2:] == image.shape[-2:]:
                return class_map
            if total is None:
                total = class_map.new_empty((class_map.shape[0], *image_size))
            total[:, top : top + class_map.shape[1], left : left + class_map.shape[2]] = class_map
        return total

    def _normalised_maps(self, images: torch.Tensor) -> torch.Tensor:
        class_maps = self.model.semantic_maps(images)
        if class_maps.shape[0] != images.shape[0] or class_maps.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f"semantic_maps returned {tuple(class_maps.shape)} for images of shape {tuple(images.shape)}"
            )
        return normalise_over_classes(class_maps)


def cut(image: torch.Tensor, window: Window) -> torch.Tensor:
    """A view of the window's pixels."""
    return image[..., window.top : window.top + window.height, window.left : window.left + window.width]


def _device_of(model: nn.Module) -> torch.device:
    for tensor in model.parameters():
        return tensor.device
    for tensor in model.buffers():
        return tensor.device
    return torch.device("cpu")
