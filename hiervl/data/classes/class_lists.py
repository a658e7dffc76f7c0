"""Lists of classes that come with exports or were typed in other programs, read as the entries of a class file.

* Tables (``.csv``, ``.tsv``): a column of names (``name``, ``class``, ``label`` …), perhaps one of mask values (``Pixel
  Value``, ``id``, ``index`` …) and colours (``r``, ``g``, ``b``, or one column of ``#rrggbb`` or ``200,0,0``), with
  commas, semicolons or tabs between. Roboflow's ``_classes.csv`` and Kaggle's ``class_dict.csv`` are such tables.
* ``labelmap.txt`` of VOC masks, as CVAT writes it: ``name:red,green,blue:parts:actions`` per line.
* ``class_names.txt``, ``classes.txt``, ``labels.txt``: a name a line, whose label is the line's number from 0, or a
  number and a name. labelme's ``__ignore__`` does not count and takes no number. Nor do comments (``# …``).
* JSON and YAML: names in order, names by number, numbers by name, or an object per class with its name, number and
  colour, at the top or under ``classes``, ``categories`` or ``labels``.
* YOLO's ``data.yaml``: ``names`` of objects, as a list or by number; a background is added in front.
* Supervisely's ``meta.json``: names and colours of objects; a background is added in front.

An entry whose name is ``background`` or labelme's ``_background_`` is the background.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hiervl.config.safe_yaml import load_yaml
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text

TABLE_SUFFIXES = (".csv", ".tsv")
LIST_SUFFIXES = (*TABLE_SUFFIXES, ".txt", ".names", ".json")
SHEET_SUFFIXES = (".xlsx", ".xls", ".ods", ".numbers")
# Files of these names are lists of classes, whatever they hold; those of others are recognised by their content.
LIST_NAMES = (
    "class_names.txt", "classes.txt", "labels.txt", "label_names.txt", "obj.names", "classes.names", "class_dict.csv",
    "classes.csv", "labels.csv", "classes.json", "class_names.json", "labels.json", "id2label.json", "label2id.json",
)  # fmt: skip
BACKGROUNDS = ("background", "_background_", "__background__")
IGNORE_NAME = "__ignore__"
IGNORED = 255
BACKGROUND_ENTRY = {"name": "background", "background": True}

# Headings of columns and keys of objects, without capitals and separators.
NAME_KEYS = ("name", "classname", "labelname", "title", "class", "label", "category")
VALUE_KEYS = ("pixelvalue", "value", "id", "index", "classid", "labelid", "classindex", "number", "label", "class")
COLOR_KEYS = ("color", "colour", "rgb", "colorrgb", "hex")
CHANNEL_KEYS = (("r", "red"), ("g", "green"), ("b", "blue"))
STARTS_WITH_COLOR = re.compile(r"#[0-9a-fA-F]{6}(?![\w-])")
NUMBERED = re.compile(r"(\d+)\s*(?:[:;,=\t]|\s)\s*(\S.*)")  # a line of a number and a name


def is_class_list(path: Path) -> bool:
    """Whether the file is a list of classes, by its suffix. For YAML files use :func:`entries_of_yaml`."""
    return path.suffix.lower() in LIST_SUFFIXES


def read_class_list(path: Path, text: str) -> list[dict[str, Any]]:
    """Entries of a class file, from the text of such a list.

    Raises:
        UserError: it is not such a list.
    """
    is_labelmap = "# label:color_rgb" in text
    lines = list_lines(text)
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            return _entries_from_content(json.loads(text))
        if suffix in TABLE_SUFFIXES:
            return _entries_from_table(text)
        if lines and (is_labelmap or all(line.count(":") == 3 for line in lines)):
            return [_marked(_entry_from_labelmap(line)) for line in lines]
        numbered = [NUMBERED.fullmatch(line) for line in lines]
        if lines and all(numbered):
            return _by_number({int(found[1]): found[2] for found in numbered if found}, len(lines))
        names = [line for line in lines if line != IGNORE_NAME]
        ignored = [{"name": IGNORE_NAME, "label": IGNORED, "ignore": True}] if IGNORE_NAME in lines else []
        return [_marked({"name": name, "label": number}) for number, name in enumerate(names)] + ignored
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(
            f"the class file {path} is not a known list of classes ({' '.join(str(error).split())}): write a YAML "
            "file with an entry per class (docs/data.md)."
        ) from None


def list_lines(text: str) -> list[str]:
    """The lines of a list in a text file, without empty ones and comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not _is_comment(line)]


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#") and not STARTS_WITH_COLOR.match(line.strip())


