"""CLIP as it came, beside the one that is trained: what it sees where nobody has labelled (SemiVL; MaskCLIP)."""

import copy

import torch
from torch import Tensor, nn

from .clip_image_encoder import ClipImageEncoder
from .text_encoder import TextFeatures


class FrozenClip(nn.Module):
    """Dense zero-shot prediction of the untrained image tower, without visual prompts.

    """

    def __init__(self, backbone: ClipImageEncoder, logit_scale: float, share: bool = True):
        """
        Args:
            backbone: the image tower before its training.
            logit_scale: the factor that CLIP was trained to put on its similarities.
            share: weights that the trained tower never changes are shared with it instead of copied. Not to be done
                where other weights than CLIP's will be loaded into that tower.
        """
        super().__init__()
        self.encoder = copy.deepcopy(backbone)
        self.encoder.visual_prompts = None
        self.encoder.detail_stem = None
        for own, trained in zip(self.encoder.visual.parameters(), backbone.visual.parameters()):
            if share and not trained.requires_grad:
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
        with torch.autocast(dense.device.type, enabled=False):  # the scale multiplies hundredths of similarity
            similarity = torch.einsum("bdhw,cd->bchw", dense.float(), text.prototypes.float())
            return (similarity * self.logit_scale).softmax(1)
