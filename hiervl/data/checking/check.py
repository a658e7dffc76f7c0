"""Looks at a dataset before training does, and explains every fault it finds (``check-data``)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hiervl.data.checking.duplicates import Fingerprint, fingerprint, near_duplicates
from hiervl.data.checking.registered_layout import LabelFiles, RegisteredLayout
from hiervl.data.checking.values import ERROR, WARNING, Finding, ValueStatistics, registered_findings, value_findings
from hiervl.data.folders.files import guess_mask_suffix
from hiervl.data.folders.layout import FolderLayout, Pool, Sample
from hiervl.data.folders.masks import MaskFolder
from hiervl.data.loading.readers import DOUBTFUL, file_frame, read_image
from hiervl.data.loading.turns import UPRIGHT, fitting_orientation, is_doubtful, turned_size
from hiervl.utils.errors import UserError

DARK = 16  # an image that is nowhere brighter uses a corner of its range
LABELED, UNLABELED = "labelled", "unlabelled"
# Near-duplicates across these pairs make scores look better than they are.
LEAKS = (("train", "val"), ("train", "test"), ("val", "test"), (UNLABELED, "val"), (UNLABELED, "test"))
# What to do about a class that no mask of a split shows.
MENDS = {
    FolderLayout: {
        "train": "label images of it, or take it out of the class file (or merge it)",
        "val": "its score will be unknown; put images of it into DATASET.VAL, or raise its fraction",
    },
    RegisteredLayout: {
        "train": "it is known by its phrases alone; name a larger labelled subset in DATASETS.TRAIN",
        "val": "its score will be unknown",
    },
}
Layout = FolderLayout | RegisteredLayout


class ImageFacts(NamedTuple):
    """What is kept of an image that could be read."""

    size: tuple[int, int]  # height, width
    mark: Fingerprint


@dataclass
class Report:
    """What was found.

    Attributes:
        class_names: of the C classes.
        images: facts of every image that could be read, by path.
        splits: paths of the images of "train", "val", "test", "unlabelled"; "labelled" alone where the division failed.
        pixels: (C,) pixels of every class, by image path.
        findings: the faults, worst first.
        doubtful: paths of images of which nobody can tell how their mask lies on them.
    """

    class_names: list[str]
    images: dict[str, ImageFacts] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)

    @property
    def is_sound(self) -> bool:
        """Training can start: there are no errors, at most warnings."""
        return all(finding.level != ERROR for finding in self.findings)

    def presence(self, split: str) -> np.ndarray:
        """(images, C) bool for the images of a split whose masks could be read."""
        rows = [self.pixels[path] > 0 for path in self.splits.get(split, []) if path in self.pixels]
        return np.array(rows, dtype=bool).reshape(len(rows), len(self.class_names))


def check(layout: Layout, crop_size: int | None = None, short_side: int = 0) -> Report:
    """Read every image and mask and look for faults.

    Args:
        crop_size, short_side: INPUT.CROP_SIZE and SHORT_SIDE; None: sizes are not compared with the crop.

    Raises:
        UserError: a folder, a list or the class file is missing or wrong, so that there is nothing to look at.
    """
    report = Report(layout.class_map.class_names)
    pools = {LABELED: layout.labeled}
    for key in ("VAL", "TEST"):
        separate = layout.separate(key)
        if separate is not None:
            pools[key.lower()] = separate
    unlabeled = layout.unlabeled_files
    report.findings += _matching(layout, pools)
    labeled_images = [str(sample.image) for pool in pools.values() for sample in pool.samples.values()]
    report.findings += _read_images(report, [*labeled_images, *unlabeled])
    report.findings += _read_masks(report, layout, pools)
    _divide(report, layout, pools)
    report.findings += _classes(report, MENDS[type(layout)])
    report.findings += _duplicates(report)
    if crop_size is not None:
        report.findings += _small_images(report, crop_size, short_side)
    report.findings.sort(key=lambda finding: finding.level != ERROR)
    return report


def _matching(layout: Layout, pools: dict[str, Pool]) -> list[Finding]:
    findings = []
    for split, pool in pools.items():
        missing = layout.missing_masks() if split == LABELED else pool.missing
        if missing:
            findings.append(Finding(
                ERROR,
                f"{len(missing)} {split} images have no mask of the same stem: add the masks"
                f"{_suffix_hint(missing, pool.extra)}, or take the images out (images whose folder is also in "
                "DATASET.UNLABELED may do without).",
                _names(missing),
            ))  # fmt: skip
        if pool.extra:
            findings.append(Finding(
                WARNING,
                f"{len(pool.extra)} masks of the {split} images have no image: add the images, rename the masks, or "
                "take them out.",
                tuple(pool.extra),
            ))  # fmt: skip
    return findings


def _suffix_hint(missing: Sequence[Path], extra: Sequence[str]) -> str:
    suffix = guess_mask_suffix([path.stem for path in missing], [Path(name).stem for name in extra])
    return f" (the masks' names end in '{suffix}': set DATASET.MASK_SUFFIX to {suffix})" if suffix else ""


def _read_images(report: Report, paths: Iterable[str]) -> list[Finding]:
    corrupt, dark = [], []
    for path in tqdm(dict.fromkeys(paths), "images", disable=None, leave=False):  # None: not in a log file
        try:
            image = read_image(path)
        except UserError as error:
            corrupt.append((path, str(error)))
            continue
        report.images[path] = ImageFacts(image.shape[:2], fingerprint(image))
        if image.max() < DARK:
            dark.append(path)
    findings = [_broken(corrupt, "images")] if corrupt else []
    if dark:
        findings.append(Finding(
            WARNING,
            "images are nearly black: if they are 16-bit files that use fewer bits (12 of a microscope), stretch them "
            "to the full range.",
            tuple(dark),
        ))  # fmt: skip
    return findings


def _broken(files: Sequence[tuple[str, str]], what: str) -> Finding:
    return Finding(
        ERROR,
        f"{len(files)} {what} cannot be read (the first: {files[0][1].rstrip('.')}).",
        tuple(path for path, _ in files),
    )


def _read_masks(report: Report, layout: Layout, pools: dict[str, Pool]) -> list[Finding]:
    statistics = ValueStatistics(layout.class_map)
    corrupt, unequal, turned, doubtful = [], [], [], []
    for pool in pools.values():
        for sample in tqdm(pool.samples.values(), "masks", disable=None, leave=False):
            name, image = sample.masks.name(sample.key), str(sample.image)
            try:
                raw = sample.masks.raw(sample.key)
            except UserError as error:
                corrupt.append((name, str(error)))
                continue
            report.pixels[image] = statistics.add(name, raw)
            if image not in report.images:
                continue
            of_image, of_mask = file_frame(image).orientation, _own_orientation(sample)
            upright, stored = report.images[image].size, raw.codes.shape
            orientation = fitting_orientation(stored, of_mask, upright, of_image if _may_turn(sample) else None)
            if turned_size(stored, orientation) != upright:
                unequal.append(name)
            elif orientation not in (None, UPRIGHT) and of_mask is None:
                turned.append(name)
            elif is_doubtful(stored, of_mask, upright, of_image):
                doubtful.append(name)
                report.doubtful.add(image)
    findings = [_broken(corrupt, "masks")] if corrupt else []
    if unequal:
        findings.append(Finding(
            ERROR, "masks differ in size from their images: export both in the same size.", tuple(unequal)
        ))  # fmt: skip
    if turned:
        findings.append(Finding(
            WARNING,
            "masks have the size of the photograph before its EXIF rotation, and are turned with it: look at the "
            "overlays.",
            tuple(turned),
        ))  # fmt: skip
    if doubtful:
        findings.append(Finding(WARNING, f"{DOUBTFUL}.", tuple(doubtful)))
    judge = value_findings if isinstance(layout, FolderLayout) else registered_findings
    return findings + judge(statistics)


def _may_turn(sample: Sample) -> bool:
    """Mask files are turned as their image is; annotations lie as they were drawn."""
    return isinstance(sample.masks, (MaskFolder, LabelFiles))


def _own_orientation(sample: Sample) -> int | None:
    """What the EXIF data of a mask file says."""
    if not _may_turn(sample):
        return None
    try:
        return file_frame(sample.masks.name(sample.key)).orientation
    except UserError:  # a file of another kind, which has no such data
        return None


def _divide(report: Report, layout: Layout, pools: dict[str, Pool]) -> None:
    report.splits[UNLABELED] = layout.unlabeled_files
    try:
        for split in ("train", "val", "test"):
            report.splits[split] = [str(sample.image) for sample in layout.division[split].values()]
        report.splits[UNLABELED] = layout.unlabeled
    except UserError as error:
        for split, pool in pools.items():
            report.splits[split] = [str(sample.image) for sample in pool.samples.values()]
        if report.is_sound:
            report.findings.append(Finding(ERROR, str(error)))


def _classes(report: Report, mends: dict[str, str]) -> list[Finding]:
    names = report.class_names
    if len(names) == 1:
        return [Finding(
            ERROR,
            f"there is a single class ('{names[0]}'), so that every pixel is right: add a background class, "
            "`{name: background, background: true}`, in front.",
        )]  # fmt: skip
    total = sum(report.pixels.values(), np.zeros(len(names), dtype=np.int64))
    if np.count_nonzero(total) == 1:
        only = names[int(np.argmax(total))]
        return [Finding(
            ERROR,
            f"all masks together show a single class ('{only}'): check that the masks' values are those of the class "
            "file, and label images of other classes.",
        )]  # fmt: skip
    findings = []
    named: list[str] = []
    for split in ("train", "val"):
        if not report.splits.get(split):
            continue
        shown = report.presence(split).any(axis=0)
        absent = [name for name, there in zip(names, shown) if not there and name not in named]
        named += absent
        if not absent:
            continue
        findings.append(Finding(WARNING, f"no {split} mask shows {', '.join(absent)}: {mends[split]}."))
    return findings


def _duplicates(report: Report) -> list[Finding]:
    findings = []
    for first, second in LEAKS:
        marks = [
            {path: report.images[path].mark for path in report.splits.get(split, []) if path in report.images}
            for split in (first, second)
        ]
        pairs = near_duplicates(marks[1], marks[0])
        if pairs:
            files = tuple(f"{kept} = {other}" for kept, other in pairs)
            findings.append(Finding(
                WARNING,
                f"{len(files)} {second} images look the same as {first} ones (copies, or neighbouring frames of a "
                "video): scores will look better than they are; take one of each pair out, or divide by place or time.",
                files,
            ))  # fmt: skip
    return findings


def _small_images(report: Report, crop_size: int, short_side: int) -> list[Finding]:
    small = [path for path, facts in report.images.items() if (short_side or min(facts.size)) < crop_size]
    if not small:
        return []
    smallest = min(min(report.images[path].size) for path in small)
    return [Finding(
        WARNING,
        f"{len(small)} images are smaller than the crop of {crop_size} px (the smallest: {smallest} px) and will be "
        f"padded: lower INPUT.CROP_SIZE, or enlarge all by INPUT.SHORT_SIDE {crop_size}.",
        tuple(small),
    )]  # fmt: skip


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(str(path) for path in paths)
