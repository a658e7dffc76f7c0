"""Words for messages."""

import textwrap
from collections.abc import Sequence

REASON = 200  # characters
UNSAFE_ADVICE = "Weights only load failed"  # PyTorch then goes on to advise loading the file in a way that runs code


def listed(names: Sequence[object], most: int = 5) -> str:
    """Names for a sentence, perhaps shortened: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def reason_of(error: Exception) -> str:
    """What a library says of its failure, on one line, for the parentheses of a message."""
    text = "" if UNSAFE_ADVICE in str(error) else textwrap.shorten(str(error), REASON, placeholder=" …")
    return text or type(error).__name__
