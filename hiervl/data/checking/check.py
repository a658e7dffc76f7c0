"""Checks a dataset before training, and explains every problem that it finds (``check-data``)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hiervl.data.checking.duplicates import near_duplicates
from hiervl.data.checking.file_findings import Layout, matching, notes, unnamed, unused
from hiervl.data.checking.ignored_pixels import classes_that_255_may_be
from hiervl.data.checking.image_facts import ImageFacts, read_image_facts
from hiervl.data.checking.light import light_findings
from hiervl.data.checking.object_findings import object_findings
from hiervl.data.checking.registered_layout import RegisteredLayout
from hiervl.data.checking.statistics import ERROR, NOTE, WARNING, Finding, ValueStatistics
from hiervl.data.checking.two_values import classes_of_two_values, rare_background
from hiervl.data.checking.values import registered_findings, value_findings
from hiervl.data.folders.dataset import nothing_left, single_class, single_class_shown
from hiervl.data.folders.files import image_frame
from hiervl.data.folders.formats.per_class import ClassMasks
from hiervl.data.folders.layout import FolderLayout
from hiervl.data.folders.masks import AUTO
from hiervl.data.folders.pools import Pool, Sample
from hiervl.data.loading.readers import DOUBTFUL, Frame
from hiervl.data.loading.turns import UPRIGHT, fitting_orientation, is_doubtful, turned_size
from hiervl.utils.errors import UserError
from hiervl.utils.parallel import evenly_spread

LEVELS = (ERROR, WARNING, NOTE)
DEFAULT_MAX_DAMAGED = 0.05
MOST_DECODED = 500  # images at the start of a training
DARK = 16  # an image that is nowhere brighter uses only a small part of its range
LABELED, UNLABELED = "labelled", "unlabelled"
# Near-duplicates across these pairs make scores look better than they are.
LEAKS = (("train", "val"), ("train", "test"), ("val", "test"), (UNLABELED, "val"), (UNLABELED, "test"))
# What to do about a class that no mask of a split shows.
FIXES = {
    FolderLayout: {
        "train": "label images of it, or take it out of the class file (or merge it)",
        "val": "its score will be unknown; put images of it into DATASET.VAL, or raise its fraction",
    },
    RegisteredLayout: {
        "train": "it is known by its phrases alone; name a larger labelled subset in DATASETS.TRAIN",
        "val": "its score will be unknown",
    },
}


@dataclass
class Report:
    """What was found.

    Attributes:
        class_names: of the C classes.
        images: facts of every image that could be read, by path.
        splits: paths of the images of "train", "val", "test", "unlabelled"; only "labelled" if the division failed.
        pixels: (C,) pixels of every class, by image path.
        findings: the problems, worst first.
        left_out: problems of objects that are left out, with their numbers, for each mask that has some.
        doubtful: paths of images whose mask may be rotated or not; see ``turns.py``.
        perhaps_255: classes that no mask shows and that the ignored value 255 may be.
    """

    class_names: list[str]
    images: dict[str, ImageFacts] = field(default_factory=dict)
    splits: dict[str, Sequence[str]] = field(default_factory=dict)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    left_out: list[Mapping[str, int]] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    perhaps_255: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether training can start: there are no errors, at most warnings."""
        return all(finding.level != ERROR for finding in self.findings)

    def presence(self, split: str) -> np.ndarray:
        """(images, C) bool for the images of a split whose masks could be read."""
        rows = [self.pixels[path] > 0 for path in self.splits.get(split, []) if path in self.pixels]
        return np.array(rows, dtype=bool).reshape(len(rows), len(self.class_names))


