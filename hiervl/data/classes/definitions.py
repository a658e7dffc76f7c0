"""The classes of a dataset, read from a YAML file: names, phrases for CLIP, colours."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiervl.config.files import SHIPPED
from hiervl.config.safe_yaml import load_yaml
from hiervl.data.classes.class_lists import entries_of_yaml, is_class_list, read_class_list, read_list_text
from hiervl.utils.errors import UserError

CLASS_FILES = SHIPPED / "classes"  # class files of the datasets that HierVL registers itself
KEYS = ("name", "phrases", "color", "background")
BACKGROUND_COLOR = (128, 128, 128)  # grey, so that overlays do not tint the surroundings of objects
GOLDEN_RATIO = 0.618033988749895  # golden ratio: steps of this share of the colour circle stay away from earlier ones


@dataclass(frozen=True)
class ClassDefinition:
    """One class.

    Attributes:
        name: shown in tables and legends.
        phrases: names or descriptions for CLIP; the best phrase counts.
        color: RGB in pictures.
        background: the class of all pixels that belong to no other class; always active.
    """

    name: str
    phrases: tuple[str, ...]
    color: tuple[int, int, int]
    background: bool = False


def read_classes(path: str | Path) -> list[ClassDefinition]:
    """The classes of a YAML file ``classes: [{name, phrases, color, background}, …]``, in the order of the labels.

    Only ``name`` is needed; an entry may also be the bare name.

    Raises:
        UserError: the file is missing, not YAML, or an entry is wrong.
    """
    path = Path(path)
    classes = [class_of_entry(entry, index, path) for index, entry in enumerate(read_entries(path))]
    check_names([definition.name for definition in classes], path)
    return classes


def read_entries(path: Path) -> list:
    """The list ``classes`` of a YAML file, unchanged, or a list of classes from an export.

    Errors as :func:`read_classes`.
    """
    text = read_list_text(path)
    if is_class_list(path):
        return read_class_list(path, text)
    content = load_yaml(text, f"the class file {path}")
    listed = entries_of_yaml(content)
    if listed is not None:
        return listed
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"the class file {path} needs a list 'classes' with an entry per class.")
    return entries


def check_names(names: Sequence[str], path: Path) -> None:
    """Refuse names that occur twice, because results are listed by name."""
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"the class file {path} names '{doubled}' twice.")


def distinct_color(index: int) -> tuple[int, int, int]:
    """The default colour (RGB, 0…255) of the class ``index``. Neighbouring classes have very different hues."""
    value = (0.95, 0.65, 0.8)[index % 3]
    r, g, b = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1.0, 0.75, value)
    return round(255 * r), round(255 * g), round(255 * b)


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """Default colours for ``count`` classes."""
    return [distinct_color(index) for index in range(count)]


def class_of_entry(entry, index: int, path: Path, keys: Sequence[str] = KEYS) -> ClassDefinition:
    """The class that an entry of a class file defines.

    Args:
        index: the entry's place in the file, for its colour and the error message.
        keys: the allowed keys of an entry; for keys that this module does not know, only the name is checked.
    """
    where = f"the class file {path}, entry {index + 1}"
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise UserError(f"{where}: it needs a 'name' that is text (quote names like yes, no or 1).")
    if len(entry["name"].splitlines()) > 1:
        raise UserError(f"{where}: its 'name' has several lines ({entry['name']!r}): write one.")
    unknown = sorted(set(map(str, entry)) - set(keys))
    if unknown:
        raise UserError(f"{where} ('{entry['name']}'): there is no key '{unknown[0]}'; the keys are {', '.join(keys)}.")
    phrases = entry.get("phrases", [entry["name"]])
    phrases = [phrases] if isinstance(phrases, str) else phrases
    if not isinstance(phrases, list) or not phrases or not all(isinstance(p, str) and p.strip() for p in phrases):
        raise UserError(f"{where} ('{entry['name']}'): 'phrases' is a list of texts, not {phrases!r}.")
    background = entry.get("background", False)
    color = entry.get("color", BACKGROUND_COLOR if background is True else distinct_color(index))
    is_list = isinstance(color, (list, tuple)) and len(color) == 3
    if not is_list or not all(type(channel) is int and 0 <= channel <= 255 for channel in color):
        raise UserError(f"{where} ('{entry['name']}'): 'color' is [red, green, blue] of 0 to 255, not {color!r}.")
    if not isinstance(background, bool):
        raise UserError(f"{where} ('{entry['name']}'): 'background' is true or false, not {background!r}.")
    return ClassDefinition(entry["name"], tuple(phrases), tuple(color), background)
