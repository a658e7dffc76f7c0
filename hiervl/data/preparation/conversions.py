"""From the label files of the benchmarks' publishers to maps of class indices; 255 is ignored."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from hiervl.data.loading.coco import CocoObject, paint_coco_maps, read_coco_mask
from hiervl.data.loading.readers import read_instances
from hiervl.data.loading.writers import write_map
from hiervl.data.preparation.script import Progress
from hiervl.data.registered.catalogs import IGNORE_LABEL
from hiervl.utils.errors import UserError

JOBS_AT_ONCE = 8  # jobs that a process gets at once
ADE20K_CLASSES = 150
PASCAL_CLASSES = 21
COCO_THINGS = 80
# The evaluated label ids of Cityscapes, in the order of their train ids: road, sidewalk, building, wall,
# fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, bus, train,
# motorcycle, bicycle.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_LAST_ID = 33


# ---------------------------------------------------------------------------- labels


def ade20k_labels(published: np.ndarray) -> np.ndarray:
    """ADE20K's files have 0 for "other" and 1 … 150 for the classes → 255 and 0 … 149.

    Raises:
        ValueError: a value exceeds 150.
    """
    if published.max() > ADE20K_CLASSES:
        raise ValueError(f"label {published.max()} is not a class")
    return published.astype(np.uint8) - np.uint8(1)  # 0 wraps around to 255


def cityscapes_labels(label_ids: np.ndarray) -> np.ndarray:
    """Cityscapes' label ids 0 … 33 → train ids 0 … 18, 255 for classes that are not evaluated.

    Raises:
        ValueError: a value exceeds 33.
    """
    if label_ids.max() > CITYSCAPES_LAST_ID:
        raise ValueError(f"label id {label_ids.max()} is not a class")
    train_ids = np.full(CITYSCAPES_LAST_ID + 1, IGNORE_LABEL, dtype=np.uint8)
    train_ids[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return train_ids[label_ids]


def pascal_labels(published: np.ndarray) -> np.ndarray:
    """Pascal VOC's own labels 0 … 20 and 255, unchanged.

    Raises:
        ValueError: another value occurs.
    """
    wrong = np.setdiff1d(published, [*range(PASCAL_CLASSES), IGNORE_LABEL])
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is not a class")
    return published


def sbd_labels(path: Path) -> np.ndarray:
    """The classes 0 … 20 of a MATLAB file in SBD's folder ``cls``. It has no ignored pixels.

    Raises:
        UserError: the file is broken or holds something else.
    """
    try:
        labels = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
        if labels.ndim != 2 or labels.max() >= PASCAL_CLASSES:
            raise ValueError("its Segmentation is not a map of Pascal VOC's classes")
    except Exception as error:  # loadmat raises many kinds of errors for a broken file
        raise UserError(f"{path} is not a label file of SBD ({error}): remove it and run the script again.") from None
    return labels.astype(np.uint8)


def coco_labels(categories: Sequence[dict], class_names: Sequence[str], path: Path) -> dict[int, int]:
    """From COCO's category ids (1 … 90 with gaps) to labels 1 … 80; 0 is background.

    Args:
        categories: those of the annotation file ``path``.
        class_names: the 81 classes.

    Raises:
        UserError: the file has other categories.
    """
    ordered = sorted(categories, key=lambda category: category["id"])
    if [category["name"] for category in ordered] != list(class_names[1:]):
        raise UserError(f"{path} has not the {COCO_THINGS} categories of COCO 2017: fetch the official file.")
    return {category["id"]: label for label, category in enumerate(ordered, start=1)}


def coco_maps(
    annotations: Sequence[dict], labels: dict[int, int], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class and the instance of every pixel of a COCO image, see :func:`paint_coco_maps`.

    Args:
        annotations: those of the image. labels: of :func:`coco_labels`.

    Returns:
        Classes (H, W) uint8, 0 is background; instance numbers (H, W) int32 from 1 on, 0 without an instance.
    """
    objects = [
        CocoObject(
            read_coco_mask(annotation["segmentation"], height, width),
            labels[annotation["category_id"]],
            bool(annotation.get("iscrowd", 0)),
        )
        for annotation in sorted(annotations, key=lambda annotation: annotation["id"])
    ]
    return paint_coco_maps(objects, height, width, background=0)


# ---------------------------------------------------------------------------- files


def convert_png(source: Path, target: Path, convert: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write ``convert`` of a label file's indices to ``target``.

    Raises:
        UserError: the file is broken or holds a value that is not a class.
    """
    try:
        write_map(target, convert(read_instances(str(source))))
    except ValueError as error:
        raise UserError(f"{source} is broken ({error}): remove it and run the script again.") from None


def convert_sbd(source: Path, target: Path) -> None:
    write_map(target, sbd_labels(source))


def convert_coco(
    annotations: list[dict], labels: dict[int, int], size: tuple[int, int], classes: Path, instances: Path
) -> None:
    """Write the two maps of an image of ``size`` (height, width). The class map is written last: if it exists, both
    do."""
    class_map, instance_map = coco_maps(annotations, labels, *size)
    write_map(instances, instance_map)
    write_map(classes, class_map)


def convert_all(what: str, function: Callable[..., None], jobs: Sequence[tuple], workers: int) -> None:
    """Call ``function(*job)`` for every job in ``workers`` processes. The first error ends it."""
    with Progress(what, len(jobs), " files") as progress:
        if workers <= 1 or len(jobs) <= JOBS_AT_ONCE:
            for done, job in enumerate(jobs, start=1):
                function(*job)
                progress.show(done)
            return
        with ProcessPoolExecutor(min(workers, len(jobs))) as pool:
            # An error cancels what has not begun. (Pool.terminate can wait forever for a process that it has ended.)
            for done, _ in enumerate(pool.map(function, *zip(*jobs), chunksize=JOBS_AT_ONCE), start=1):
                progress.show(done)