def check(
    layout: Layout,
    crop_size: int | None = None,
    short_side: int = 0,
    max_damaged: float = DEFAULT_MAX_DAMAGED,
    transfers_colors: bool = False,
) -> Report:
    """Read every image and mask and look for problems.

    Args:
        crop_size, short_side: INPUT.CROP_SIZE and SHORT_SIDE; None: do not compare sizes with the crop.
        max_damaged: DATALOADER.MAX_DAMAGED, the share of unlabelled images that training may leave out.
        transfers_colors: SEMI.COLOR_TRANSFER is on.

    Raises:
        UserError: a folder, a list or the class file is missing or wrong, so that nothing can be checked.
    """
    report, pools = Report(layout.class_map.class_names), _pools(layout)
    unlabeled = layout.unlabeled_files
    report.findings += matching(layout, pools) + notes(pools) + unused(layout) + unnamed(layout)
    labeled_images = [str(sample.image) for pool in pools.values() for sample in pool.samples.values()]
    report.findings += _read_images(report, layout, labeled_images, unlabeled, max_damaged)
    report.findings += _read_masks(report, layout, pools)
    _divide(report, layout, pools)
    report.findings += _classes(report, FIXES[type(layout)])
    report.findings += _duplicates(report)
    report.findings += _light(report, transfers_colors)
    if crop_size is not None:
        report.findings += _small_images(report, crop_size, short_side)
    report.findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return report


def refuse_errors(layout: FolderLayout) -> None:
    """Stop a training, before it begins, for what :func:`check` calls an error in the labelled images and their masks.

    All masks are looked at, but at most ``MOST_DECODED`` images, evenly spread.

    Raises:
        UserError: names the first error and one of its files.
    """
    report, pools = Report(layout.class_map.class_names), _pools(layout)
    images = [str(sample.image) for pool in pools.values() for sample in pool.samples.values()]
    findings = matching(layout, pools) + _read_images(report, layout, evenly_spread(images, MOST_DECODED), (), 0.0)
    findings += _read_masks(report, layout, pools)
    errors = [finding for finding in findings if finding.level == ERROR]
    if not errors:
        return
    first = errors[0].files[:1]
    file = f" ({first[0]})" if first and first[0] not in errors[0].sentence else ""
    others = f" Errors besides: {len(errors) - 1}." if errors[1:] else ""
    raise UserError(f"{errors[0].sentence.rstrip('.')}{file}.{others} The command check-data shows all of it.")


def _pools(layout: Layout) -> dict[str, Pool]:
    """The labelled images, and those of VAL and TEST that have folders of their own."""
    separate = {key.lower(): layout.separate(key) for key in ("VAL", "TEST")}
    return {LABELED: layout.labeled, **{key: pool for key, pool in separate.items() if pool is not None}}


def _read_images(
    report: Report, layout: Layout, needed: Sequence[str], unlabeled: Iterable[str], max_damaged: float
) -> list[Finding]:
    """``needed``: the labelled images; all of them must be intact."""
    paths = list(dict.fromkeys(itertools.chain(needed, unlabeled)))
    facts = dict(zip(paths, read_image_facts(paths, layout.store, layout.bands)))
    report.images = {path: found for path, found in facts.items() if isinstance(found, ImageFacts)}
    corrupt = [(path, str(found)) for path, found in facts.items() if isinstance(found, UserError)]
    dark = [path for path, found in report.images.items() if found.brightest < DARK]
    labeled = set(needed)
    broken = [entry for entry in corrupt if entry[0] in labeled]
    findings = [_broken(broken, "images")] if broken else []
    others = [entry for entry in corrupt if entry[0] not in labeled]
    if others:
        is_too_many = len(others) > max_damaged * (len(paths) - len(labeled))
        findings.append(_broken(others, "unlabelled images", is_too_many))
    if dark:
        findings.append(Finding(
            WARNING,
            "images are nearly black: if they are 16-bit files that use fewer bits (12 of a microscope), stretch them "
            "to the full range.",
            tuple(dark),
        ))  # fmt: skip
    return findings


def _broken(files: Sequence[tuple[str, str]], what: str, stops: bool = True) -> Finding:
    """``stops``: these files would stop training; else training leaves them out."""
    return Finding(
        ERROR if stops else WARNING,
        f"{len(files)} {what} cannot be read{'' if stops else ' and will be left out'} (the first: "
        f"{files[0][1].rstrip('.')}).",
        tuple(path for path, _ in files),
    )


