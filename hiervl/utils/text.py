"""Words for messages."""

from collections.abc import Sequence


def listed(names: Sequence[object], most: int = 5) -> str:
    """Names for a sentence, perhaps shortened: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
