"""Semantic segmentation of images of any size, window by window."""

from typing import Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import nn

# Added to every class before normalising, so that a pixel without any score becomes uniform instead of 0 / 0.
SCORE_FLOOR = 1e-12

Window = Tuple[int, int]  # top, left


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


class SlidingWindowSegmenter(nn.Module):
    """Applies a model to overlapping windows of every image and averages what it says about each pixel.

    The steps for one image:
      1. windows of ``min(crop, image side)`` per axis, so an image smaller than the crop is one window;
      2. each window's class maps are normalised over the classes;
      3. their mean, with equal weight, over the windows that cover a pixel;
      4. bilinear resizing to the image's original height and width.
    Beside the results it holds one accumulator (C, H, W) and one batch of windows at a time.

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
        window_size = (min(self.crop_size, image_size[0]), min(self.crop_size, image_size[1]))
        windows = self._windows(image_size, window_size)

        total = None
        for start in range(0, len(windows), self.window_batch):
            batch = windows[start : start + self.window_batch]
            class_maps = self._normalised_maps(torch.stack([_cut(image, at, window_size) for at in batch]))
            if total is None:
                total = class_maps.new_zeros((class_maps.shape[1], *image_size))
            for at, class_map in zip(batch, class_maps):
                _cut(total, at, window_size).add_(class_map)

        count = total.new_zeros(image_size)
        for at in windows:
            _cut(count, at, window_size).add_(1)
        return total.div_(count)

    def _windows(self, image_size: Tuple[int, int], window_size: Tuple[int, int]) -> List[Window]:
        tops = sliding_window_positions(image_size[0], window_size[0], self.overlap)
        lefts = sliding_window_positions(image_size[1], window_size[1], self.overlap)
        return [(top, left) for top in tops for left in lefts]

    def _normalised_maps(self, images: torch.Tensor) -> torch.Tensor:
        class_maps = self.model.semantic_maps(images)
        if class_maps.shape[0] != images.shape[0] or class_maps.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f"semantic_maps returned {tuple(class_maps.shape)} for images of shape {tuple(images.shape)}"
            )
        return normalise_over_classes(class_maps)


def _cut(image: torch.Tensor, at: Window, size: Tuple[int, int]) -> torch.Tensor:
    """A view of the window of ``size`` whose first pixel is ``at``."""
    return image[..., at[0] : at[0] + size[0], at[1] : at[1] + size[1]]


def _device_of(model: nn.Module) -> torch.device:
    for tensor in model.parameters():
        return tensor.device
    for tensor in model.buffers():
        return tensor.device
    return torch.device("cpu")