def _read_masks(report: Report, layout: Layout, pools: dict[str, Pool]) -> list[Finding]:
    form = layout.source.mask_values if isinstance(layout, FolderLayout) else AUTO
    statistics = ValueStatistics(layout.class_map, form)
    corrupt, unequal, turned, doubtful = [], [], [], []
    for pool in pools.values():
        samples = list(pool.samples.values())
        for sample, facts in zip(samples, layout.mask_facts(samples)):
            name, image = sample.masks.name(sample.key), str(sample.image)
            if isinstance(facts, UserError):
                corrupt.append((name, str(facts)))
                continue
            report.pixels[image] = statistics.add(name, facts)
            if image not in report.images:
                continue
            photograph = image_frame(Path(image))
            mask_frame = _frame_of_mask(sample, photograph)
            image_orientation = photograph.orientation
            mask_orientation = None if mask_frame is None else mask_frame.orientation
            size, stored = tuple(report.images[image].size), tuple(facts.shape)
            orientation = fitting_orientation(stored, mask_orientation, size, image_orientation)
            both = f"{name} ({stored[1]}×{stored[0]}, its image {size[1]}×{size[0]})"
            if turned_size(stored, orientation) != size:
                unequal.append(both)
            elif orientation not in (None, UPRIGHT) and mask_orientation is None:
                turned.append(both)
            elif is_doubtful(stored, mask_orientation, size, image_orientation) or (
                mask_frame is None and image_orientation not in (None, UPRIGHT)
            ):
                doubtful.append(name)
                report.doubtful.add(image)
    report.left_out = list(statistics.remarks.values())
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
    if isinstance(layout, FolderLayout):
        report.perhaps_255 = classes_of_two_values(statistics) or classes_that_255_may_be(statistics)
        findings += rare_background(statistics, any(isinstance(pool.masks, ClassMasks) for pool in pools.values()))
    value_check = value_findings if isinstance(layout, FolderLayout) else registered_findings
    return findings + object_findings(statistics) + value_check(statistics)


def _frame_of_mask(sample: Sample, image: Frame) -> Frame | None:
    """How the mask of an image says that it lies."""
    try:
        return sample.masks.frame(sample.key, image)
    except UserError:  # which is said of the mask already
        return None


def _divide(report: Report, layout: Layout, pools: dict[str, Pool]) -> None:
    report.splits[UNLABELED] = layout.unlabeled_files
    try:
        for split in ("train", "val", "test"):
            report.splits[split] = [str(sample.image) for sample in layout.division[split].values()]
        report.splits[UNLABELED] = layout.unlabeled
        report.findings += _empty_parts(report, layout)
    except UserError as error:
        for split, pool in pools.items():
            report.splits[split] = [str(sample.image) for sample in pool.samples.values()]
        if report.is_sound:
            report.findings.append(Finding(ERROR, str(error)))


def _empty_parts(report: Report, layout: Layout) -> list[Finding]:
    if not isinstance(layout, FolderLayout):
        return []
    wanted = {"VAL": layout.source.val, "TEST": layout.source.test}
    empty = [key for key, part in wanted.items() if part and not report.splits[key.lower()]]
    return [Finding(WARNING, f"{nothing_left(key)}.") for key in empty]


def _classes(report: Report, fixes: dict[str, str]) -> list[Finding]:
    names = report.class_names
    if len(names) == 1:
        return [Finding(ERROR, single_class(names[0]))]
    total = sum(report.pixels.values(), np.zeros(len(names), dtype=np.int64))
    if np.count_nonzero(total) == 1 and report.is_sound:  # else what is wrong with the masks has been said
        only = names[int(np.argmax(total))]
        return [Finding(ERROR, single_class_shown(only, report.left_out))]
    findings = []
    named = list(report.perhaps_255)  # of which the findings about values speak
    for split in ("train", "val"):
        if not report.splits.get(split):
            continue
        shown = set(np.flatnonzero(report.presence(split).any(axis=0)).tolist())
        absent = [name for index, name in enumerate(names) if index not in shown and name not in named]
        named += absent
        if not absent:
            continue
        findings.append(Finding(WARNING, f"no {split} mask shows {', '.join(absent)}: {fixes[split]}."))
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


def _light(report: Report, transfers_colors: bool) -> list[Finding]:
    facts = {
        split: {path: report.images[path] for path in report.splits.get(split, []) if path in report.images}
        for split in ("train", UNLABELED)
    }
    return light_findings(list(facts["train"].values()), facts[UNLABELED], transfers_colors)


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
