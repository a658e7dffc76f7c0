"""Read lists of classes from exports of annotation tools as entries of a class file.

* Roboflow's ``_classes.csv``: a mask value and a name per line, below a heading.
* ``labelmap.txt`` of VOC masks, as CVAT writes it: ``name:red,green,blue:parts:actions`` per line.
* ``class_names.txt``, ``classes.txt``, ``labels.txt``: a name per line; its label is the line's number from 0.
  labelme's ``__ignore__`` does not count and takes no number.
* YOLO's ``data.yaml``: ``names`` of objects, as a list or by number; a background is added in front.
* Supervisely's ``meta.json``: names and colours of objects; a background is added in front.

An entry whose name is ``background`` or labelme's ``_background_`` is the background.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from hiervl.config.safe_yaml import load_yaml
from hiervl.utils.errors import UserError

LIST_SUFFIXES = (".csv", ".txt", ".names", ".json")
BACKGROUNDS = ("background", "_background_", "__background__")
IGNORE_NAME = "__ignore__"
IGNORED = 255
BACKGROUND_ENTRY = {"name": "background", "background": True}


def is_class_list(path: Path) -> bool:
    """Whether the file is a list of classes, by its suffix. For YAML files use :func:`entries_of_yaml`."""
    return path.suffix.lower() in LIST_SUFFIXES


def read_class_list(path: Path, text: str) -> list[dict[str, Any]]:
    """Entries of a class file, from the text of such a list.

    Raises:
        UserError: it is not such a list.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            return _with_background([
                {"name": str(entry["title"]), **_hex_color(entry.get("color"))} for entry in json.loads(text)["classes"]
            ])  # fmt: skip
        if suffix == ".csv":
            rows = list(csv.reader(io.StringIO(text), skipinitialspace=True))
            if not rows or [cell.strip().casefold() for cell in rows[0][:2]] != ["pixel value", "class"]:
                raise ValueError("its first line is not 'Pixel Value, Class'")
            return [_marked({"name": row[1].strip(), "label": int(row[0])}) for row in rows[1:] if row]
        if lines and (lines[0].startswith("# label:color_rgb") or all(line.count(":") == 3 for line in lines)):
            return [_marked(_labelmap_entry(line)) for line in lines if not line.startswith("#")]
        names = [line for line in lines if line != IGNORE_NAME]
        ignored = [{"name": IGNORE_NAME, "label": IGNORED, "ignore": True}] if IGNORE_NAME in lines else []
        return [_marked({"name": name, "label": number}) for number, name in enumerate(names)] + ignored
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UserError(
            f"the class file {path} is not a known list of classes ({' '.join(str(error).split())}): write a YAML "
            "file with an entry per class (docs/data.md)."
        ) from None


def entries_of_yaml(content: Any) -> list[dict[str, Any]] | None:
    """Entries of a class file, from the content of YOLO's ``data.yaml``; None for other YAML."""
    names = content.get("names") if isinstance(content, dict) and "classes" not in content else None
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names)]
    return _with_background([{"name": str(name)} for name in names]) if isinstance(names, list) and names else None


def read_class_names(path: Path) -> list[dict[str, Any]]:
    """As :func:`read_class_list` and :func:`entries_of_yaml`, for a file of either kind.

    Raises:
        UserError: it cannot be read or is not such a list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the class file {path} cannot be read ({' '.join(str(error).split())}).") from None
    if is_class_list(path):
        return read_class_list(path, text)
    entries = entries_of_yaml(load_yaml(text, f"the class file {path}"))
    if entries is None:
        raise UserError(f"the class file {path} has no list 'names'.")
    return entries


def _labelmap_entry(line: str) -> dict[str, Any]:
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


def _hex_color(text: Any) -> dict[str, list[int]]:
    if not isinstance(text, str) or len(text) != 7 or not text.startswith("#"):
        return {}
    return {"color": [int(text[place : place + 2], 16) for place in (1, 3, 5)]}
