"""The mask prior: CLIP's dense prediction, before any training, as a start for the masks of the text queries."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiervl.structures import TextFeatures

from .layers import without_autocast


class TextMaskPrior(nn.Module):
    """Log-odds that a pixel shows a class, from the similarity of its dense embedding to every class.

    p = softmax over classes of cos(dense, t_c)·scale; the prior is gain·(log p − log(1 − p)), bounded. Scale starts at
    CLIP's value and gain at 1; both are learnt. A text query adds the map of its class to the mask that it predicts. So
    training starts from MaskCLIP's masks, which matters most with few labels. The prior is 0 for classes that are not
    ``known`` to CLIP. They are in the softmax all the same, so that their pixels do not go to other classes.
    """

    known: Tensor  # (C,) bool
    bound = 6.0  # highest log-odds of an untrained prior

    def __init__(self, logit_scale: float, num_classes: int):
        """logit_scale: CLIP's own factor on its similarities; num_classes: C."""
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
        """Predict other classes from now on. CLIP may not know some of them."""
        self.known = torch.tensor(known, dtype=torch.bool, device=self.known.device)

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        """Checkpoints of older versions have no ``known``: then CLIP knows all classes."""
        state_dict.setdefault(f"{prefix}known", torch.ones_like(self.known))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def log_probability(self, text: TextFeatures, dense: Tensor) -> Tensor:
        """log p: (B, C, h, w), float32."""
        with without_autocast(dense.device):
            similarity = text.class_similarity(dense.float().permute(0, 2, 3, 1))  # (B, h, w, C)
            return (similarity * self.log_scale.exp()).log_softmax(-1).permute(0, 3, 1, 2)
