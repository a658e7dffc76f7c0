"""From a dataset dict to the network's input: tensors of one labelled, unlabelled or test image.

Images stay uint8 RGB; the model normalises them. Maps become int64, which PyTorch's losses need.
"""

from typing import Any

import numpy as np
import torch

from hiervl.data.loading import augmentation
from hiervl.data.loading.bands import Bands
from hiervl.data.loading.readers import read_image, read_instances, read_label
from hiervl.data.loading.regions import NO_INSTANCE, regions_as_instances
from hiervl.utils.errors import UserError


class LabeledMapper:
    """Weakly augmented image with its labels."""

    def __init__(
        self,
        crop_size: int,
        short_side: int,
        scale: tuple[float, float],
        flip_probability: float,
        num_classes: int,
        ignore_label: int = 255,
        ignore_value: int = 255,
        regions_as_instances: bool = False,
        bands: Bands | None = None,
    ):
        """
        Args:
            crop_size: side of the square crop in pixels.
            short_side: images are first resized to this shorter side, in pixels; 0: they keep their size.
            scale: range of the random resize.
            flip_probability: probability of the horizontal flip.
            num_classes: C; other labels than 0 … C-1 and ``ignore_label`` are errors.
            ignore_label: label, in the dataset's files, of the pixels that do not count.
            ignore_value: label of those pixels and of padding in the sample.
            regions_as_instances: in a dataset without instances, use connected regions of a class instead.
            bands: the bands of TIFFs to read; None: TIFFs are read like other images.
        """
        self.bands = bands
        self.geometry: dict[str, Any] = {
            "crop_size": crop_size,
            "short_side": short_side,
            "scale": tuple(scale),
            "flip_probability": flip_probability,
        }
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.ignore_value = ignore_value
        self.regions_as_instances = regions_as_instances

    @classmethod
    def from_config(cls, cfg, num_classes: int, ignore_label: int) -> "LabeledMapper":
        """
        Raises:
            UserError: a class has the number of pixels that do not count.
        """
        key = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"
        for name, value in (("the dataset's ignore_label", ignore_label), (key, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)):
            if 0 <= value < num_classes:
                raise UserError(
                    f"{name} is {value}, the number of one of the {num_classes} classes: give the pixels that do not "
                    f"count a number from {num_classes} on, in the files, in the dataset's ignore_label and as {key}."
                )
        return cls(
            num_classes=num_classes,
            ignore_label=ignore_label,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            bands=Bands.from_config(cfg),
            regions_as_instances=cfg.INPUT.REGIONS_AS_INSTANCES and cfg.MODEL.QUERY_DECODER.INSTANCE_QUERIES > 0,
            **geometry_from_config(cfg),
        )

    def __call__(self, dataset_dict: dict[str, str], rng: np.random.Generator) -> dict[str, Any]:
        """
        Returns:
            "image": uint8 (3, crop, crop); "valid": bool (crop, crop), False on padding; "sem_seg": int64 (crop, crop);
            "instance_ids": int64 (crop, crop), 0 where there is none, if there are instances; "file_name"; "image_id".

        Raises:
            UserError: a file is missing or broken, has another size than its image, or holds a value that is not a
                class.
        """
        image_file = dataset_dict["file_name"]
        image = read_image(image_file, self.bands)
        size = image.shape[:2]
        label = read_label(dataset_dict["sem_seg_file_name"], self.num_classes, self.ignore_label, size, image_file)
        if not 0 <= self.ignore_value <= np.iinfo(label.dtype).max:
            label = label.astype(np.int32)
        if self.ignore_label != self.ignore_value:
            label = np.where(label == self.ignore_label, self.ignore_value, label).astype(label.dtype)
        view = augmentation.weak_view(rng, *size, **self.geometry)
        sample = {
            "image": image_tensor(view.image(image)),
            "valid": torch.from_numpy(np.ascontiguousarray(view.valid())),
            "sem_seg": map_tensor(view.map(label, self.ignore_value)),
        }
        if "instance_file_name" in dataset_dict:
            instances = read_instances(dataset_dict["instance_file_name"], size, image_file)
            sample["instance_ids"] = map_tensor(view.map(instances, NO_INSTANCE))
        elif self.regions_as_instances:
            sample["instance_ids"] = map_tensor(regions_as_instances(sample["sem_seg"].numpy(), self.ignore_value))
        return {**sample, **identity(dataset_dict)}


