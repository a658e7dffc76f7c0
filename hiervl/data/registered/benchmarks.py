"""The paper's four benchmarks: Pascal VOC 2012 (augmented), COCO 2017, ADE20K, Cityscapes.

They lie below the root of all datasets (see ``datasets.py``) in Detectron2's layout. ``datasets/prepare_*.py`` make the
label maps beside the published files. The published lists in ``{root}/splits``, which ``datasets/prepare_splits.py``
downloads, say which images are labelled. As for every dataset of HierVL, the registered names are ``{name}_train``,
``{name}_val``, ``{name}_train_{labels}`` and ``{name}_train_{labels}_unlabeled``. The unlabelled images of a subset are
all other training images, as in the published lists of unlabelled images.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hiervl.data.classes.definitions import CLASS_FILES, ClassDefinition, read_classes
from hiervl.data.registered.datasets import ROOT_VARIABLE, UNLABELED_SUFFIX, dataset_root, register_loaders
from hiervl.utils.errors import UserError

SPLITS_FOLDER = "splits"
LABELED_LIST = "labeled.txt"


@dataclass(frozen=True)
class SplitFiles:
    """Where the files of a split are in the dataset's folder. {} is an image's name, which may contain a /.

    Attributes:
        images, labels, instances: patterns; empty instances: there are none.
        names: file with the names of the images; without it, all files that match ``images``.
    """

    images: str
    labels: str
    instances: str = ""
    names: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One of the four.

    Attributes:
        name: start of the registered names.
        folder: below the root.
        script: the script that makes the folder.
        classes: in the order of the labels.
        splits: "train" and "val".
        subsets: number of labelled images → folder of the published list, below the root's ``splits``.
    """

    name: str
    folder: str
    script: str
    classes: tuple[ClassDefinition, ...]
    splits: dict[str, SplitFiles]
    subsets: dict[int, str]

    @property
    def remedy(self) -> str:
        return f"run `python datasets/{self.script}`, or set {ROOT_VARIABLE} to the folder that holds {self.folder}"


def _classes(name: str) -> tuple[ClassDefinition, ...]:
    return tuple(read_classes(CLASS_FILES / f"{name}.yaml"))


def _voc_files(names: str) -> SplitFiles:
    return SplitFiles("JPEGImages/{}.jpg", "SegmentationClassAug/{}.png", names=f"ImageSets/Segmentation/{names}.txt")


def _coco_files(split: str) -> SplitFiles:
    return SplitFiles(f"{split}/{{}}.jpg", f"semantic/{split}/{{}}.png", f"instances/{split}/{{}}.png")


def _ade_files(split: str) -> SplitFiles:
    return SplitFiles(f"images/{split}/{{}}.jpg", f"annotations_detectron2/{split}/{{}}.png")


def _cityscapes_files(split: str) -> SplitFiles:
    return SplitFiles(f"leftImg8bit/{split}/{{}}_leftImg8bit.png", f"gtFine/{split}/{{}}_gtFine_labelTrainIds.png")


PASCAL = Benchmark(
    name="pascal",
    folder="VOC2012",
    script="prepare_pascal.py",
    classes=_classes("pascal"),
    splits={"train": _voc_files("trainaug"), "val": _voc_files("val")},
    subsets={count: f"pascal/{count}" for count in (92, 183, 366, 732, 1464)},
)
COCO = Benchmark(
    name="coco",
    folder="coco",
    script="prepare_coco.py",
    classes=_classes("coco"),
    splits={"train": _coco_files("train2017"), "val": _coco_files("val2017")},
    subsets={
        232: "coco/1_512",
        463: "coco/1_256",
        925: "coco/1_128",
        1849: "coco/1_64",
        3697: "coco/1_32",
    },
)
ADE20K = Benchmark(
    name="ade20k",
    folder="ADEChallengeData2016",
    script="prepare_ade20k.py",
    classes=_classes("ade20k"),
    splits={"train": _ade_files("training"), "val": _ade_files("validation")},
    subsets={158: "ade/1_128", 316: "ade/1_64", 632: "ade/1_32", 1263: "ade/1_16", 2526: "ade/1_8"},
)
CITYSCAPES = Benchmark(
    name="cityscapes",
    folder="cityscapes",
    script="prepare_cityscapes.py",
    classes=_classes("cityscapes"),
    splits={"train": _cityscapes_files("train"), "val": _cityscapes_files("val")},
    subsets={
        100: "cityscapes/1_30",
        186: "cityscapes/1_16",
        372: "cityscapes/1_8",
        744: "cityscapes/1_4",
        1488: "cityscapes/1_2",
    },
)
BENCHMARKS = (PASCAL, COCO, ADE20K, CITYSCAPES)


def register_benchmarks() -> None:
    """Register the four in Detectron2's catalogs. Calling it again changes nothing."""
    for benchmark in BENCHMARKS:
        loaders: dict[str, Callable[[], list[dict]]] = {
            split: functools.partial(load_split, benchmark, split) for split in benchmark.splits
        }
        for count in benchmark.subsets:
            loaders[f"train_{count}"] = functools.partial(load_labeled, benchmark, count)
            loaders[f"train_{count}{UNLABELED_SUFFIX}"] = functools.partial(load_unlabeled, benchmark, count)
        register_loaders(benchmark.name, benchmark.classes, loaders)


