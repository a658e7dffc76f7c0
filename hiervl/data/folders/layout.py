"""The files of a dataset in the user's own folders: found, matched, divided into train, val, test and unlabelled.

Where they lie is in ``source.py``, what becomes of them in Detectron2 in ``dataset.py``.
"""

import functools
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from hiervl.data.classes.class_maps import IGNORED, ClassMap, read_class_map
from hiervl.data.folders.files import (
    choose_names,
    find_files,
    find_folder,
    list_files,
    match_masks,
    read_list,
)
from hiervl.data.folders.masks import CocoFile, MaskFolder
from hiervl.data.folders.source import FolderSource, Part
from hiervl.data.folders.stratified import choose_validation
from hiervl.data.loading.packed import PackedPaths, UnlabeledDicts
from hiervl.data.loading.readers import Frame, file_frame, read_label
from hiervl.data.loading.turns import ORIENTATION, UPRIGHT, fitting_orientation, turned, turned_size
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

MAX_8_BIT = 255
CACHE_VARIABLE = "XDG_CACHE_HOME"


class Sample(NamedTuple):
    """An image and its mask: the key of the mask in its source."""

    image: Path
    masks: MaskFolder | CocoFile
    key: str


class Pool(NamedTuple):
    """Images with masks, by stem, and what found no partner."""

    samples: dict[str, Sample]
    missing: list[Path]  # images without a mask
    extra: list[str]  # names of masks without an image


