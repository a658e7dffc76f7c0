"""Choose which images of a dataset are labelled."""

import random
from collections.abc import Iterable


def label_split(names: Iterable[str], count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Choose ``count`` labelled images. The rest is unlabelled.

    The sorted names are shuffled by ``random.Random(seed)`` and the first ``count`` taken. So the choice depends on
    the names alone, not on their order, and a smaller split is part of every larger one.

    Args:
        names: names of the images, each once.
        count: number of labelled images, at most the number of names.

    Returns:
        The labelled and the unlabelled names, both sorted.

    Raises:
        ValueError: ``count`` is negative or exceeds the number of names, or a name occurs twice.
    """
    shuffled = sorted(names)
    if len(set(shuffled)) != len(shuffled):
        raise ValueError("a name occurs twice")
    if not 0 <= count <= len(shuffled):
        raise ValueError(f"{count} labelled images asked for, but there are {len(shuffled)} images")
    random.Random(seed).shuffle(shuffled)
    return sorted(shuffled[:count]), sorted(shuffled[count:])
