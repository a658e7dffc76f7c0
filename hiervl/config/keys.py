"""Dotted config keys, such as "SEMI.EMA_DECAY", in a config node or in the plain values of a YAML file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_REQUIRED = object()
_OF_USER = "__keys_of_user__"


def get_value(settings: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> Any:
    """The value or section under a dotted key.

    Raises:
        KeyError: there is none, and no ``default``.
    """
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            if default is _REQUIRED:
                raise KeyError(key)
            return default
        value = value[part]
    return value


def set_value(settings: Any, key: str, value: Any) -> None:
    """Set a dotted key whose section exists."""
    section, _, name = key.rpartition(".")
    (get_value(settings, section) if section else settings)[name] = value


def nodes(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every section and every value, under its dotted key."""
    if not isinstance(settings, Mapping):
        return
    for name, value in settings.items():
        yield f"{prefix}{name}", value
        yield from nodes(value, f"{prefix}{name}.")


def leaves(settings: Any) -> dict[str, Any]:
    """Every value that is not a section, by its dotted key."""
    return {key: value for key, value in nodes(settings) if not isinstance(value, Mapping)}


def is_below(key: str, sections: Sequence[str]) -> bool:
    """Whether the key is one of the sections or keys, or is inside one of them."""
    return any(key == section or key.startswith(section + ".") for section in sections)


def note_keys_of_user(cfg: Any, keys: Iterable[str]) -> None:
    """Remember the keys that the user has written.

    The note is not part of the settings and is not saved with them. A copy of ``cfg`` has it too. yacs keeps in the
    same way whether a config is frozen.
    """
    cfg.__dict__[_OF_USER] = keys_of_user(cfg).union(keys)


def keys_of_user(cfg: Any) -> frozenset[str]:
    """The keys that the user has written, in files or on the command line."""
    return cfg.__dict__.get(_OF_USER, frozenset())