class UnlabeledMapper:
    """One weakly and two strongly augmented views of an image; all three share the geometry."""

    def __init__(
        self,
        crop_size: int,
        short_side: int,
        scale: tuple[float, float],
        flip_probability: float,
        strong: augmentation.StrongParameters,
        cutmix_probability: float,
        strong_views: int = 2,
        bands: Bands | None = None,
    ):
        """
        Args:
            crop_size, short_side, scale, flip_probability: as in :class:`LabeledMapper`.
            strong: ranges of the strong augmentation.
            cutmix_probability: probability that a strong view is given a CutMix box.
            strong_views: 1 or 2.
            bands: as of :class:`LabeledMapper`.
        """
        self.bands = bands
        self.geometry: dict[str, Any] = {
            "crop_size": crop_size,
            "short_side": short_side,
            "scale": tuple(scale),
            "flip_probability": flip_probability,
        }
        self.strong = strong
        self.cutmix_probability = cutmix_probability
        self.strong_views = strong_views

    @classmethod
    def from_config(cls, cfg) -> "UnlabeledMapper":
        strong = augmentation.StrongParameters(
            jitter_probability=cfg.INPUT.STRONG.JITTER_PROBABILITY,
            jitter=tuple(cfg.INPUT.STRONG.JITTER),
            grayscale_probability=cfg.INPUT.STRONG.GRAYSCALE_PROBABILITY,
            blur_probability=cfg.INPUT.STRONG.BLUR_PROBABILITY,
            blur_sigma=tuple(cfg.INPUT.STRONG.BLUR_SIGMA),
        )
        return cls(
            strong=strong,
            cutmix_probability=cfg.SEMI.CUTMIX_PROBABILITY,
            strong_views=cfg.SEMI.STRONG_VIEWS,
            bands=Bands.from_config(cfg),
            **geometry_from_config(cfg),
        )

    def __call__(self, dataset_dict: dict[str, str], rng: np.random.Generator) -> dict[str, Any]:
        """
        Returns:
            "image_weak", "image_strong1", "image_strong2" (with two strong views): uint8 (3, crop, crop); "valid": bool
            (crop, crop), False on padding; "cutmix_box1", "cutmix_box2": int64 (4,), x0, y0, x1, y1 of the box that
            another image replaces, all 0 for none; "file_name"; "image_id".

        Raises:
            UserError: the image is missing or broken.
        """
        image = read_image(dataset_dict["file_name"], self.bands)
        view = augmentation.weak_view(rng, *image.shape[:2], **self.geometry)
        weak = view.image(image)
        sample = {"image_weak": image_tensor(weak), "valid": torch.from_numpy(np.ascontiguousarray(view.valid()))}
        for number in ("1", "2")[: self.strong_views]:
            sample["image_strong" + number] = image_tensor(augmentation.strong_view(weak, rng, self.strong))
            box = augmentation.cutmix_box(rng, self.geometry["crop_size"], self.cutmix_probability)
            sample["cutmix_box" + number] = torch.tensor(box, dtype=torch.int64)
        return {**sample, **identity(dataset_dict)}


class TestMapper:
    """A whole image for evaluation. It draws nothing at random."""

    __test__ = False  # tells pytest that this is not a test

    def __init__(self, short_side: int = 0, bands: Bands | None = None):
        """
        Args:
            short_side: images are resized to this shorter side, in pixels; 0: they keep their size.
            bands: as of :class:`LabeledMapper`.
        """
        self.bands = bands
        self.short_side = short_side

    @classmethod
    def from_config(cls, cfg) -> "TestMapper":
        return cls(cfg.INPUT.SHORT_SIDE, Bands.from_config(cfg))

    def __call__(self, dataset_dict: dict[str, str]) -> dict[str, Any]:
        """
        Returns:
            "image": uint8 (3, h, w); "height", "width" of the original, to which predictions are resized; "file_name",
            "image_id" and, if there is one, "sem_seg_file_name".

        Raises:
            UserError: the image is missing or broken.
        """
        image = read_image(dataset_dict["file_name"], self.bands)
        height, width = image.shape[:2]
        size = augmentation.short_side_size(height, width, self.short_side)
        sample = {
            "image": image_tensor(augmentation.resize_image(image, size)),
            "height": height,
            "width": width,
            **identity(dataset_dict),
        }
        if "sem_seg_file_name" in dataset_dict:
            sample["sem_seg_file_name"] = dataset_dict["sem_seg_file_name"]
        return sample


def geometry_from_config(cfg) -> dict[str, Any]:
    """The arguments of the weak augmentation, for labelled and unlabelled images."""
    return {
        "crop_size": cfg.INPUT.CROP_SIZE,
        "short_side": cfg.INPUT.SHORT_SIDE,
        "scale": tuple(cfg.INPUT.SCALE),
        "flip_probability": cfg.INPUT.FLIP_PROBABILITY,
    }


def identity(dataset_dict: dict[str, str]) -> dict[str, str]:
    """The image's name in logs and result files."""
    file_name = dataset_dict["file_name"]
    return {"file_name": file_name, "image_id": dataset_dict.get("image_id", file_name)}


def image_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 array as (3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def map_tensor(values: np.ndarray) -> torch.Tensor:
    """(H, W) integers as an int64 tensor."""
    return torch.from_numpy(values.astype(np.int64, order="C"))
