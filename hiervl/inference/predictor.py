"""From Python: ``HierVLPredictor.from_checkpoint(path)(image)`` → :class:`Prediction`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.loading.bands import Bands
from hiervl.data.loading.readers import read_image, rgb_of
from hiervl.evaluation.label_maps import LabelStrip, assemble, label_strips, label_type
from hiervl.evaluation.sliding_window import Window, cut, normalize_over_classes, plan_windows
from hiervl.inference.postprocess import (
    Instance,
    InstanceCollector,
    Segment,
    instances_from_queries,
    objects_of_map,
    panoptic_of_map,
    query_masks,
)
from hiervl.inference.restore import describe_classes, restore_network
from hiervl.modeling import HierVL
from hiervl.utils.errors import UserError

AnyImage = str | Path | np.ndarray | Image.Image | Tensor


class Panoptic(NamedTuple):
    """Every pixel in one segment."""

    ids: np.ndarray  # (H, W) int32: the segment's number, from 1 on
    segments: list[Segment]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image of H × W pixels.

    Attributes:
        semantic: (H, W) index into ``classes``; uint8, or int32 with more than 256 classes.
        confidence: (H, W) float32, the class's share in the normalised class map: 1/C…1.
        instances: objects, best first; None if not asked for.
        panoptic: None if not asked for.
        classes: name, phrases and colour of every class, in the order of the indices.
    """

    semantic: np.ndarray
    confidence: np.ndarray
    instances: list[Instance] | None
    panoptic: Panoptic | None
    classes: tuple[ClassDefinition, ...]


class HierVLPredictor:
    """A trained network that segments images of any size, window by window.

    The steps for one image: predict windows of the size of the training crop at every scale, if wanted also mirrored;
    normalise and average their class maps, with less weight towards the edges of windows; take the best class of every
    pixel. The instance queries of the same passes (at the first scale) divide regions into objects. If windows overlap,
    the parts of an object are joined.
    """

    def __init__(
        self,
        network: HierVL,
        classes: Sequence[ClassDefinition],
        *,
        crop_size: int,
        short_side: int = 0,
        overlap: float = 0.5,
        window_batch: int = 4,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        things: Sequence[str] | None = None,
        min_score: float = 0.5,
        bands: Bands | None = None,
    ):
        """
        Args:
            network: in evaluation mode, see ``restore_network``.
            classes: the predicted classes, in order.
            crop_size: side of the windows in pixels.
            short_side: images are resized to this shorter side for the network; 0: they keep their size.
            overlap: share by which neighbouring windows overlap, 0 ≤ overlap < 1.
            window_batch: windows that go through the network at once.
            scales: sizes of the image for the network, relative to the usual one; instances come from the first.
            flip: average with the mirrored image.
            things: names of the classes with separate objects; None: all except the background.
            min_score: instances of lower score are left out.
            bands: the bands of TIFFs to read; None: TIFFs are read like other images.
        """
        _check_options(overlap, window_batch, scales, min_score)
        self.network = network
        self.classes = tuple(classes)
        self.crop_size = crop_size
        self.short_side = short_side
        self.overlap = overlap
        self.window_batch = window_batch
        self.scales = tuple(scales)
        self.flip = flip
        self.things = _thing_indices(self.classes, things)
        self.min_score = min_score
        self.bands = bands

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        classes: Sequence[ClassDefinition] | None = None,
        device: str = "",
        network: str = "",
        **options,
    ) -> "HierVLPredictor":
        """A predictor from a checkpoint file or the folder of a run. Nothing else is needed.

        Args:
            classes: predict these classes, from ``hiervl.data.classes.read_classes``; None: those of the training.
                Classes with new names are recognised by their phrases.
            device: such as "cpu" or "cuda:1"; "": a CUDA device if there is one.
            network: "teacher" or "student"; "": the one that the run evaluated.
            options: arguments of the constructor, in place of the run's own.

        Raises:
            UserError: there is no checkpoint, it is damaged, or an option is out of range.
        """
        restored = restore_network(str(path), network, device)
        if classes is not None:
            describe_classes(restored.network, classes)
        usual = {
            "crop_size": restored.cfg.INPUT.CROP_SIZE,
            "short_side": restored.cfg.INPUT.SHORT_SIDE,
            "overlap": restored.cfg.TEST.OVERLAP,
            "window_batch": restored.cfg.TEST.WINDOW_BATCH,
            "bands": Bands.from_config(restored.cfg),
        }
        return cls(restored.network, classes or restored.classes, **{**usual, **options})

    def set_classes(self, classes: Sequence[ClassDefinition]) -> None:
        """Predict these classes from now on. All except the background have separate objects.

        Raises:
            UserError: the network cannot predict them; it keeps the current ones.
        """
        try:
            describe_classes(self.network, classes)
        except UserError:
            describe_classes(self.network, self.classes)
            raise
        self.classes = tuple(classes)
        self.things = _thing_indices(self.classes, None)

    @property
    def has_instance_queries(self) -> bool:
        """Whether instance queries can divide regions of one class. If not, every connected region is an object."""
        return self.network.has_instance_queries

    def __call__(self, image: AnyImage, *, instances: bool = True, panoptic: bool = True) -> Prediction:
        """Segment one image.

        Args:
            image: a file; a PIL image; a NumPy array (H, W), (H, W, 3) or (H, W, 4), RGB, uint8 in 0…255 or float in
                0…1; or a torch tensor (3, H, W) or (1, H, W), RGB, uint8 in 0…255 or float in 0…1.
            instances, panoptic: False leaves them out.
        """
        pixels = pixels_of(image, self.bands).to(self.network.device)
        size = (pixels.shape[1], pixels.shape[2])
        taken_apart = instances or panoptic
        rows = InstanceCollector() if taken_apart and self.has_instance_queries else None
        strips = self._strips(lambda window: cut(pixels, window), size, rows)
        labels, confidence = assemble(strips, size, len(self.classes))
        if not taken_apart:
            return Prediction(labels, confidence, None, None, self.classes)
        objects = objects_of_map(labels, confidence, self.things, rows.instances() if rows else None)
        segments = Panoptic(*panoptic_of_map(labels, confidence, self.things, objects)) if panoptic else None
        certain = [found for found in objects if found.score >= self.min_score] if instances else None
        return Prediction(labels, confidence, certain, segments, self.classes)

    def strips(self, read: Callable[[Window], np.ndarray], size: tuple[int, int]) -> Iterator[LabelStrip]:
        """Segment an image that is read by windows, with limited memory.

        Args:
            read: window → its pixels (height, width, 3) uint8 RGB.
            size: height and width of the image.

        Yields:
            every pixel once, in strips.
        """

        def pixels(window: Window) -> Tensor:
            return torch.from_numpy(read(window)).permute(2, 0, 1).to(self.network.device)

        return self._strips(pixels, size, None)

    @property
    def label_type(self) -> type:
        """Number type of class indices."""
        return label_type(len(self.classes))

    def _strips(self, read, size, rows: InstanceCollector | None) -> Iterator[LabelStrip]:
        usual = self.short_side / min(size) if self.short_side else 1.0
        scales = [usual * scale for scale in self.scales]
        return label_strips(
            read,
            size,
            plan_windows(size, self.crop_size, self.overlap, scales),
            self._predict_windows(rows),
            len(self.classes),
            window_batch=self.window_batch,
            blend=True,
        )

    def _predict_windows(self, collector: InstanceCollector | None):
        """The ``predict`` function for ``averaged_strips``. It also collects what the instance queries find."""
        done = set()  # windows between two columns come twice

        def predict(pixels: Tensor, windows: Sequence[Window]) -> Tensor:
            if collector is not None:
                class_maps, rows = self.network.semantic_maps_and_instances(pixels)
            else:
                class_maps = self.network.semantic_maps(pixels)
            class_maps = normalize_over_classes(class_maps)
            if self.flip:
                mirrored = normalize_over_classes(self.network.semantic_maps(pixels.flip(-1))).flip(-1)
                class_maps = (class_maps + mirrored) / 2
            for index, window in enumerate(windows):
                if collector is not None and window.view == 0 and window not in done:
                    done.add(window)
                    masks = query_masks(rows.masks[index], rows.padded_size, window.seen_size)
                    if window.seen_size != (window.height, window.width):
                        masks = F.interpolate(
                            masks[None], (window.height, window.width), mode="bilinear", align_corners=False
                        )[0]
                    collector.add(window, instances_from_queries(rows.logits[index], masks, self.things))
            return class_maps

        return predict


