"""Configs that an older version of HierVL saved: what it computed without a key that it did not know."""

from typing import Any

# Keys that came later -> the value that stands for what was computed before, where that is not the default.
BEFORE: dict[tuple[str, ...], Any] = {("MODEL", "CLIP", "DENSE"): "value"}
# Detectron2's own sections are in every config that a run saved, and in none that a person wrote for HierVL.
ONLY_SAVED = "RPN"


def with_older_meaning(settings: Any) -> Any:
    """``settings`` of a file, and, where a run saved them, the values of :data:`BEFORE` for the keys that they lack.

    Without that, an old network would go on with another dense embedding than it has learnt from.
    """
    if not isinstance(settings, dict) or not isinstance(settings.get("MODEL"), dict):
        return settings
    if ONLY_SAVED not in settings["MODEL"]:
        return settings
    for (*sections, key), value in BEFORE.items():
        node: Any = settings
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(key, value)
    return settings
