"""Datasets in folders, registered in Detectron2 under ``{name}_{split}`` and ``{name}_train_{labels}``.

Every one is a folder ``{root}/{name}`` with ``images/{split}/{stem}.jpg`` or ``.png``,
``labels/{split}/{stem}.png`` and, if there are any, ``instances/{split}/{stem}.png``. The root is
``$DETECTRON2_DATASETS``, else ``datasets``. It is read when a dataset is loaded, not when it is registered, so
registering costs nothing and cannot fail.
"""

import difflib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from hiervl.data import shapesworld
from hiervl.data.classes.definitions import CLASS_FILES, ClassDefinition, read_classes
from hiervl.data.registered.catalogs import IGNORE_LABEL, register_in_catalogs
from hiervl.data.registered.splits import label_split
from hiervl.utils.errors import UserError

ROOT_VARIABLE = "DETECTRON2_DATASETS"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
UNLABELED_SUFFIX = "_unlabeled"
MAX_SUGGESTIONS = 5


@dataclass(frozen=True)
class FolderDataset:
    """A dataset with the layout described above.

    Attributes:
        name: its folder under the root, and the start of its registered names.
        classes: in the order of the labels.
        label_counts: sizes of the labelled subsets of ``train``, each registered with its unlabelled rest.
        remedy: how to make the folder, as the end of the sentence "… does not exist: ".
        split_seed: random seed of the labelled subsets.
        inner_val: number of images of ``train`` that are held out as ``inner_val``, a second validation set like the
            training images; ``inner_train_{labels}`` are the labelled subsets without them. 0: there is none.
        generate: function that writes a split, from the dataset's folder and the split's name, if the dataset is
            generated.
    """

    name: str
    classes: tuple[ClassDefinition, ...]
    label_counts: tuple[int, ...]
    remedy: str = ""
    generate: Callable[[Path, str], None] | None = None
    splits: tuple[str, ...] = ("train", "val", "test")
    split_seed: int = 0
    inner_val: int = 0


CAMVID = FolderDataset(
    name="camvid",
    classes=tuple(read_classes(CLASS_FILES / "camvid.yaml")),
    label_counts=(12, 23, 46, 92, 184),
    remedy=f"run `python datasets/prepare_camvid.py`, or set {ROOT_VARIABLE} to the folder that holds camvid",
    inner_val=60,  # val is one sequence at dusk, unlike the rest
)
SHAPESWORLD = FolderDataset(
    name="shapesworld",
    classes=tuple(
        ClassDefinition(name, (name,), color, background=name == "background")
        for name, color in zip(shapesworld.CLASS_NAMES, shapesworld.PALETTE)
    ),
    label_counts=(16, 32, 64, 128, 400),
    generate=shapesworld.write_split,
    split_seed=1,  # the first seed whose 16 labelled images show every class; with 0, one class could not be learnt
)
DATASETS = (CAMVID, SHAPESWORLD)
_REGISTERED: list[str] = []  # names of datasets, for messages


def register_all() -> None:
    """Register HierVL's own datasets in Detectron2's catalogs. Calling it again changes nothing."""
    for dataset in DATASETS:
        register(dataset)


def register(dataset: FolderDataset) -> None:
    """Register a dataset's splits, and its labelled subsets with their unlabelled rests, in Detectron2's catalogs."""
    loaders: dict[str, Callable[[], list[dict]]] = {
        split: functools.partial(load_split, dataset, split) for split in dataset.splits
    }
    for count in dataset.label_counts:
        loaders[f"train_{count}"] = functools.partial(load_labeled, dataset, count)
        loaders[f"train_{count}{UNLABELED_SUFFIX}"] = functools.partial(load_unlabeled, dataset, count)
        if dataset.inner_val:
            inner = f"inner_train_{count}"
            loaders[inner] = loaders[f"train_{count}"]
            loaders[inner + UNLABELED_SUFFIX] = functools.partial(load_unlabeled, dataset, count, inner=True)
    if dataset.inner_val:
        loaders["inner_val"] = functools.partial(load_inner_val, dataset)
    register_loaders(dataset.name, dataset.classes, loaders)


def register_loaders(
    dataset_name: str, classes: Sequence[ClassDefinition], loaders: dict[str, Callable[[], list[dict]]]
) -> None:
    """Register functions that load parts of a dataset, as ``{dataset_name}_{part}``. Existing names stay."""
    _REGISTERED.append(dataset_name)
    for part, load in loaders.items():
        name = f"{dataset_name}_{part}"
        if name not in DatasetCatalog.list():
            register_in_catalogs(name, load, classes)


# ---------------------------------------------------------------------------- by name


def load_dataset(name: str, key: str = "") -> Sequence[dict]:
    """The dicts of a registered dataset.

    Args:
        key: the configuration key that holds the name, for the error message.

    Returns:
        A dict per image with "file_name", "image_id" (the file's stem) and, if there are such files,
        "sem_seg_file_name" and "instance_file_name".

    Raises:
        UserError: the name is unknown, or the files do not have the layout described above.
    """
    check_registered(name, key)
    dicts = DatasetCatalog.get(name)
    if not dicts:
        raise UserError(f"the dataset {name!r} holds no images: fill it, or name another one{_in_key(key)}.")
    return dicts


def class_names_of(dataset_name: str) -> list[str]:
    """The class names of a registered dataset, in the order of its labels.

    Raises:
        UserError: the dataset is unknown, or was registered without ``stuff_classes``.
    """
    check_registered(dataset_name)
    names = MetadataCatalog.get(dataset_name).get("stuff_classes")
    if not names:
        raise UserError(f"the dataset {dataset_name!r} names no classes: set stuff_classes in its metadata.")
    return list(names)


