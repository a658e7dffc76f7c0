"""What the dense CLIP embedding says before anything is learnt, as a start for the masks of the text rows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiervl.structures import TextFeatures

from .layers import without_autocast


class TextMaskPrior(nn.Module):
    """Log-odds that a pixel shows a class, from the similarity of its dense embedding to every class.

    p = softmax over classes of cos(dense, t_c)·scale; the prior is gain·(log p − log(1 − p)), bounded. Scale starts at
    CLIP's own and gain at 1; both are learnt. A text row adds its class's map to the mask it predicts itself, so that
    training starts from MaskCLIP's masks instead of from nothing, which decides with few labels. For classes that are
    not ``known`` to CLIP it is 0; they take part in the softmax all the same, where their pixels belong.
    """

    known: Tensor  # (C,) bool
    bound = 6.0  # log-odds: what an untrained prior may claim at most

    def __init__(self, logit_scale: float, num_classes: int):
        """logit_scale: the factor that CLIP was trained to put on its similarities; num_classes: C."""
        super().__init__()
        self.register_buffer("known", torch.ones(num_classes, dtype=torch.bool))
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, text: TextFeatures, dense: Tensor) -> Tensor:
        """dense (B, D, h, w), of length 1 → (B, C, h, w)."""
        with without_autocast(dense.device):
            log_p = self.log_probability(text, dense)
            log_not_p = torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
            odds = (log_p - log_not_p).clamp(-self.bound, self.bound)
            return self.gain * odds * self.known[:, None, None]

    def set_known(self, known: Sequence[bool]) -> None:
        """Predict other classes from now on, some of which CLIP may not know."""
        self.known = torch.tensor(known, dtype=torch.bool, device=self.known.device)

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        """Checkpoints of older versions do not say what CLIP knows: all classes."""
        state_dict.setdefault(f"{prefix}known", torch.ones_like(self.known))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def log_probability(self, text: TextFeatures, dense: Tensor) -> Tensor:
        """log p: (B, C, h, w), float32."""
        with without_autocast(dense.device):
            similarity = text.class_similarity(dense.float().permute(0, 2, 3, 1))  # (B, h, w, C)
            return (similarity * self.log_scale.exp()).log_softmax(-1).permute(0, 3, 1, 2)
