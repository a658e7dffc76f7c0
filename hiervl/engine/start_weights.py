"""Start a training with other classes from a checkpoint: keep all weights except the rows of removed classes."""

import logging
from collections.abc import Mapping, Sequence

import torch

logger = logging.getLogger(__name__)


def carry_over_classes(
    weights: dict[str, torch.Tensor],
    current: Mapping[str, torch.Tensor],
    class_rows: Sequence[str],
    saved_names: Sequence[str],
    names: Sequence[str],
) -> None:
    """Bring the rows of classes in ``weights`` into the order of ``names``. Rows of new classes keep the network's
    values.

    Args:
        weights: those of the checkpoint; changed in place.
        current: the network's weights, before loading.
        class_rows: names of the parameters whose first rows are classes; rows after those stay the same.
        saved_names, names: the classes of the checkpoint and of the network.
    """
    place = {name: row for row, name in enumerate(saved_names)}
    for key in class_rows:
        if key not in weights or key not in current:
            continue
        saved, rows = weights[key], current[key].clone()
        if saved.shape[1:] != rows.shape[1:] or len(saved) - len(saved_names) != len(rows) - len(names):
            continue  # another architecture; loading will report it
        for row, name in enumerate(names):
            if name in place:
                rows[row] = saved[place[name]]
        rows[len(names) :] = saved[len(saved_names) :]
        weights[key] = rows


def describe_change(saved_names: Sequence[str], names: Sequence[str]) -> str:
    """A sentence: which classes a start from a checkpoint keeps, which are new, and which are removed."""
    parts = (
        ("known", [name for name in names if name in saved_names]),
        ("new", [name for name in names if name not in saved_names]),
        ("gone", [name for name in saved_names if name not in names]),
    )
    return "; ".join(f"{kind}: {', '.join(listed)}" for kind, listed in parts if listed)
