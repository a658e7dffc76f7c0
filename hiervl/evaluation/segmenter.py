"""The model that is evaluated: a network that is applied to every image window by window."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

from hiervl.evaluation.label_maps import assemble, label_strips
from hiervl.evaluation.sliding_window import Strip, cut, normalize_over_classes, plan_windows


class SlidingWindowSegmenter(nn.Module):
    """Applies a model to overlapping windows of every image and averages its scores for each pixel.

    The steps for one image:
      1. windows of ``min(crop, image side)`` per axis, so an image smaller than the crop is one window;
      2. each window's class maps are normalised over the classes;
      3. their mean, with equal weight, over the windows that cover a pixel;
      4. bilinear resizing to the image's original height and width;
      5. the best class of every pixel.
    Steps 3 to 5 run strip by strip. Only class maps of a few windows are in memory, and those of the image only if
    ``class_maps`` is on.

    ``model`` is a module with ``class_names``, the names of the C classes, and ``semantic_maps(images)``: (n, 3, h, w),
    uint8 or float in 0…255, to non-negative class maps (n, C, h, w). This wrapper does not change modes: put it into
    evaluation mode first, as Detectron2's ``inference_on_dataset`` does. It records no gradients.
    """

    model: Any

    def __init__(
        self, model: nn.Module, crop_size: int, overlap: float = 0.5, window_batch: int = 4, class_maps: bool = False
    ):
        """
        Args:
            model: see above.
            crop_size: side of the square window in pixels (INPUT.CROP_SIZE).
            overlap: least share by which neighbouring windows overlap, 0 ≤ overlap < 1 (TEST.OVERLAP).
            window_batch: windows that go through the model at once, see :func:`label_strips` (TEST.WINDOW_BATCH).
            class_maps: also give "sem_seg", which Detectron2's own and most other evaluators need.
        """
        super().__init__()
        if crop_size < 1 or window_batch < 1:
            raise ValueError(f"crop_size ({crop_size}) and window_batch ({window_batch}) must be positive")
        self.model = model
        self.crop_size = crop_size
        self.overlap = overlap
        self.window_batch = window_batch
        self.class_maps = class_maps
        # inference_on_dataset restores the mode of the wrapper, and so that of the model.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, np.ndarray | torch.Tensor]]:
        """Segment every image of a batch.

        Args:
            batched_inputs: dicts with "image", uint8 (3, H, W), and the original "height" and "width"
                (default: H and W).

        Returns:
            One dict per image with "labels" (height, width), uint8 or, of more than 256 classes, int32, and
            "confidence" (height, width), float32: the best class's share of the normalised mean, 1/C…1. With
            ``class_maps`` also "sem_seg" (C, height, width), float32 on the CPU: every class's share, which sum to 1.
        """
        if self.model.training:
            raise RuntimeError("the model is in training mode: call .eval() before segmenting")
        return [self._segment(inputs) for inputs in batched_inputs]

    def _segment(self, inputs: dict) -> dict[str, np.ndarray | torch.Tensor]:
        image = inputs["image"].to(_device_of(self.model))
        size = tuple(image.shape[-2:])
        out_size = (inputs.get("height", size[0]), inputs.get("width", size[1]))
        num_classes = len(self.model.class_names)
        whole = torch.empty(num_classes, *out_size) if self.class_maps else None

        def keep(strip: Strip) -> None:
            height, width = strip.class_map.shape[-2:]
            assert whole is not None  # only called with class_maps
            whole[:, strip.top : strip.top + height, strip.left : strip.left + width] = strip.class_map

        strips = label_strips(
            lambda window: cut(image, window),
            size,
            plan_windows(size, self.crop_size, self.overlap),
            lambda pixels, _: self._normalized_maps(pixels),
            num_classes,
            window_batch=self.window_batch,
            out_size=out_size,
            look_at=None if whole is None else keep,
        )
        outputs = assemble(strips, out_size, num_classes)._asdict()
        return outputs if whole is None else {**outputs, "sem_seg": whole}

    def _normalized_maps(self, images: torch.Tensor) -> torch.Tensor:
        class_maps = self.model.semantic_maps(images)
        if class_maps.shape[0] != images.shape[0] or class_maps.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f"semantic_maps returned {tuple(class_maps.shape)} for images of shape {tuple(images.shape)}"
            )
        return normalize_over_classes(class_maps)


def _device_of(model: nn.Module) -> torch.device:
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device
