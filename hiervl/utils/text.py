"""Words for messages."""

from collections.abc import Sequence

MOST_CHARACTERS = 200  # of what a library says
# PyTorch's errors about weights go on to advise loading them in a way that runs their code.
UNSAFE_ADVICE = ("weights_only", "Weights only", "trusted")


def listed(names: Sequence[object], most: int = 5) -> str:
    """Names for a sentence, perhaps shortened: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def reason_of(error: Exception) -> str:
    """What a library says of its failure, on one line, for the parentheses of a message."""
    text = " ".join(str(error).split())
    if not text or any(words in text for words in UNSAFE_ADVICE):
        return type(error).__name__
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS].rstrip()} …"
