"""The files of a dataset in the user's own folders: find, match, and divide them into train, val, test and unlabelled.

``source.py`` says where they are, ``pools.py`` matches images with masks; ``dataset.py`` registers them in Detectron2.
"""

import functools
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hiervl.data.classes.class_maps import IGNORED, ClassMap, read_class_map
from hiervl.data.folders.converted import cache_folder, converted_files
from hiervl.data.folders.facts import FactsStore, MaskFacts, processes, read_mask_facts
from hiervl.data.folders.files import (
    MASK_SUFFIXES,
    choose_names,
    find_folder,
    list_files,
    read_list,
)
from hiervl.data.folders.formats.source import AnnotationSource, MaskSource
from hiervl.data.folders.kinds import CLASS_LISTS, Unused, unused_files
from hiervl.data.folders.masks import MaskFolder, label_of_code
from hiervl.data.folders.pools import Pool, Sample, files_of_masks, files_read, find_pool, what_else
from hiervl.data.folders.source import FolderSource, Part
from hiervl.data.folders.stratified import choose_validation
from hiervl.data.loading.bands import Bands
from hiervl.data.loading.file_types import IMAGE_SUFFIXES
from hiervl.data.loading.packed import PackedPaths, UnlabeledDicts
from hiervl.data.loading.readers import read_image, read_label
from hiervl.utils.errors import UserError
from hiervl.utils.parallel import map_files

logger = logging.getLogger(__name__)