# ---------------------------------------------------------------------------- loading


def load_split(benchmark: Benchmark, split: str) -> list[dict]:
    """Dicts of a whole split with labels, as :func:`hiervl.data.registered.datasets.load_dataset` describes them."""
    return _dicts(benchmark, split, find_names(benchmark, split), labeled=True)


def load_labeled(benchmark: Benchmark, count: int) -> list[dict]:
    """Dicts of the ``count`` labelled training images; only these need labels."""
    labeled, _ = divide(benchmark, count)
    return _dicts(benchmark, "train", labeled, labeled=True)


def load_unlabeled(benchmark: Benchmark, count: int) -> list[dict]:
    """Dicts of all other training images, without labels even if label files exist."""
    _, unlabeled = divide(benchmark, count)
    return _dicts(benchmark, "train", unlabeled, labeled=False)


def divide(benchmark: Benchmark, count: int) -> tuple[list[str], list[str]]:
    """Names of the labelled and the unlabelled training images, both sorted.

    Raises:
        UserError: the dataset or the list is missing, or the list does not fit the dataset.
    """
    names = find_names(benchmark, "train")
    pattern = benchmark.splits["train"].images
    names_by_image = {_stem(pattern.format(name)): name for name in names}
    path = dataset_root() / SPLITS_FOLDER / benchmark.subsets[count] / LABELED_LIST
    listed = read_list(path)
    if len(listed) != count:
        raise UserError(
            f"{path} names {len(listed)} images instead of {count}: remove it and run `python "
            "datasets/prepare_splits.py`."
        )
    absent = [image for image in listed if image not in names_by_image]
    if absent:
        others = f" (nor are {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise UserError(
            f"{absent[0]}, which {path} names, is not a training image in {dataset_root() / benchmark.folder}{others}: "
            f"{benchmark.remedy}."
        )
    labeled = {names_by_image[image] for image in listed}
    return sorted(labeled), [name for name in names if name not in labeled]


def read_list(path: Path) -> list[str]:
    """The images in a published list, one per line, as stems of their files.

    A line has the path of an image in the authors' layout, then that of its label. Only the image's file name is used:
    it is the same everywhere and unique among the training images of a benchmark.

    Raises:
        UserError: the list is missing, is not text, or names an image twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError:
        raise UserError(f"{path} cannot be read: run `python datasets/prepare_splits.py`.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text: remove it and run `python datasets/prepare_splits.py`.") from None
    images = [_stem(line.split()[0]) for line in lines if line.strip()]
    if len(set(images)) != len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise UserError(f"{path} names {twice} twice: remove it and run `python datasets/prepare_splits.py`.")
    return images


def _stem(path: str) -> str:
    """File name without folder and suffix. Not with pathlib, which needs a second for COCO's names."""
    name = path.rpartition("/")[2]
    return name[: name.rindex(".")] if "." in name else name


def find_names(benchmark: Benchmark, split: str) -> list[str]:
    """Names of a split's images, sorted: the values of {} in its patterns.

    Raises:
        UserError: there are none.
    """
    folder, files = dataset_root() / benchmark.folder, benchmark.splits[split]
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: {benchmark.remedy}.")
    if files.names:
        path = folder / files.names
        if not path.is_file():
            raise UserError(f"{path} does not exist: {benchmark.remedy}.")
        names = path.read_text(encoding="utf-8").split()
    else:
        names = list(_matching(folder, files.images))
    if not names:
        raise UserError(f"{folder} holds no images {files.images.format('*')}: {benchmark.remedy}.")
    return sorted(names)


def _matching(folder: Path, pattern: str) -> dict[str, str]:
    """Paths of the files that match a pattern, by name. Walking is faster than checking every file."""
    before, after = pattern.split("{}")
    top = os.path.join(folder, before)
    found = {}
    for place, _, files in os.walk(top):
        prefix = os.path.relpath(place, top).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        for file in files:
            if file.endswith(after) and not file.startswith("."):
                found[prefix + file[: len(file) - len(after)]] = os.path.join(place, file)
    return found


def _dicts(benchmark: Benchmark, split: str, names: list[str], labeled: bool) -> list[dict]:
    folder, files = dataset_root() / benchmark.folder, benchmark.splits[split]
    dicts = [
        {"file_name": os.path.join(folder, files.images.format(name)), "image_id": name.rpartition("/")[2]}
        for name in names
    ]
    if labeled:
        _add_files(dicts, names, _matching(folder, files.labels), "sem_seg_file_name", benchmark)
    if labeled and files.instances:
        _add_files(dicts, names, _matching(folder, files.instances), "instance_file_name", benchmark)
    return dicts


def _add_files(dicts: list[dict], names: list[str], paths: dict[str, str], key: str, benchmark: Benchmark) -> None:
    """Add each image's file under ``key``."""
    missing = [entry["file_name"] for entry, name in zip(dicts, names) if name not in paths]
    if missing:
        others = f" (and those of {len(missing) - 1} more images)" if len(missing) > 1 else ""
        what = "label" if key == "sem_seg_file_name" else "map of instances"
        raise UserError(f"{missing[0]} has no {what}{others}: run `python datasets/{benchmark.script}`.")
    for entry, name in zip(dicts, names):
        entry[key] = paths[name]
