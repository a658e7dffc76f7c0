"""CLIP as it came, beside the one that is trained: what it sees where nobody has labelled (SemiVL; MaskCLIP)."""

import copy

import torch
from torch import Tensor, nn

from .clip_image_encoder import ClipImageEncoder
from .text_encoder import TextFeatures


class FrozenClip(nn.Module):
    """Dense zero-shot prediction of the untrained image tower, without visual prompts.

    Weights that the trained tower never changes are shared with it instead of copied.
    """

    def __init__(self, backbone: ClipImageEncoder, logit_scale: float):
        """
        Args:
            backbone: the image tower before its training.
            logit_scale: the factor that CLIP was trained to put on its similarities.
        """
        super().__init__()
        self.encoder = copy.deepcopy(backbone)
        self.encoder.visual_prompts = None
        for own, trained in zip(self.encoder.visual.parameters(), backbone.visual.parameters()):
            if not trained.requires_grad:
                own.data = trained.data
        # Only the dense embedding is asked for.
        del self.encoder.to_res2, self.encoder.to_res3, self.encoder.to_res4, self.encoder.to_res5
        self.requires_grad_(False).eval()
        self.logit_scale = logit_scale

    def train(self, mode: bool = True) -> "FrozenClip":
        """It is never trained."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, text: TextFeatures) -> Tensor:
        """images (B, 3, H, W), normalised and padded → class probabilities (B, C, H/patch, W/patch)."""
        dense = self.encoder.dense_embedding(images)
        return (torch.einsum("bdhw,cd->bchw", dense.float(), text.prototypes.float()) * self.logit_scale).softmax(1)