def pixels_of(image: AnyImage, bands: Bands | None = None) -> Tensor:
    """Any image that :meth:`HierVLPredictor.__call__` takes → uint8 (3, H, W), RGB.

    Raises:
        UserError: a file cannot be read.
        ValueError: the shape, type or range of an array is not one of those.
    """
    if isinstance(image, (str, Path)):
        array = read_image(str(image), bands)
    elif isinstance(image, Image.Image):
        array = rgb_of(ImageOps.exif_transpose(image), "the image")
    elif isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"a torch image has the shape (3, H, W) or (1, H, W), not {tuple(image.shape)}")
        array = image.detach().cpu().permute(1, 2, 0).numpy()
    elif isinstance(image, np.ndarray):
        array = image[:, :, None] if image.ndim == 2 else image
    else:
        raise ValueError(f"an image is a file, a PIL image, a NumPy array or a torch tensor, not {type(image)}")
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(f"a NumPy image has the shape (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"a floating-point image is in 0…1, not in {array.min()}…{array.max()}")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"an image is uint8 in 0…255 or floating-point in 0…1, not {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _thing_indices(classes: Sequence[ClassDefinition], things: Sequence[str] | None) -> tuple[int, ...]:
    names = [definition.name for definition in classes]
    if things is None:
        return tuple(index for index, definition in enumerate(classes) if not definition.background)
    unknown = next((name for name in things if name not in names), None)
    if unknown is not None:
        raise UserError(f"there is no class '{unknown}' to be taken apart; the classes are {', '.join(names)}.")
    return tuple(names.index(name) for name in things)


def _check_options(overlap: float, window_batch: int, scales: Sequence[float], min_score: float) -> None:
    if not 0 <= overlap < 1:
        raise UserError(f"the overlap is at least 0 and less than 1, not {overlap}.")
    if window_batch < 1:
        raise UserError(f"at least one window goes through the network at once, not {window_batch}.")
    if not scales or min(scales) <= 0:
        raise UserError(f"scales are positive numbers, not {' '.join(map(str, scales))}.")
    if not 0 <= min_score <= 1:
        raise UserError(f"the least score of an instance is a number from 0 to 1, not {min_score}.")
