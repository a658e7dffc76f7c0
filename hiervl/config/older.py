"""Configs that an older version of HierVL saved: they keep the meaning that they had without newer keys."""

from typing import Any

# Newer keys → the value for what was computed before, if that is not the default.
BEFORE: dict[tuple[str, ...], Any] = {("MODEL", "CLIP", "DENSE"): "value"}
# Every config that a run saved has Detectron2's own sections; configs that people write for HierVL do not.
ONLY_SAVED = "RPN"


def with_older_meaning(settings: Any) -> Any:
    """``settings`` of a file. If a run saved them, missing keys get the values of :data:`BEFORE`.

    Without that, an old network would get another dense embedding than the one it was trained with.
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