def entries_of_yaml(content: Any) -> list[Any] | None:
    """Entries of a class file, from the content of a YAML that is not a class file but lists classes: YOLO's
    ``data.yaml``, or a list or mapping alone; None: it is another YAML."""
    if isinstance(content, list):
        only_names = all(isinstance(entry, str) for entry in content)
        return (_in_order(content) if only_names else content) or None  # else the entries themselves
    if not isinstance(content, dict) or "classes" in content:
        return None
    names = content.get("names")
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names)]
    if isinstance(names, list) and names:
        is_export = bool(content.keys() & {"nc", "train", "val", "test", "path"})  # whose names are those of objects
        return _with_background([{"name": str(name)} for name in names]) if is_export else _in_order(names)
    try:
        return _entries_from_mapping(content)
    except (ValueError, TypeError, KeyError):
        return None


def has_entries(path: Path) -> bool:
    """Whether a class file is a YAML of entries, to which keys such as ``ignore`` can be added, not another list."""
    if is_class_list(path):
        return False
    content = load_yaml(read_list_text(path), f"the class file {path}")
    return isinstance(content, list) or (isinstance(content, dict) and isinstance(content.get("classes"), list))


def read_class_names(path: Path) -> list[dict[str, Any]]:
    """As :func:`read_class_list` and :func:`entries_of_yaml`, for a file of either kind.

    Raises:
        UserError: it cannot be read or is not such a list.
    """
    text = read_list_text(path)
    if is_class_list(path):
        return read_class_list(path, text)
    entries = entries_of_yaml(load_yaml(text, f"the class file {path}"))
    if entries is None:
        raise UserError(f"the class file {path} has no list 'names'.")
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


def read_list_text(path: Path) -> str:
    """The text of a class file or list.

    Raises:
        UserError: it cannot be read or is not text, such as a workbook.
    """
    if path.suffix.lower() in SHEET_SUFFIXES:
        raise UserError(f"the class file {path} is a spreadsheet: save it as CSV, with a column of names.")
    try:
        return read_text(path)
    except OSError as error:
        raise UserError(f"the class file {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the class file {path} is not text: {error}") from None


# ---------------------------------------------------------------------------- tables


def _entries_from_table(text: str) -> list[dict[str, Any]]:
    """Rows below a heading, without comments."""
    lines = text.strip().splitlines(keepends=True)
    while len(lines) > 1 and _is_comment(lines[0]) and not any(c in lines[0] for c in ",;\t"):  # else "#,name" heads
        lines = lines[1:]
    text = "".join([lines[0], *(line for line in lines[1:] if not _is_comment(line))]) if lines else ""
    heading = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=heading.count)
    rows = list(csv.reader(io.StringIO(text.strip()), delimiter=separator, skipinitialspace=True))
    keys = [plain_name(cell) for cell in rows[0]]
    entries = []
    for row in rows[1:]:
        cells = {key: cell.strip() for key, cell in zip(keys, row) if key}
        if any(cells.values()):
            entries.append(_entry(cells))
    if not entries or not any(key in NAME_KEYS for key in keys):
        raise ValueError(f"a table needs a heading with a column of names, such as 'name', but has {heading.strip()!r}")
    return entries