class FolderLayout:
    """The files of a :class:`FolderSource`, divided into train, val, test and unlabelled; found on first use."""

    def __init__(self, source: FolderSource):
        """
        Raises:
            UserError: the class file is missing or wrong.
        """
        self.source = source
        self.class_map: ClassMap = read_class_map(source.classes)

    # ---- files --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def labeled(self) -> Pool:
        """All images of LABELED with their masks, those of the fractions and lists included."""
        return self._pool(self.source.images, self.source.masks, "DATASET.LABELED")

    @functools.cached_property
    def unlabeled_files(self) -> Sequence[str]:
        """Absolute paths of the files of UNLABELED that are no masks, whatever else they are used for."""
        masks = {os.path.abspath(path) for path in self._mask_files()}
        files = itertools.chain.from_iterable(map(self._unlabeled_entry, self.source.unlabeled))
        return PackedPaths(file for file in files if file not in masks).distinct()

    def _unlabeled_entry(self, entry: str) -> Iterator[str]:
        """Files of one folder or list of UNLABELED."""
        if entry.endswith(".txt"):
            path, root = self.source.root / entry, os.path.abspath(self.source.root)
            for name in read_list(path, "DATASET.UNLABELED"):
                yield _listed_file(root, name, path)
            return
        folder = find_folder(self.source.root, entry, "DATASET.UNLABELED")
        file = None
        for file in list_files(os.path.abspath(folder)):
            yield file
        if file is None:
            raise UserError(f"DATASET.UNLABELED: {folder} holds no images.")

    def missing_masks(self) -> list[Path]:
        """Images of LABELED without a mask that are not meant to be unlabelled either."""
        missing = {os.path.abspath(path): path for path in self.labeled.missing}
        if missing:
            for path in self.unlabeled_files:
                missing.pop(path, None)
        return list(missing.values())

    def separate(self, key: str) -> Pool | None:
        """Images and masks of VAL or TEST where these are folders of their own."""
        part = self.source.val if key == "VAL" else self.source.test
        if not isinstance(part, (list, tuple)):
            return None
        return self._separate[key]

    @functools.cached_property
    def _separate(self) -> dict[str, Pool]:
        parts = {"VAL": self.source.val, "TEST": self.source.test}
        return {
            key: self._pool(part[0], part[1], f"DATASET.{key}")
            for key, part in parts.items()
            if isinstance(part, (list, tuple))
        }

    def _pool(self, images: str, masks: str, key: str) -> Pool:
        folder = find_folder(self.source.root, images, f"{key}.IMAGES")
        mask_path = (self.source.root / masks).expanduser()
        source: MaskFolder | CocoFile
        suffix = ""
        if mask_path.suffix.lower() == ".json":
            source = CocoFile(mask_path, self.class_map)
        else:
            suffix = self.source.mask_suffix
            mask_folder = find_folder(self.source.root, masks, f"{key}.MASKS")
            if not suffix and mask_folder.resolve() == folder.resolve():
                raise UserError(
                    f"{folder} holds both images and masks: move the masks into a folder of their own, or set "
                    "DATASET.MASK_SUFFIX to what their names have in addition."
                )
            source = MaskFolder(mask_folder, self.class_map, self.source.mask_values)
        files = find_files_beside_masks(folder, source, suffix)
        if not files:
            raise UserError(f"{key}.IMAGES: {folder} holds no images.")
        matching = match_masks(files, source.keys, suffix)
        return Pool(
            {stem: Sample(files[stem], source, mask) for stem, mask in matching.masks.items()},
            [files[stem] for stem in matching.missing],
            [source.name(mask) for mask in matching.extra],
        )

    def _mask_files(self) -> list[Path]:
        pools = [self.labeled, *self._separate.values()]
        return [
            path
            for pool in pools
            for sample in list(pool.samples.values())[:1]
            if isinstance(sample.masks, MaskFolder)
            for path in _files_of_masks(sample.masks, self.source.mask_suffix)
        ]

    # ---- division -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def division(self) -> dict[str, dict[str, Sample]]:
        """The labelled images of "train", "val" and "test", by stem, and in "rest" those whose mask stays unseen."""
        self._require_masks(self.labeled, self.missing_masks(), "DATASET.LABELED")
        for key, pool in self._separate.items():
            self._require_masks(pool, pool.missing, f"DATASET.{key}")
        pool = dict(self.labeled.samples)
        parts: dict[str, dict[str, Sample]] = {}
        for split, key, part in (("test", "TEST", self.source.test), ("val", "VAL", self.source.val)):
            separate = self.separate(key)
            chosen = self._chosen(part, pool, f"DATASET.{key}") if separate is None else {}
            parts[split] = chosen if separate is None else separate.samples
            pool = {stem: sample for stem, sample in pool.items() if stem not in chosen}
        parts["train"], parts["rest"] = self._listed(pool)
        if not parts["train"]:
            raise UserError(
                f"no labelled image is left for training: {len(self.labeled.samples)} have a mask, "
                f"{len(parts['val'])} are for validation, {len(parts['test'])} for test; lower DATASET.VAL or TEST."
            )
        return parts

    @functools.cached_property
    def unlabeled(self) -> Sequence[str]:
        """Images for the unlabelled stream: those of UNLABELED and of "rest", without any of train, val and test."""
        used = {
            os.path.abspath(sample.image)
            for split in ("train", "val", "test")
            for sample in self.division[split].values()
        }
        rest = [os.path.abspath(sample.image) for sample in self.division["rest"].values()]
        if not rest and used.isdisjoint(self.unlabeled_files):
            return self.unlabeled_files  # no copy of what may be millions
        files = itertools.chain(self.unlabeled_files, rest)
        return PackedPaths(path for path in files if path not in used).distinct()

    def _chosen(self, part: Part, pool: dict[str, Sample], key: str) -> dict[str, Sample]:
        """The images of the pool that a fraction or a list takes."""
        if part is None or part == 0:
            return {}
        if isinstance(part, str):
            path = self.source.root / part
            names = choose_names(list(read_list(path, key)), self.labeled.samples, path, key)
            return {stem: pool[stem] for stem in names if stem in pool}
        stems = list(pool)
        wanted = min(max(1, round(part * len(self.labeled.samples))), len(stems) - 1)
        indices = choose_validation(self.presence(list(pool.values())), wanted, self.source.seed)
        return {stems[index]: pool[stems[index]] for index in indices}

    def _listed(self, pool: dict[str, Sample]) -> tuple[dict[str, Sample], dict[str, Sample]]:
        """The pool divided into what LABELED.LIST names and the rest."""
        if not self.source.labeled_list:
            return pool, {}
        key = "DATASET.LABELED.LIST"
        path = self.source.root / self.source.labeled_list
        names = choose_names(list(read_list(path, key)), self.labeled.samples, path, key)
        taken = [stem for stem in names if stem not in pool]
        if taken:
            logger.warning("%s: %d of the images are for validation or test and left out.", key, len(taken))
        listed = set(names)
        return (
            {stem: sample for stem, sample in pool.items() if stem in listed},
            {stem: sample for stem, sample in pool.items() if stem not in listed},
        )

    @staticmethod
    def _require_masks(pool: Pool, missing: Sequence[Path], key: str) -> None:
        if not pool.samples:
            raise UserError(f"{key}: no image has a mask of the same stem; `python -m hiervl check-data` says more.")
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"{key}: {missing[0]}{others} has no mask: add it, take the image out, or name its folder in "
                "DATASET.UNLABELED too, which makes images without a mask unlabelled."
            )

    # ---- label maps ---------------------------------------------------------------------------------------------

    def presence(self, samples: Sequence[Sample]) -> np.ndarray:
        """(images, C) bool: which classes each image shows."""
        shown = np.zeros((len(samples), len(self.class_map.classes)), dtype=bool)
        for row, sample in zip(shown, samples):
            row[[value for value in np.unique(self.label(sample)) if value != IGNORED]] = True
        return shown

    def label(self, sample: Sample, image_size: tuple[int, int] | None = None) -> np.ndarray:
        """Label map (H, W) with 255 where nothing counts.

        Raises:
            UserError: as :meth:`label_files`; or it is of another size (height, width) than ``image_size``.
        """
        label_file, num_classes = self.label_files(sample)[0], len(self.class_map.classes)
        return read_label(label_file, num_classes, IGNORED, image_size, str(sample.image))

    def label_files(self, sample: Sample) -> tuple[str, str | None]:
        """Files of the label map and, with COCO masks, of the instances; converted into the cache where necessary.

        Raises:
            UserError: as the source's ``labels``; or the cache cannot be written.
        """
        if sample.masks.as_it_is(sample.key):
            return sample.masks.name(sample.key), None
        image = file_frame(sample.image)
        orientation = orientation_of_mask(sample, image)
        stamp = (sample.masks.stamp(sample.key), orientation)
        digest = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
        folder = cache_folder(self.source.cache) / self.source.name
        base = f"{sample.image.stem}-{digest}"
        label_file, instance_file = folder / f"{base}.png", folder / f"{base}-instances.png"
        has_instances = isinstance(sample.masks, CocoFile)
        if not label_file.is_file() or (has_instances and not instance_file.is_file()):
            size = turned_size(turned_size(*image), orientation)  # of the mask, as it is stored
            labels, instances = sample.masks.labels(sample.key, size)
            _save(turned(labels, orientation), label_file, orientation)
            if instances is not None:
                _save(turned(instances, orientation), instance_file, orientation)
        return str(label_file), str(instance_file) if has_instances else None

    # ---- Detectron2 ---------------------------------------------------------------------------------------------

    def dicts(self, split: str) -> Sequence[dict]:
        """Detectron2's dicts of "train", "val", "test" or "unlabeled"."""
        if split == "unlabeled":
            return UnlabeledDicts(self.unlabeled)
        found = []
        for stem, sample in self.division[split].items():
            label_file, instance_file = self.label_files(sample)
            entry = {"file_name": str(sample.image), "image_id": stem, "sem_seg_file_name": label_file}
            found.append({**entry, "instance_file_name": instance_file} if instance_file else entry)
        return found


