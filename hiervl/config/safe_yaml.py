"""YAML from untrusted files: only plain values, and none that expands to gigabytes."""

from typing import Any

import yaml

from hiervl.utils.errors import UserError

# A config has a few hundred nodes, a list of classes a few thousand.
MAX_NODES = 100_000
MAX_BYTES = 4 << 20


def load_yaml(text: Any, source: str) -> Any:
    """The values of a YAML text from an untrusted file. Errors are those of :func:`check_yaml`."""
    if not isinstance(text, str):
        raise UserError(f"{source} holds {type(text).__name__} where a text belongs: it is damaged.")
    check_yaml(text, source)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())[:300]}") from None


def check_yaml(text: str, source: str) -> None:
    """Raise unless the text is YAML of limited size with all its aliases (``*name``) expanded.

    Nine lines with nine aliases each can describe a list of a billion entries, which would fill the memory.

    Args:
        source: the file, for the error message.

    Raises:
        UserError: it is too large, or not YAML.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{source} has {len(text)} characters: that is not a config or class list.")
    try:
        nodes = _count_nodes(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if nodes > MAX_NODES:
        raise UserError(f"{source} expands to more than {MAX_NODES} values through its aliases: write it without them.")


def _count_nodes(text: str) -> int:
    """Number of values in a document. Values behind an alias count every time."""
    open_sizes = [0]  # of the open collections, outermost first
    anchors: dict[str, int] = {}
    names = [None]  # the open collections' anchors
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            open_sizes[-1] += anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            open_sizes[-1] += 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            names.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = open_sizes.pop(), names.pop()
            open_sizes[-1] += size
            if name:
                anchors[name] = size
        if max(open_sizes) > MAX_NODES:
            return MAX_NODES + 1
    return open_sizes[0]
