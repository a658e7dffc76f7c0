"""Starts for the masks of the text queries: CLIP's dense prediction, before any training, and a learnt one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import TextFeatures

from .layers import group_norm, without_autocast

BOUND = 6.0  # highest log-odds of an untrained prior


class TextMaskPrior(nn.Module):
    """Log-odds that a pixel shows a class, from the similarity of its dense embedding to every class.

    p = softmax over classes of cos(dense, t_c)·scale; the prior is gain·(log p − log(1 − p)), bounded. Scale starts at
    CLIP's value and gain at 1; both are learnt. A text query adds the map of its class to the mask that it predicts. So
    training starts from MaskCLIP's masks, which matters most with few labels. The prior is 0 for classes that are not
    ``known`` to CLIP. They are in the softmax all the same, so that their pixels do not go to other classes.
    """

    known: Tensor  # (C,) bool

    def __init__(self, logit_scale: float, num_classes: int):
        """logit_scale: CLIP's own factor on its similarities; num_classes: C."""
        super().__init__()
        self.register_buffer("known", torch.ones(num_classes, dtype=torch.bool))
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, text: TextFeatures, dense: Tensor) -> Tensor:
        """dense (B, D, h, w), of length 1 → (B, C, h, w)."""
        with without_autocast(dense.device):
            return self.gain * log_odds(self.log_probability(text, dense)) * self.known[:, None, None]

    def set_known(self, known: Sequence[bool]) -> None:
        """Predict other classes from now on. CLIP may not know some of them."""
        self.known = torch.tensor(known, dtype=torch.bool, device=self.known.device)

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        """Checkpoints of older versions have no ``known``: then CLIP knows all classes."""
        state_dict.setdefault(f"{prefix}known", torch.ones_like(self.known))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def log_probability(self, text: TextFeatures, dense: Tensor) -> Tensor:
        """log p: (B, C, h, w), float32."""
        with without_autocast(dense.device):
            return log_class_probability(text, dense, self.log_scale.exp())


class PixelPrior(nn.Module):
    """log p of every class at every pixel, from the pixel decoder's mask features.

    The features are projected into CLIP's joint space and compared with every class there, as :class:`TextMaskPrior`
    compares CLIP's dense embedding. A pixel loss of its own teaches it, so the masks start from a per-pixel prediction
    that knows the labelled images, also where CLIP knows nothing of a class.
    """

    def __init__(self, dim: int, embed_dim: int, logit_scale: float):
        """dim: width of the mask features; embed_dim: of CLIP's joint space; logit_scale: CLIP's own factor."""
        super().__init__()
        self.project = nn.Sequential(group_norm(dim), nn.ReLU(), nn.Conv2d(dim, embed_dim, 1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def forward(self, text: TextFeatures, mask_features: Tensor) -> Tensor:
        """mask_features (B, dim, h, w) → (B, C, h, w), float32."""
        with without_autocast(mask_features.device):
            joint = F.normalize(self.project(mask_features.float()), dim=1)
            return log_class_probability(text, joint, self.log_scale.exp())


def log_class_probability(text: TextFeatures, joint: Tensor, scale: Tensor) -> Tensor:
    """joint (B, D, h, w), of length 1 in the joint space → log softmax of the scaled similarities: (B, C, h, w)."""
    similarity = text.class_similarity(joint.float().permute(0, 2, 3, 1))  # (B, h, w, C)
    return (similarity * scale).log_softmax(-1).permute(0, 3, 1, 2)


def log_odds(log_p: Tensor) -> Tensor:
    """log p − log(1 − p), at most ±``BOUND``."""
    return (log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))).clamp(-BOUND, BOUND)
