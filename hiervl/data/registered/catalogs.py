"""Datasets and their classes in Detectron2's catalogs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from detectron2.data import DatasetCatalog, MetadataCatalog

from hiervl.data.classes.definitions import ClassDefinition, distinct_color

IGNORE_LABEL = 255


def register_in_catalogs(
    name: str,
    load: Callable[[], Sequence[dict]],
    classes: Sequence[ClassDefinition],
    ignore_label: int = IGNORE_LABEL,
) -> None:
    """Register a dataset with its classes. Detectron2's lists are derived from them.

    Args:
        name: not yet in the catalogs.
        load: returns the dataset's dicts.
        classes: in the order of the labels; also kept as the metadata's ``class_definitions``.
        ignore_label: label of the pixels that do not count.
    """
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        class_definitions=tuple(classes),
        stuff_classes=[definition.name for definition in classes],
        stuff_colors=[list(definition.color) for definition in classes],
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
    )


def remove_from_catalogs(name: str) -> None:
    """Remove a registered dataset and its classes."""
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def registered_classes(name: str) -> list[ClassDefinition]:
    """The classes of a registered dataset; empty if its metadata has no ``stuff_classes``.

    A dataset that was registered without HierVL has names, and maybe ``stuff_colors``. Then the names are the phrases.
    """
    metadata = MetadataCatalog.get(name)
    names = list(metadata.get("stuff_classes", None) or ())
    definitions = metadata.get("class_definitions", ())
    if [definition.name for definition in definitions] == names:
        return list(definitions)
    colors = metadata.get("stuff_colors", None) or [distinct_color(index) for index in range(len(names))]
    return [
        ClassDefinition(name, (name,), (int(red), int(green), int(blue)))
        for name, (red, green, blue) in zip(names, colors)
    ]


def definitions_of(
    class_names: Sequence[str], dataset: str | None = None, background: Sequence[str] = ()
) -> list[ClassDefinition]:
    """The classes of a network, as the dataset defines them if it has the same classes.

    Args:
        class_names: the C classes in the order of their labels.
        dataset: registered name; if it is None or not registered here, names are phrases and colours are chosen.
        background: names of the classes that are always active.
    """
    names = list(class_names)
    known = registered_classes(dataset) if dataset is not None and dataset in DatasetCatalog.list() else []
    if [definition.name for definition in known] != names:
        known = [ClassDefinition(name, (name,), distinct_color(index)) for index, name in enumerate(names)]
    return [replace(definition, background=definition.name in background) for definition in known]