class FolderLayout:
    """The files of a :class:`FolderSource`, divided into train, val, test and unlabelled. Found on first use."""

    def __init__(self, source: FolderSource):
        """
        Raises:
            UserError: the class file is missing or wrong.
        """
        self.source = source
        self.class_map: ClassMap = read_class_map(source.classes)
        self._mask_facts: dict[tuple[int, str], MaskFacts | UserError] = {}

    @property
    def bands(self) -> Bands | None:
        """Which bands of TIFFs are read."""
        return self.source.bands

    def read_image(self, path: str | Path) -> np.ndarray:
        """An image as in training. Errors are those of :func:`read_image`."""
        return read_image(str(path), self.bands)

    # ---- files --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def labeled(self) -> Pool:
        """All images of LABELED with their masks, including those of fractions and lists."""
        return find_pool(self.source, self.class_map, self.source.images, self.source.masks, "DATASET.LABELED")

    @functools.cached_property
    def unlabeled_files(self) -> Sequence[str]:
        """Absolute paths of the files of UNLABELED, without masks."""
        masks = {os.path.abspath(path) for path in self._mask_files()}
        files = itertools.chain.from_iterable(map(self._unlabeled_entry, self.source.unlabeled))
        return PackedPaths(file for file in files if file not in masks).distinct()

    def _unlabeled_entry(self, entry: str) -> Iterator[str]:
        """Files of one folder or list of UNLABELED."""
        if entry.lower().endswith(".txt"):
            yield from _listed_files(os.path.abspath(self.source.root), self.source.root / entry)
            return
        folder = find_folder(self.source.root, entry, "DATASET.UNLABELED")
        file = None
        for file in list_files(os.path.abspath(folder)):
            yield file
        if file is None:
            raise UserError(f"DATASET.UNLABELED: {folder} holds no images{what_else(folder)}.")

    def missing_masks(self, pool: Pool) -> list[Path]:
        """Images of LABELED, VAL or TEST without a mask there that are neither in UNLABELED nor, with a mask, in one of
        the others: they may share a folder of images."""
        missing = {os.path.abspath(path): path for path in pool.missing}
        if missing:
            others = (other for other in (self.labeled, *self._separate.values()) if other is not pool)
            of_others = (
                path
                for other in others
                for path in (*(sample.image for sample in other.samples.values()), *other.empty)
            )
            for path in itertools.chain(self.unlabeled_files, map(os.path.abspath, of_others)):
                missing.pop(path, None)
        return list(missing.values())

    def separate(self, key: str) -> Pool | None:
        """Images and masks of VAL or TEST, if these are separate folders."""
        part = self.source.val if key == "VAL" else self.source.test
        if not isinstance(part, (list, tuple)):
            return None
        return self._separate[key]

    @functools.cached_property
    def _separate(self) -> dict[str, Pool]:
        parts = {"VAL": self.source.val, "TEST": self.source.test}
        labeled = self._real_paths(self.source.images, self.source.masks)
        for key, part in parts.items():
            if isinstance(part, (list, tuple)) and self._real_paths(*part) == labeled:
                raise UserError(
                    f"DATASET.{key} is the same folder as LABELED, so that its images would be trained on: write a "
                    "share such as 0.2, a list file, or another folder."
                )
        return {
            key: find_pool(self.source, self.class_map, part[0], part[1], f"DATASET.{key}")
            for key, part in parts.items()
            if isinstance(part, (list, tuple))
        }

    def _real_paths(self, *names: str) -> list[str]:
        return [os.path.realpath((self.source.root / name).expanduser()) for name in names]

    def _mask_files(self) -> list[Path]:
        return [path for masks in self._mask_sources() for path in files_of_masks(masks, self.source.mask_names)]

    def unused(self) -> list[tuple[Path, Unused]]:
        """Files in the folders of the configuration that are read neither as images nor as annotations."""
        pairs: list[Sequence[str]] = [(self.source.images, self.source.masks)]
        pairs += [part for part in (self.source.val, self.source.test) if isinstance(part, (list, tuple))]
        of_masks = self._folders(masks for _, masks in pairs)
        others = self._folders([*(images for images, _ in pairs), *self.source.unlabeled])
        sources = list(self._mask_sources())
        files = itertools.chain.from_iterable(files_read(masks, self.source.mask_names) for masks in sources)
        real_folder = functools.cache(os.path.realpath)
        read = {os.path.join(real_folder(path.parent), path.name) for path in files}
        reads_annotations = any(not isinstance(masks, MaskFolder) for masks in sources)
        reads_arrays = any(not isinstance(masks, AnnotationSource) for masks in sources)
        found = [
            (folder, unused)
            for folder in of_masks.values()
            for unused in unused_files(folder, MASK_SUFFIXES if reads_arrays else IMAGE_SUFFIXES, read)
            if not (unused.kind and reads_annotations)
        ]
        for real, folder in others.items():
            if real not in of_masks:
                found += [(folder, unused) for unused in unused_files(folder, apart_from={*read, *map(str, of_masks)})]
        return [(folder, unused) for folder, unused in found if unused.kind not in CLASS_LISTS]

    def _folders(self, names: Iterable[str]) -> dict[Path, Path]:
        """The folders among some entries of the configuration, by their path with links resolved."""
        paths = [(self.source.root / name).expanduser() for name in names]
        return {path.resolve(): path for path in paths if path.is_dir()}

    def _mask_sources(self) -> Iterator[MaskSource]:
        for pool in [self.labeled, *self._separate.values()]:
            if pool.masks is not None:
                yield pool.masks

    # ---- division -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def division(self) -> dict[str, dict[str, Sample]]:
        """The labelled images of "train", "val" and "test", by stem, and in "rest" those whose mask is not used."""
        for key, pool in {"LABELED": self.labeled, **self._separate}.items():
            self._require_masks(pool, self.missing_masks(pool), f"DATASET.{key}")
        left = self._without_separate(self.labeled.samples)
        parts: dict[str, dict[str, Sample]] = {}
        for split, key, part in (("test", "TEST", self.source.test), ("val", "VAL", self.source.val)):
            separate = self.separate(key)
            chosen = self._chosen(part, left, f"DATASET.{key}") if separate is None else {}
            parts[split] = chosen if separate is None else separate.samples
            left = {stem: sample for stem, sample in left.items() if stem not in chosen}
        parts["train"], parts["rest"] = self._listed(left)
        if not parts["train"]:
            raise UserError(
                f"no labelled image is left for training: {len(self.labeled.samples)} have a mask, "
                f"{len(parts['val'])} are for validation, {len(parts['test'])} for test; lower DATASET.VAL or TEST."
            )
        return parts

    def _without_separate(self, pool: dict[str, Sample]) -> dict[str, Sample]:
        """The pool without images that VAL or TEST have, too, where these have the images' folder in common with it."""
        images = {
            os.path.abspath(sample.image) for other in self._separate.values() for sample in other.samples.values()
        }
        if not images:
            return dict(pool)
        left = {stem: sample for stem, sample in pool.items() if os.path.abspath(sample.image) not in images}
        _warn_of_overlap([stem for stem in pool if stem not in left], "DATASET.LABELED", "validation or test")
        return left

    @functools.cached_property
    def unlabeled(self) -> Sequence[str]:
        """Images for the unlabelled stream: those of UNLABELED and "rest", without those of train, val and test."""
        used = {
            os.path.abspath(sample.image)
            for split in ("train", "val", "test")
            for sample in self.division[split].values()
        }
        rest = [os.path.abspath(sample.image) for sample in self.division["rest"].values()]
        if not rest and used.isdisjoint(self.unlabeled_files):
            return self.unlabeled_files  # no copy, because there may be millions
        files = itertools.chain(self.unlabeled_files, rest)
        return PackedPaths(path for path in files if path not in used).distinct()

    def _chosen(self, part: Part, pool: dict[str, Sample], key: str) -> dict[str, Sample]:
        """The images of the pool in a fraction or a list."""
        if part is None or part == 0:
            return {}
        if isinstance(part, str):
            path = self.source.root / part
            names = choose_names(list(read_list(path, key)), self.labeled.samples, path, key)
            _warn_of_overlap([stem for stem in names if stem not in pool], key, "test")
            return {stem: pool[stem] for stem in names if stem in pool}
        assert isinstance(part, (int, float))  # separate folders are not drawn from the pool
        stems = list(pool)
        wanted = min(max(1, round(part * len(self.labeled.samples))), len(stems) - 1)
        indices = choose_validation(self.presence(list(pool.values())), wanted, self.source.seed)
        return {stems[index]: pool[stems[index]] for index in indices}

    def _listed(self, pool: dict[str, Sample]) -> tuple[dict[str, Sample], dict[str, Sample]]:
        """The pool, divided into the images in LABELED.LIST and the rest."""
        if not self.source.labeled_list:
            return pool, {}
        key = "DATASET.LABELED.LIST"
        path = self.source.root / self.source.labeled_list
        names = choose_names(list(read_list(path, key)), self.labeled.samples, path, key)
        _warn_of_overlap([stem for stem in names if stem not in pool], key, "validation or test")
        listed = set(names)
        return (
            {stem: sample for stem, sample in pool.items() if stem in listed},
            {stem: sample for stem, sample in pool.items() if stem not in listed},
        )

    @staticmethod
    def _require_masks(pool: Pool, missing: Sequence[Path], key: str) -> None:
        if not pool.samples:
            advice = pool.advice() or "the command check-data says more"
            raise UserError(f"{key}: no image has a mask of the same stem. {advice}.")
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"{key}: {missing[0]}{others} has no mask: add it, take the image out, or name its folder in "
                "DATASET.UNLABELED too, which makes images without a mask unlabelled."
            )

    # ---- label maps ---------------------------------------------------------------------------------------------

    def presence(self, samples: Sequence[Sample]) -> np.ndarray:
        """(images, C) bool: which classes each image shows.

        Raises:
            UserError: a mask cannot be read, or holds what is not a class.
        """
        shown = np.zeros((len(samples), len(self.class_map.classes)), dtype=bool)
        for row, sample, facts in zip(shown, samples, self.mask_facts(samples)):
            if isinstance(facts, UserError):
                raise facts
            meaning = label_of_code(facts, self.class_map)
            if facts.unknown_names or not meaning.keys() >= facts.counts().keys():
                self.label(sample)  # this raises with the cause
            labels = {meaning.get(code, IGNORED) for code in facts.counts()}
            row[list(labels - {IGNORED})] = True
        return shown

    def mask_facts(self, samples: Sequence[Sample]) -> list[MaskFacts | UserError]:
        """Facts about the masks, or the error for an unreadable one. Every mask is read once."""
        names = [(id(sample.masks), sample.key) for sample in samples]
        new = {name: sample for name, sample in zip(names, samples) if name not in self._mask_facts}
        self._mask_facts.update(zip(new, read_mask_facts(list(new.values()), self.store)))
        return [self._mask_facts[name] for name in names]

    @functools.cached_property
    def store(self) -> FactsStore:
        """The store of facts about files."""
        return FactsStore(self._cache)

    @property
    def _cache(self) -> Path:
        return cache_folder(self.source.cache) / self.source.name

    def label(self, sample: Sample, image_size: tuple[int, int] | None = None) -> np.ndarray:
        """Label map (H, W), 255 where pixels do not count.

        Raises:
            UserError: as :meth:`label_files`; or it is of another size (height, width) than ``image_size``.
        """
        label_file, num_classes = self.label_files(sample)[0], len(self.class_map.classes)
        return read_label(label_file, num_classes, IGNORED, image_size, str(sample.image))

    def label_files(self, sample: Sample) -> tuple[str, str | None]:
        """Files of the label map and, with COCO masks, of the instances. Converted into the cache if needed.

        Raises:
            UserError: as the source's ``labels``; or the cache cannot be written.
        """
        return converted_files(sample, self._cache)

    def _label_files_or_error(self, sample: Sample) -> tuple[str, str | None] | UserError:
        try:
            return self.label_files(sample)
        except UserError as error:
            return error

    # ---- Detectron2 ---------------------------------------------------------------------------------------------

    def dicts(self, split: str) -> Sequence[dict]:
        """Detectron2's dicts of "train", "val", "test" or "unlabeled"."""
        if split == "unlabeled":
            return UnlabeledDicts(self.unlabeled)
        samples = self.division[split]
        found = []
        converted = map_files(self._label_files_or_error, list(samples.values()), f"masks of {split}", processes())
        for (stem, sample), files in zip(samples.items(), converted):
            if isinstance(files, UserError):
                raise files
            label_file, instance_file = files
            entry = {"file_name": str(sample.image), "image_id": stem, "sem_seg_file_name": label_file}
            found.append({**entry, "instance_file_name": instance_file} if instance_file else entry)
        return found


