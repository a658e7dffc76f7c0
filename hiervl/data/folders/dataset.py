"""A dataset of the user's own folders, registered in Detectron2 from one YAML or by one call.

Files are read when a dataset is loaded, not when it is registered.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.data import DatasetCatalog

from hiervl.data.classes.class_maps import IGNORED, ClassMap
from hiervl.data.folders.formats.class_layers import IN_ORDER, OVERLAPS
from hiervl.data.folders.formats.label_studio import NEWER_EMPTY, OLDER
from hiervl.data.folders.formats.labelme import OTHER_IMAGE
from hiervl.data.folders.formats.per_class import MISSING
from hiervl.data.folders.formats.source import BEYOND, EXCHANGED, NO_OBJECTS
from hiervl.data.folders.formats.yolo import IN_PIXELS
from hiervl.data.folders.layout import FolderLayout
from hiervl.data.folders.masks import RIMS
from hiervl.data.folders.source import DEFAULT_VAL, FolderSource
from hiervl.data.registered.catalogs import register_in_catalogs, remove_from_catalogs
from hiervl.utils.errors import UserError

_registered: set = set()  # names that this module put into Detectron2's catalogs


class RegisteredNames(NamedTuple):
    """The names of a folder dataset in Detectron2; None for missing parts."""

    train: str
    unlabeled: str | None
    val: str | None
    test: str | None


def register_folder_dataset(
    name: str,
    images: str | Path,
    masks: str | Path,
    classes: str | Path,
    root: str | Path = ".",
    unlabeled: Sequence[str | Path] = (),
    **options,
) -> RegisteredNames:
    """Register a dataset of folders in Detectron2; afterwards its names can stand in ``DATASETS``.

    Args:
        name, images, masks, classes, root, unlabeled, options: see :class:`FolderSource`; ``options`` are
            ``labeled_list``, ``val`` (default: a fraction of 0.2), ``test``, ``mask_values``, ``image_suffix``,
            ``mask_suffix``, ``seed`` and ``cache``.

    Raises:
        UserError: a value is invalid, the class file is wrong, or another dataset has the name.
    """
    options.setdefault("val", DEFAULT_VAL)
    source = FolderSource(
        name, Path(root), str(images), str(masks), Path(classes), tuple(map(str, unlabeled)), **options
    )
    return register_layout(FolderLayout(source))


def register_layout(layout: FolderLayout) -> RegisteredNames:
    """As :func:`register_folder_dataset`. Registering a name again replaces the earlier dataset."""
    source = layout.source
    name = source.name
    names = RegisteredNames(
        f"{name}_train",
        f"{name}_unlabeled" if source.unlabeled or source.labeled_list else None,
        f"{name}_val" if source.val else None,
        f"{name}_test" if source.test else None,
    )
    for split, registered in zip(("train", "unlabeled", "val", "test"), names):
        if registered is not None:
            _register(registered, functools.partial(layout.dicts, split), layout.class_map)
    return names


def _register(name: str, load: Callable[[], Sequence[dict]], class_map: ClassMap) -> None:
    if name in DatasetCatalog.list():
        if name not in _registered:
            raise UserError(f"DATASET.NAME: there is a dataset {name} already: choose another name.")
        remove_from_catalogs(name)
    _registered.add(name)
    register_in_catalogs(name, load, class_map.classes, IGNORED)


def settle_parts(cfg, layout: FolderLayout) -> list[str]:
    """Take empty parts of a dataset out of ``DATASETS``, so that training runs without them.

    Without unlabelled images training is supervised; without validation images nothing is evaluated.

    Returns:
        Sentences on what is missing and the consequences.

    Raises:
        UserError: the dataset cannot be divided, or has only one class, so there is nothing to learn.
    """
    if len(layout.class_map.classes) == 1:
        raise UserError(single_class(layout.class_map.class_names[0]))
    samples = list(layout.division["train"].values())
    train = layout.presence(samples).any(axis=0)
    if train.sum() == 1:
        left_out = [facts.remarks for facts in layout.mask_facts(samples) if not isinstance(facts, UserError)]
        raise UserError(single_class_shown(layout.class_map.class_names[int(train.argmax())], left_out))
    name = layout.source.name
    sentences = []
    if f"{name}_unlabeled" in cfg.DATASETS.UNLABELED and not layout.unlabeled:
        cfg.DATASETS.UNLABELED = tuple(other for other in cfg.DATASETS.UNLABELED if other != f"{name}_unlabeled")
    for split, key in (("val", "VAL"), ("test", "TEST")):
        if f"{name}_{split}" in cfg.DATASETS.TEST and not layout.division[split]:
            cfg.DATASETS.TEST = tuple(other for other in cfg.DATASETS.TEST if other != f"{name}_{split}")
            sentences.append(nothing_left(key))
    if not cfg.DATASETS.UNLABELED:
        cfg.SEMI.ENABLED = False
    return sentences


READ_ALL_THE_SAME = (
    OVERLAPS,
    IN_ORDER,
    IN_PIXELS,
    NO_OBJECTS,
    EXCHANGED,
    BEYOND,
    RIMS,
    MISSING,
    OTHER_IMAGE,
    OLDER,
    NEWER_EMPTY,
)  # remarks on objects that are not left out


def single_class(name: str) -> str:
    """A sentence: there is nothing to learn with a single class."""
    return (
        f"there is a single class ('{name}'), so that every pixel is right: add a class for whatever is not '{name}', "
        "such as `{name: background, background: true}`."
    )


def single_class_shown(name: str, left_out: Iterable[Mapping[str, int]] = ()) -> str:
    """A sentence: only one class is labelled. ``left_out``: problems of objects that are left out, with their numbers,
    for each mask."""
    counts = sum(map(Counter, left_out), Counter())
    for remark in READ_ALL_THE_SAME:
        del counts[remark]
    what = f"all masks together show a single class ('{name}')"
    if counts:
        problems = "; ".join(f"{count} {problem}" for problem, count in sorted(counts.items()))
        return f"{what}, because objects are left out ({problems}): annotate or export them as polygons or masks."
    return f"{what}: check that the masks' values are those of the class file, and label images of other classes."


def nothing_left(key: str) -> str:
    """A sentence, without a full stop: VAL or TEST is empty."""
    why = "no image can be spared from the labelled ones, or its list names none that are left"
    follows = "training is not evaluated and keeps no best checkpoint" if key == "VAL" else "there is no test set"
    return f"DATASET.{key} is empty ({why}): {follows}; label more images, or name a folder of its own"


def register_from_config(cfg) -> FolderLayout:
    """Register the dataset of the section ``DATASET`` and set the keys that follow from it, unless they are set.

    These are ``DATASETS.TRAIN``, ``UNLABELED`` and ``TEST``, the always active classes, and ``SEMI.ENABLED`` off if
    there are no unlabelled images.
    """
    layout = FolderLayout(FolderSource.from_config(cfg))
    names = register_layout(layout)
    cfg.DATASET.ROOT, cfg.DATASET.CLASSES = str(layout.source.root), str(layout.source.classes)  # for config.yaml
    if not cfg.DATASETS.TRAIN:
        cfg.DATASETS.TRAIN = (names.train,)
    if not cfg.DATASETS.UNLABELED and names.unlabeled:
        cfg.DATASETS.UNLABELED = (names.unlabeled,)
    if not cfg.DATASETS.TEST and names.val:
        cfg.DATASETS.TEST = (names.val,)
    if not cfg.DATASETS.UNLABELED:
        cfg.SEMI.ENABLED = False
    background = [definition.name for definition in layout.class_map.classes if definition.background]
    cfg.MODEL.HSQG.ALWAYS_ACTIVE = sorted({*cfg.MODEL.HSQG.ALWAYS_ACTIVE, *background})
    return layout
