"""Classes as plain values: what a checkpoint carries and what a class file holds."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiervl.data.classes.definitions import ClassDefinition, distinct_color
from hiervl.utils.files import write_text


def definitions_of(
    class_names: Sequence[str], dataset: str | None = None, background: Sequence[str] = ()
) -> list[ClassDefinition]:
    """Phrases and colours of the classes, from the dataset's metadata where it has the same classes.

    Args:
        class_names: the C classes in the order of their labels.
        dataset: registered name; None, or one that is not registered here: names are phrases, colours are chosen.
        background: names of the classes that are always active.
    """
    metadata = MetadataCatalog.get(dataset) if dataset in DatasetCatalog.list() else None
    names = list(class_names)
    is_same = list(getattr(metadata, "stuff_classes", ())) == names
    phrases = getattr(metadata, "class_phrases", None) if is_same else None
    colors = getattr(metadata, "stuff_colors", None) if is_same else None
    return [
        ClassDefinition(
            name,
            tuple(phrases[index]) if phrases else (name,),
            tuple(int(channel) for channel in colors[index]) if colors else distinct_color(index),
            name in background,
        )
        for index, name in enumerate(names)
    ]


def to_records(definitions: Sequence[ClassDefinition]) -> list[dict]:
    """Plain values, in the keys of a class file."""
    return [
        {
            "name": definition.name,
            "phrases": list(definition.phrases),
            "color": list(definition.color),
            "background": definition.background,
        }
        for definition in definitions
    ]


def from_records(records: Sequence[dict]) -> list[ClassDefinition]:
    """What :func:`to_records` wrote."""
    return [
        ClassDefinition(record["name"], tuple(record["phrases"]), tuple(record["color"]), bool(record["background"]))
        for record in records
    ]


def write_classes(path: Path, definitions: Sequence[ClassDefinition]) -> None:
    """Write a class file that ``read_classes`` reads; the first entry is label 0."""
    text = yaml.safe_dump({"classes": to_records(definitions)}, sort_keys=False, allow_unicode=True)
    write_text(path, text)