def _warn_of_overlap(names: Sequence[str], key: str, use: str) -> None:
    """Images that are left out, because another part of the dataset has them."""
    if names:
        logger.warning(
            "%s: %d of the images are for %s too, such as %s, and left out here.", key, len(names), use, names[0]
        )


def _listed_files(root: str, path: Path) -> Iterator[str]:
    """The files in a list of UNLABELED, including missing ones. Like other unreadable files, they are left out on
    reading, up to DATALOADER.MAX_DAMAGED.

    Raises:
        UserError: none of them exists.
    """
    missing, first, count = 0, "", 0
    for name in read_list(path, "DATASET.UNLABELED"):
        file, exists = _listed_file(root, name)
        count += 1
        if not exists:
            missing, first = missing + 1, first or file
        yield file
    if missing == count:
        raise UserError(
            f"DATASET.UNLABELED: {path} names {first}, which does not exist, nor does any other of its files."
        )
    if missing:
        logger.warning("DATASET.UNLABELED: %d of the %d files in %s do not exist.", missing, count, path)


def _listed_file(root: str, name: str) -> tuple[str, bool]:
    """The file of a name in a list, and whether it exists. Checked only once, because there may be millions. / replaces
    the \\ of Windows."""
    file = os.path.normpath(os.path.join(root, name))
    if os.path.isfile(file):
        return file, True
    other = os.path.normpath(file.replace("\\", "/"))
    return (other, True) if os.path.isfile(other) else (file, False)
