"""From values and colours of a user's masks to class labels: the long form of a class file.

Besides the keys of :mod:`hiervl.data.classes.definitions` an entry may have

* ``label``: the mask value (or a list of values) of the class; default: the entry's place in the file, from 0;
* ``ignore: true``: this entry is not a class, and its pixels do not count;
* ``merge_into: NAME``: pixels of this entry belong to the class NAME; its ``phrases``, if given, are added to NAME's.
* ``mask_name``: if every class has its own masks, the part of their file names, or their folder; default: the entry's
  name.

``color`` is both the colour in pictures and, in RGB masks, the colour that stands for the entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hiervl.data.classes.definitions import KEYS, ClassDefinition, check_names, class_of_entry, read_entries
from hiervl.utils.errors import UserError

IGNORED = 255  # in the label maps made from masks
MAX_CLASSES = 255
LONG_KEYS = (*KEYS, "label", "ignore", "merge_into", "mask_name")

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassMap:
    """The classes of a dataset and their values and colours in masks.

    Attributes:
        classes: the learnt classes, in the order of their labels 0 … C-1.
        values: label of every mask value in the class file; ``IGNORED`` if it does not count.
        colors: label of every colour (RGB) in the class file.
        names: label of every entry's name, for the categories of COCO files.
        uncolored: entries without a colour; RGB masks cannot show them.
        path: the class file.
        mask_names: entry's name for every ``mask_name`` in the class file.
    """

    classes: tuple[ClassDefinition, ...]
    values: dict[int, int]
    colors: dict[Color, int]
    names: dict[str, int]
    uncolored: tuple[str, ...]
    path: Path
    mask_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        return [definition.name for definition in self.classes]

    @property
    def background(self) -> int | None:
        """Label of the first background class, if there is one."""
        return next((label for label, definition in enumerate(self.classes) if definition.background), None)

    @property
    def is_identity(self) -> bool:
        """Whether mask values are the labels themselves (and 255 does not count)."""
        expected = {label: label for label in range(len(self.classes))}
        return {value: label for value, label in self.values.items() if value != IGNORED} == expected and (
            self.values.get(IGNORED, IGNORED) == IGNORED
        )

    def known_values(self) -> dict[int, int]:
        """``values``, and 255 ignored unless the class file says otherwise."""
        return {IGNORED: IGNORED, **self.values}


def read_class_map(path: str | Path) -> ClassMap:
    """Read a class file in its long form.

    Raises:
        UserError: the file is missing or not YAML, an entry is wrong, or two entries have the same mask value or
            colour.
    """
    path = Path(path)
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in read_entries(path)]
    definitions = [class_of_entry(entry, index, path, LONG_KEYS) for index, entry in enumerate(entries)]
    check_names([definition.name for definition in definitions], path)
    for entry in entries:
        _check_flags(entry, path)
    learnt = [index for index, entry in enumerate(entries) if not entry.get("ignore") and "merge_into" not in entry]
    if not learnt:
        raise UserError(f"the class file {path} leaves no class to learn: every entry is ignored or merged.")
    if len(learnt) > MAX_CLASSES:
        raise UserError(f"the class file {path} has {len(learnt)} classes; at most {MAX_CLASSES} are possible.")
    _require_one_background([definitions[index] for index in learnt], path)
    labels = {definitions[index].name: label for label, index in enumerate(learnt)}
    classes = [definitions[index] for index in learnt]
    names: dict[str, int] = {}
    for entry, definition in zip(entries, definitions):
        label = _label_of(entry, definition.name, labels, path)
        names[definition.name] = label
        if "merge_into" in entry and "phrases" in entry:
            target = classes[label]
            more = tuple(phrase for phrase in definition.phrases if phrase not in target.phrases)
            classes[label] = replace(target, phrases=target.phrases + more)
    colored = [
        (definition.color, definition.name) for entry, definition in zip(entries, definitions) if "color" in entry
    ]
    values = [
        (value, definition.name)
        for index, (entry, definition) in enumerate(zip(entries, definitions))
        for value in _values_of(entry, index, path)
    ]
    return ClassMap(
        tuple(classes),
        _unique(values, names, "the label", path),
        _unique(colored, names, "the colour", path),
        names,
        tuple(definition.name for entry, definition in zip(entries, definitions) if "color" not in entry),
        path,
        _mask_names(entries, path),
    )


def _check_flags(entry: dict, path: Path) -> None:
    name = entry["name"]
    if not isinstance(entry.get("ignore", False), bool):
        raise UserError(f"the class file {path}: 'ignore' of '{name}' is true or false, not {entry['ignore']!r}.")
    if entry.get("ignore") and "merge_into" in entry:
        raise UserError(f"the class file {path}: '{name}' is both ignored and merged; keep one of the two.")
    if entry.get("ignore") and entry.get("background"):
        raise UserError(
            f"the class file {path}: '{name}' is both ignored and the background; keep `background: true` if it is a "
            "class, `ignore: true` if its pixels do not count."
        )


def _require_one_background(definitions: Sequence[ClassDefinition], path: Path) -> None:
    names = [definition.name for definition in definitions if definition.background]
    if len(names) > 1:
        raise UserError(
            f"the class file {path}: {', '.join(repr(name) for name in names)} are all the background; keep "
            "`background: true` at one of them."
        )


def _label_of(entry: dict, name: str, labels: dict[str, int], path: Path) -> int:
    if entry.get("ignore"):
        return IGNORED
    if "merge_into" not in entry:
        return labels[name]
    if entry["merge_into"] not in labels:
        raise UserError(
            f"the class file {path}: '{name}' is merged into '{entry['merge_into']}', which is not a class; "
            f"the classes are {', '.join(labels)}."
        )
    return labels[entry["merge_into"]]


def _mask_names(entries: Sequence[dict], path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        mask_name = entry.get("mask_name", "")
        if "mask_name" in entry and (not isinstance(mask_name, str) or not mask_name.strip(" _-./")):
            raise UserError(
                f"the class file {path}: 'mask_name' of '{entry['name']}' is the end of file names or a folder, such "
                f"as _red, not {mask_name!r}."
            )
        if mask_name and found.setdefault(mask_name, entry["name"]) != entry["name"]:
            raise UserError(
                f"the class file {path}: '{found[mask_name]}' and '{entry['name']}' both have the mask_name "
                f"{mask_name}."
            )
    return found


def _values_of(entry: dict, index: int, path: Path) -> list[int]:
    values = entry.get("label", index)
    values = values if isinstance(values, list) else [values]
    if not values or not all(type(value) is int and value >= 0 for value in values):
        raise UserError(
            f"the class file {path}: 'label' of '{entry['name']}' is a mask value from 0 on, or a list of them, "
            f"not {entry['label']!r}."
        )
    return values


def _unique(pairs: Sequence[tuple], names: dict[str, int], what: str, path: Path) -> dict:
    """Label of each key. Raises if one key has two labels."""
    owner: dict = {}
    for key, name in pairs:
        if names[owner.setdefault(key, name)] != names[name]:
            shown = list(key) if isinstance(key, tuple) else key
            raise UserError(f"the class file {path}: '{owner[key]}' and '{name}' both have {what} {shown}.")
    return {key: names[name] for key, name in owner.items()}