def ignore_label_of(dataset_name: str) -> int:
    """The label of the pixels that do not count."""
    check_registered(dataset_name)
    return MetadataCatalog.get(dataset_name).get("ignore_label", IGNORE_LABEL)


def check_registered(name: str, key: str = "") -> None:
    """Raise a :class:`UserError` with the closest names if no dataset is called ``name``."""
    known = DatasetCatalog.list()
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=MAX_SUGGESTIONS)
    if close:
        raise UserError(f"there is no dataset {name!r}{_in_key(key)}; close names are {', '.join(close)}.")
    registered = ", ".join(f"{dataset_name}_…" for dataset_name in dict.fromkeys(_REGISTERED))
    raise UserError(
        f"there is no dataset {name!r}{_in_key(key)}; HierVL registers {registered}. A dataset of your own must be "
        "registered by a file that is imported first (docs/extending.md)."
    )


def _in_key(key: str) -> str:
    return f" in {key}" if key else ""


# ---------------------------------------------------------------------------- from files


def dataset_root() -> Path:
    """The folder that holds the datasets' folders."""
    return Path(os.environ.get(ROOT_VARIABLE) or "datasets").expanduser().absolute()


def load_split(dataset: FolderDataset, split: str) -> list[dict]:
    """Dicts of a whole split with labels, sorted by stem. Errors are those of :func:`load_dataset`."""
    folder = _prepare(dataset, split)
    return _labeled_dicts(folder, split, find_images(folder / "images" / split, dataset.remedy))


def load_labeled(dataset: FolderDataset, count: int) -> list[dict]:
    """Dicts of the ``count`` labelled images of ``train``, see :func:`label_split`; only these need labels."""
    folder = _prepare(dataset, "train")
    images = find_images(folder / "images" / "train", dataset.remedy)
    labeled, _ = _label_split(dataset, images, count)
    return _labeled_dicts(folder, "train", {stem: images[stem] for stem in labeled})


def load_unlabeled(dataset: FolderDataset, count: int, inner: bool = False) -> list[dict]:
    """Dicts of the other images than :func:`load_labeled`'s, without labels even if label files exist.

    Args:
        inner: leave out the images of :func:`load_inner_val`.
    """
    folder = _prepare(dataset, "train")
    images = find_images(folder / "images" / "train", dataset.remedy)
    _, unlabeled = _label_split(dataset, images, count)
    held_out = set(_inner_val(dataset, images)) if inner else ()
    return [{"file_name": str(images[stem]), "image_id": stem} for stem in unlabeled if stem not in held_out]


def load_inner_val(dataset: FolderDataset) -> list[dict]:
    """Dicts of the images of ``train`` that are held out for validation. No labelled subset has them."""
    folder = _prepare(dataset, "train")
    images = find_images(folder / "images" / "train", dataset.remedy)
    return _labeled_dicts(folder, "train", {stem: images[stem] for stem in _inner_val(dataset, images)})


def find_images(folder: Path, remedy: str = "") -> dict[str, Path]:
    """Image files of a folder by stem, sorted.

    Raises:
        UserError: the folder is missing or holds no image, or two images share a stem and so a label.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: {remedy or 'put the images there'}.")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise UserError(f"{images[path.stem]} and {path.name} share one label file: remove one of them.")
        images[path.stem] = path
    if not images:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}): {remedy or 'put them there'}.")
    return dict(sorted(images.items()))


def _prepare(dataset: FolderDataset, split: str) -> Path:
    """The dataset's folder. The split is generated if the dataset is generated."""
    folder = dataset_root() / dataset.name
    if dataset.generate is not None:
        try:
            dataset.generate(folder, split)
        except OSError as error:
            raise UserError(
                f"{dataset.name} cannot be written into {folder} ({error.strerror or error}): "
                f"set {ROOT_VARIABLE} to a folder you may write to."
            ) from None
    return folder


def _label_split(dataset: FolderDataset, images: dict[str, Path], count: int) -> tuple[list[str], list[str]]:
    if len(images) < count:
        folder = dataset_root() / dataset.name
        raise UserError(
            f"{folder / 'images' / 'train'} holds {len(images)} images, fewer than the {count} to be labelled."
        )
    return label_split(images, count, dataset.split_seed)


def _inner_val(dataset: FolderDataset, images: dict[str, Path]) -> list[str]:
    """The last images in the order from which labelled subsets take the first; never one of the largest subset."""
    most = max(dataset.label_counts)
    labeled, _ = _label_split(dataset, images, max(most, len(images) - dataset.inner_val))
    return sorted(set(images) - set(labeled))


def _labeled_dicts(folder: Path, split: str, images: dict[str, Path]) -> list[dict]:
    # Listing a folder once is faster than checking every file, especially on network drives.
    labels = _stems(folder / "labels" / split)
    instances = _stems(folder / "instances" / split)
    missing = [stem for stem in images if stem not in labels]
    if missing:
        others = f" (and those of {len(missing) - 1} more images)" if len(missing) > 1 else ""
        raise UserError(
            f"{images[missing[0]]} has no label: {folder / 'labels' / split / missing[0]}.png is missing{others}; "
            "add it, or take the image out."
        )
    dicts = []
    for stem, image in images.items():
        files = {"file_name": str(image), "image_id": stem, "sem_seg_file_name": str(labels[stem])}
        if stem in instances:
            files["instance_file_name"] = str(instances[stem])
        dicts.append(files)
    return dicts


def _stems(folder: Path) -> dict[str, Path]:
    """PNG files of a folder by stem; none if there is no such folder."""
    return {path.stem: path for path in folder.iterdir() if path.suffix == ".png"} if folder.is_dir() else {}
