"""What the untrained CLIP says of unlabelled images, as labels (``loss_clip_guidance``; SemiVL)."""

from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.modeling import HierVL, TextFeatures
from hiervl.modeling.frozen_clip import FrozenClip

from .pseudo_labels import PseudoLabels


class ClipGuidance(nn.Module):
    """Labels from the frozen CLIP where its confidence reaches a threshold, with a weight that changes linearly.

    It is not believed where it says background: no caption describes one, and it takes the rims of objects for it.
    """

    def __init__(
        self,
        clip: FrozenClip,
        *,
        background: Sequence[int] = (),
        confidence: float,
        first_weight: float,
        last_weight: float,
        max_iter: int,
    ):
        """
        Args:
            clip: the frozen tower.
            background: classes that give no guidance.
            confidence: pixels of at least this zero-shot probability count.
            first_weight, last_weight: weight of the loss at iteration 0 and at ``max_iter``.
        """
        super().__init__()
        self.clip = clip
        self.background = tuple(background)
        self.confidence = confidence
        self.first_weight, self.last_weight = first_weight, last_weight
        self.max_iter = max_iter

    @classmethod
    def from_config(cls, cfg, student: HierVL) -> "ClipGuidance":
        """``SEMI.GUIDANCE_*`` of the config; ``student`` must not have been trained or loaded yet."""
        return cls(
            FrozenClip(student.backbone, student.logit_scale, share=not cfg.MODEL.WEIGHTS),
            background=student.query_generator.always_active,
            confidence=cfg.SEMI.GUIDANCE_CONFIDENCE,
            first_weight=cfg.SEMI.GUIDANCE_WEIGHT,
            last_weight=cfg.SEMI.GUIDANCE_LAST_WEIGHT,
            max_iter=cfg.SOLVER.MAX_ITER,
        )

    def weight(self, iteration: int) -> float:
        """Weight of the loss at an iteration."""
        done = min(iteration / max(self.max_iter, 1), 1.0)
        return self.first_weight + (self.last_weight - self.first_weight) * done

    @torch.no_grad()
    def forward(self, images: Tensor, text: TextFeatures, valid: Tensor, ignore_value: int) -> PseudoLabels:
        """
        Args:
            images: (B, 3, H', W') normalised and padded weak views.
            valid: (B, H, W) bool, False on padding.
        """
        probability = F.interpolate(
            self.clip(images, text), size=images.shape[2:], mode="bilinear", align_corners=False
        )[:, :, : valid.shape[1], : valid.shape[2]]
        confidence, labels = probability.max(dim=1)
        keep = valid & (confidence >= self.confidence)
        for label in self.background:
            keep &= labels != label
        return PseudoLabels(labels.masked_fill(~valid, ignore_value), keep)
