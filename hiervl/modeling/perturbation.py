"""Perturbation of the encoder's maps (UniMatch §3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def drop_channels(maps: dict[str, Tensor], names: Sequence[str], probability: float, first: int) -> dict[str, Tensor]:
    """Whole channels set to 0, the others scaled up by 1 / (1 − probability); drawn anew for every image and map.

    Args:
        maps: of the backbone, (B, C_l, H_l, W_l) each, embeddings included; they are not changed.
        names: the maps whose channels are dropped; the embeddings keep their place in CLIP's joint space.
        probability: of every channel.
        first: images from this one on are perturbed, those before it are not.
    """
    perturbed = dict(maps)
    for name in names:
        dropped = F.dropout2d(maps[name][first:], probability, training=True)
        perturbed[name] = torch.cat((maps[name][:first], dropped))
    return perturbed
