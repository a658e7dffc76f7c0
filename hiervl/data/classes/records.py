"""Classes as plain values, for checkpoints and class files."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.utils.files import write_text


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
    """The classes from the plain values of :func:`to_records`."""
    return [
        ClassDefinition(record["name"], tuple(record["phrases"]), tuple(record["color"]), bool(record["background"]))
        for record in records
    ]


def write_classes(path: Path, definitions: Sequence[ClassDefinition]) -> None:
    """Write a class file that ``read_classes`` reads; the first entry is label 0."""
    text = yaml.safe_dump({"classes": to_records(definitions)}, sort_keys=False, allow_unicode=True)
    write_text(path, text)