def orientation_of_mask(sample: Sample, image: Frame) -> int | None:
    """How a mask file is to be turned to lie on its image, see ``turns.py``; annotations lie as they were drawn."""
    if not isinstance(sample.masks, MaskFolder):
        return None
    try:
        mask = file_frame(sample.masks.name(sample.key))
    except UserError:  # whoever reads it will say so
        return None
    upright = turned_size(image.size, image.orientation)
    return fitting_orientation(mask.size, mask.orientation, upright, image.orientation)


def _listed_file(root: str, name: str, listed_in: Path) -> str:
    """The file that a list names, looked at once, since there may be millions; with / where Windows wrote \\."""
    file = os.path.normpath(os.path.join(root, name))
    if os.path.isfile(file):
        return file
    other = os.path.normpath(file.replace("\\", "/"))
    if not os.path.isfile(other):
        raise UserError(f"DATASET.UNLABELED: {listed_in} names {file}, which does not exist.")
    return other


def find_files_beside_masks(folder: Path, masks: MaskFolder | CocoFile, mask_suffix: str) -> dict[str, Path]:
    """Images of a folder, without the masks that may lie in it too."""
    files = find_files(folder)
    if isinstance(masks, CocoFile):
        return files
    own = {Path(os.path.abspath(path)) for path in _files_of_masks(masks, mask_suffix)}
    return {stem: path for stem, path in files.items() if Path(os.path.abspath(path)) not in own}


def _files_of_masks(masks: MaskFolder, mask_suffix: str) -> list[Path]:
    return [path for key, path in masks.keys.items() if key.endswith(mask_suffix)]


def cache_folder(chosen: str = "") -> Path:
    """Where converted masks are kept."""
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache").expanduser() / "hiervl"


def _save(values: np.ndarray, path: Path, orientation: int | None) -> None:
    """A PNG of 8 or 16 bits, which appears complete or not at all: several processes may write it at once.

    ``orientation``: what it was turned by; where that was known, the file says that it is upright now.
    """
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = UPRIGHT
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = np.uint8 if values.max(initial=0) <= MAX_8_BIT else np.uint16
        Image.fromarray(values.astype(kind)).save(temporary, format="PNG", exif=exif)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"the converted mask {path} cannot be written ({error.strerror or error}): set DATASET.CACHE to a folder "
            "you may write to."
        ) from None
