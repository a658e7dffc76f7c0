"""The page's table of classes: what is sent to the browser, and what comes back, which is not trusted."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.utils.errors import UserError

SEPARATOR = ";"  # between the phrases of a class
MAX_CLASSES = 1000
MAX_PHRASES = 4000  # of all classes together
MAX_TEXT = 200  # characters of a name or a phrase

Row = dict[str, Any]


class ChosenClasses(NamedTuple):
    """The content of a table."""

    classes: tuple[ClassDefinition, ...]
    shown: tuple[bool, ...]  # of every class, whether its mask is drawn


def rows_of(classes: Sequence[ClassDefinition]) -> list[Row]:
    """The table of these classes, all shown."""
    return [
        {
            "show": True,
            "color": "#{:02x}{:02x}{:02x}".format(*definition.color),
            "name": definition.name,
            "phrases": f"{SEPARATOR} ".join(definition.phrases),
            "background": definition.background,
        }
        for definition in classes
    ]


def read_rows(rows: Any) -> ChosenClasses:
    """The classes in a table from a browser. Rows without a name are left out.

    Raises:
        UserError: it has no class, a class twice, too much content, or content of a wrong kind.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError("the table of classes is damaged: reload the page.")
    rows = [row for row in rows if str(row.get("name", "")).strip()]
    if not rows:
        raise UserError("at least one class is needed.")
    if len(rows) > MAX_CLASSES:
        raise UserError(f"the page takes at most {MAX_CLASSES} classes, not {len(rows)}.")
    classes = tuple(map(_class_of_row, rows))
    names = [definition.name for definition in classes]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"'{doubled}' is there twice: rename one of the two.")
    if sum(len(definition.phrases) for definition in classes) > MAX_PHRASES:
        raise UserError(f"the page takes at most {MAX_PHRASES} phrases.")
    return ChosenClasses(classes, tuple(row.get("show") is True for row in rows))


def _class_of_row(row: Row) -> ClassDefinition:
    texts = [str(row["name"]), *str(row.get("phrases", "")).split(SEPARATOR)]
    name, *others = (" ".join(text.split()) for text in texts)
    phrases = tuple(phrase for phrase in others if phrase) or (name,)
    longest = max((name, *phrases), key=len)
    if len(longest) > MAX_TEXT:
        raise UserError(f"'{longest[:30]}…' is longer than {MAX_TEXT} characters: shorten it.")
    color = str(row.get("color", ""))
    if not re.fullmatch("#[0-9a-fA-F]{6}", color):
        raise UserError(f"the colour of '{name}' is #rrggbb, not '{color[:30]}'.")
    rgb = (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))
    return ClassDefinition(name, phrases, rgb, row.get("background") is True)