def _entry(cells: Mapping[str, Any]) -> dict[str, Any]:
    """A class from what its row or object says, by plain keys.

    Raises:
        KeyError, ValueError: it has no name, or no number where one is expected.
    """
    named = [key for key in NAME_KEYS if _is_text(cells.get(key))]
    if not named:
        raise ValueError("an entry has no name")
    entry: dict[str, Any] = {"name": cells[named[0]].strip()}
    for key in VALUE_KEYS:
        value = cells.get(key)
        if key not in named[:1] and (type(value) is int or (isinstance(value, str) and value.strip().isdecimal())):
            entry["label"] = int(value)
            break
    return _marked({**entry, **_color(cells)})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not value.strip().isdecimal()


def _color(cells: Mapping[str, Any]) -> dict[str, list[int]]:
    """``color`` of a row or object, where it has one."""
    channels = [next((cells[key] for key in keys if key in cells), None) for keys in CHANNEL_KEYS]
    value = next((cells[key] for key in COLOR_KEYS if cells.get(key)), None)
    if isinstance(value, str) and (found := re.fullmatch(r"#?([0-9a-fA-F]{6})", value.strip())):
        return {"color": [int(found[1][place : place + 2], 16) for place in (0, 2, 4)]}
    if isinstance(value, str):
        value = re.findall(r"\d+", value)
    if isinstance(value, (list, tuple)) and len(value) >= 3:
        channels = list(value[:3])
    given = [channel for channel in channels if channel not in (None, "")]
    return {"color": [int(channel) for channel in given]} if given and len(given) == len(channels) else {}


def plain_name(key: Any) -> str:
    """Without capitals and separators."""
    return re.sub(r"[\W_]+", "", str(key)).casefold()


# ---------------------------------------------------------------------------- JSON and YAML


def _entries_from_content(content: Any) -> list[dict[str, Any]]:
    """Of JSON in any of the shapes that this module knows."""
    if isinstance(content, dict):
        for key in ("classes", "categories", "labels", "names"):
            if isinstance(content.get(key), (list, dict)):
                entries = _entries_from_content(content[key])
                is_supervisely = key == "classes" and any("title" in entry for entry in content[key])
                return _with_background(entries) if is_supervisely else entries
        return _entries_from_mapping(content)
    if not isinstance(content, list) or not content:
        raise ValueError("it holds no list of names")
    if all(isinstance(name, str) for name in content):
        return _in_order(content)
    if not all(isinstance(entry, dict) for entry in content):
        raise ValueError("it holds more than names and classes")
    return [_entry({plain_name(key): value for key, value in entry.items()}) for entry in content]


def _entries_from_mapping(content: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Names by number, or numbers by name.

    Raises:
        ValueError, TypeError: it is neither.
    """
    numbers = [str(key).strip() for key in content]
    if content and all(number.isdecimal() for number in numbers):
        return _by_number({int(number): str(name) for number, name in zip(numbers, content.values())}, len(content))
    if content and all(type(value) is int for value in content.values()):
        return _by_number({number: str(name) for name, number in content.items()}, len(content))
    raise ValueError("neither names by number nor numbers by name")


def _by_number(names: Mapping[int, str], count: int) -> list[dict[str, Any]]:
    """
    Raises:
        ValueError: a number occurs twice.
    """
    if len(names) < count:
        raise ValueError("a number occurs twice")
    return [_marked({"name": names[number].strip(), "label": number}) for number in sorted(names)]


def _in_order(names: Sequence[Any]) -> list[dict[str, Any]]:
    return [_marked({"name": str(name), "label": number}) for number, name in enumerate(names)]


# ---------------------------------------------------------------------------- parts


def _entry_from_labelmap(line: str) -> dict[str, Any]:
    name, color = line.split(":")[:2]
    entry: dict[str, Any] = {"name": name.strip()}
    if color.strip():
        entry["color"] = [int(channel) for channel in color.split(",")]
    return entry


def _marked(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "background": True} if entry["name"].casefold() in BACKGROUNDS else entry


def _with_background(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For lists of objects: add a class for pixels that no object covers."""
    entries = [_marked(entry) for entry in entries]
    return entries if any("background" in entry for entry in entries) else [dict(BACKGROUND_ENTRY), *entries]
