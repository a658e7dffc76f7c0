"""The files of datasets registered in Detectron2, in the same form as the user's own folders.

``check-data`` and ``prompts`` use it like a :class:`~hiervl.data.folders.layout.FolderLayout`.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiervl.data.classes.class_maps import IGNORED, ClassMap
from hiervl.data.folders.converted import cache_folder
from hiervl.data.folders.facts import FactsStore, MaskFacts, file_stamp, read_mask_facts
from hiervl.data.folders.masks import INDEX, RawMask
from hiervl.data.folders.pools import Pool, Sample
from hiervl.data.loading.loaders import load_labeled, load_unlabeled
from hiervl.data.loading.readers import Frame, frame_or_none, read_image, read_label, read_stored
from hiervl.data.registered.catalogs import definitions_of
from hiervl.data.registered.datasets import class_names_of, ignore_label_of, load_dataset
from hiervl.utils.errors import UserError


class LabelFiles:
    """Label maps of registered datasets: a file per image, read as in training."""

    has_instances = False

    def __init__(self, num_classes: int, ignore_label: int):
        self.num_classes, self.ignore_label = num_classes, ignore_label

    def name(self, key: str) -> str:
        return key

    def stamp(self, key: str) -> tuple:
        return file_stamp(key)

    def frame(self, key: str, image: Frame) -> Frame | None:
        return frame_or_none(key)

    def raw(self, key: str) -> RawMask:
        """
        Raises:
            UserError: the file is missing, broken, or holds colours.
        """
        return RawMask(INDEX, read_stored(key).astype(np.int32))

    def read(self, key: str, image_size: tuple[int, int] | None = None, image_file: str = "") -> np.ndarray:
        """Label map (H, W), 255 where pixels do not count. Errors are those of :func:`read_label`."""
        label = read_label(key, self.num_classes, self.ignore_label, image_size, image_file)
        return np.where(label == self.ignore_label, IGNORED, label)


class RegisteredLayout:
    """The datasets of ``DATASETS``: those of ``TRAIN`` are "train", those of ``TEST`` are "val", because they choose
    the best checkpoint."""

    def __init__(
        self,
        names: dict[str, Sequence[str]],
        dicts: dict[str, Sequence[dict]],
        class_names: Sequence[str],
        background: Sequence[str] = (),
    ):
        """
        Args:
            names: names of the datasets of "train", "val" and "unlabelled".
            dicts: their images, as Detectron2 describes them; those of "train" and "val" have labels.
            class_names: of the C classes.
            background: names of the classes that are always active.
        """
        self.names = names
        self.ignore_label = ignore_label_of(names["train"][0])
        classes = tuple(definitions_of(class_names, names["train"][0], background))
        labels = range(len(classes))
        self.class_map = ClassMap(
            classes,
            values={**{label: label for label in labels}, self.ignore_label: IGNORED},
            colors={},
            names={},
            uncolored=(),
            path=Path(names["train"][0]),
        )
        self._files = LabelFiles(len(classes), self.ignore_label)
        self._pools = {split: self._pool(dicts[split]) for split in ("train", "val")}
        self._unlabeled = [os.path.abspath(entry["file_name"]) for entry in dicts["unlabelled"]]

    @classmethod
    def from_config(cls, cfg) -> "RegisteredLayout":
        """Build it from ``DATASETS``.

        Raises:
            UserError: a dataset is missing, unknown, wrong or without labels.
        """
        names = {"train": cfg.DATASETS.TRAIN, "val": cfg.DATASETS.TEST, "unlabelled": ()}
        dicts: dict[str, Sequence[dict]] = {"train": load_labeled(cfg), "unlabelled": []}
        dicts["val"] = [entry for name in cfg.DATASETS.TEST for entry in load_dataset(name, "DATASETS.TEST")]
        if cfg.SEMI.ENABLED and cfg.DATASETS.UNLABELED:
            names["unlabelled"] = cfg.DATASETS.UNLABELED
            dicts["unlabelled"] = load_unlabeled(cfg)
        class_names = list(cfg.MODEL.CLASS_NAMES) or class_names_of(cfg.DATASETS.TRAIN[0])
        return cls(names, dicts, class_names, cfg.MODEL.HSQG.ALWAYS_ACTIVE)

    bands = None  # TIFFs are read like other images

    @staticmethod
    def read_image(path: str | Path) -> np.ndarray:
        """An image as in training. Errors are those of :func:`read_image`."""
        return read_image(str(path))

    def _pool(self, dicts: Sequence[dict]) -> Pool:
        samples: dict[str, Sample] = {}
        missing = []
        for entry in dicts:
            image = Path(entry["file_name"])
            if "sem_seg_file_name" not in entry:
                missing.append(image)
                continue
            stem = str(entry.get("image_id", image.stem))
            samples[str(image) if stem in samples else stem] = Sample(
                image,
                self._files,  # type: ignore[arg-type]  # a part of a MaskSource: checks ask for no more of it
                entry["sem_seg_file_name"],
            )
        return Pool(samples, missing, [])

    @property
    def labeled(self) -> Pool:
        return self._pools["train"]

    @property
    def unlabeled_files(self) -> Sequence[str]:
        return self._unlabeled

    @functools.cached_property
    def division(self) -> dict[str, dict[str, Sample]]:
        return {"train": self._pools["train"].samples, "val": self._pools["val"].samples, "test": {}, "rest": {}}

    @property
    def unlabeled(self) -> Sequence[str]:
        return self._unlabeled

    def mask_facts(self, samples: Sequence[Sample]) -> list[MaskFacts | UserError]:
        """As :meth:`FolderLayout.mask_facts`."""
        return read_mask_facts(samples, self.store)

    @property
    def store(self) -> FactsStore:
        """The store of facts about files."""
        return FactsStore(cache_folder() / "registered")

    def missing_masks(self, pool: Pool) -> list[Path]:
        return pool.missing

    def separate(self, key: str) -> Pool | None:
        """Images and masks of "VAL"; there is no "TEST"."""
        return self._pools["val"] if key == "VAL" else None

    def label(self, sample: Sample, image_size: tuple[int, int] | None = None) -> np.ndarray:
        """As :meth:`FolderLayout.label`."""
        return self._files.read(sample.key, image_size, str(sample.image))
