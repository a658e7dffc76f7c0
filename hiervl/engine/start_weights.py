"""A checkpoint as the start of a training of other classes: all weights but the rows of classes that are gone."""

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
    """Bring the rows of classes in ``weights`` into the order of ``names``; those of new classes stay what they are.

    Args:
        weights: of the checkpoint; changed in place.
        current: of the network, before it is loaded.
        class_rows: names of the parameters whose first rows are classes; rows behind those stay what they are.
        saved_names, names: the classes of the checkpoint and of the network.
    """
    place = {name: row for row, name in enumerate(saved_names)}
    for key in class_rows:
        if key not in weights or key not in current:
            continue
        saved, rows = weights[key], current[key].clone()
        if saved.shape[1:] != rows.shape[1:] or len(saved) - len(saved_names) != len(rows) - len(names):
            continue  # of another architecture, which whoever loads it will say
        for row, name in enumerate(names):
            if name in place:
                rows[row] = saved[place[name]]
        rows[len(names) :] = saved[len(saved_names) :]
        weights[key] = rows


def describe_change(saved_names: Sequence[str], names: Sequence[str]) -> str:
    """Which classes a start from a checkpoint keeps, which are new and which are gone, as a sentence."""
    parts = (
        ("known", [name for name in names if name in saved_names]),
        ("new", [name for name in names if name not in saved_names]),
        ("gone", [name for name in saved_names if name not in names]),
    )
    return "; ".join(f"{kind}: {', '.join(listed)}" for kind, listed in parts if listed)
