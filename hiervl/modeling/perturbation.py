"""Perturbation of the encoder's maps (UniMatch §3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def drop_channels(maps: dict[str, Tensor], names: Sequence[str], probability: float, first: int) -> dict[str, Tensor]:
    """Set whole channels to 0 and scale the others by 1 / (1 − probability). Drawn anew for every image and map.

    Args:
        maps: the backbone's output, (B, C_l, H_l, W_l) each, embeddings included. They are not changed in place.
        names: the maps whose channels are dropped. Embeddings stay as they are, in CLIP's joint space.
        probability: that a channel is dropped.
        first: index of the first image that is perturbed.
    """
    perturbed = dict(maps)
    for name in names:
        dropped = F.dropout2d(maps[name][first:], probability, training=True)
        perturbed[name] = torch.cat((maps[name][:first], dropped))
    return perturbed
