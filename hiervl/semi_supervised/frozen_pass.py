"""One pass of an iteration's images through the frozen CLIP, for all parts that need it (design §4)."""

import torch
from torch import Tensor

from hiervl.modeling.frozen_clip import ClipEmbeddings, FrozenClip


def embed_together(clip: FrozenClip, groups: dict[str, Tensor], pooled: bool) -> dict[str, ClipEmbeddings]:
    """Embeddings of named groups of images (B, 3, H, W). Groups of one image size share a forward pass.

    Args:
        groups: normalised and padded images by name.
        pooled: also give the pooled embedding.
    """
    by_size: dict[tuple, list[str]] = {}
    for name, images in groups.items():
        by_size.setdefault(tuple(images.shape[2:]), []).append(name)
    found: dict[str, ClipEmbeddings] = {}
    for names in by_size.values():
        embeddings = clip.embed(torch.cat([groups[name] for name in names]), pooled)
        counts = [len(groups[name]) for name in names]
        parts = zip(*(part.split(counts) if part is not None else [None] * len(counts) for part in embeddings))
        found.update({name: ClipEmbeddings(*part) for name, part in zip(names, parts)})
    return found
