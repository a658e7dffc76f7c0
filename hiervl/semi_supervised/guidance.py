"""Guidance: the frozen CLIP's prediction for unlabelled images as labels (``loss_clip_guidance``; SemiVL)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hiervl.utils.errors import UserError

from .pseudo_labels import PseudoLabels

SOFTMAX_AT = ("patches", "pixels")


class ClipGuidance:
    """Labels from the frozen CLIP where its confidence reaches a threshold, with a weight that changes linearly.

    By default its background predictions are not used: captions do not describe background, and CLIP takes the edges of
    objects for it.
    """

    def __init__(
        self,
        *,
        background: Sequence[int] = (),
        confidence: float,
        first_weight: float,
        last_weight: float,
        max_iter: int,
        softmax_at: str = "patches",
    ):
        """
        Args:
            background: classes that give no guidance at first. :attr:`unguided` can get more of them.
            confidence: the least zero-shot probability of a pixel that counts.
            first_weight, last_weight: weight of the loss at iteration 0 and at ``max_iter``.
            softmax_at: "patches": resize the probabilities of patches to pixels; "pixels": resize the similarities,
                then take the softmax of each pixel, as in SemiVL's code, which keeps more pixels.
        """
        if softmax_at not in SOFTMAX_AT:
            raise UserError(f"SEMI.GUIDANCE_SOFTMAX is one of {', '.join(SOFTMAX_AT)}, not '{softmax_at}'.")
        self.softmax_at = softmax_at
        self.unguided = set(background)
        self.confidence = confidence
        self.first_weight, self.last_weight = first_weight, last_weight
        self.max_iter = max_iter

    @classmethod
    def from_config(cls, cfg, background: Sequence[int]) -> "ClipGuidance":
        """Build it from ``SEMI.GUIDANCE_*``. ``background``: the background classes."""
        return cls(
            background=() if cfg.SEMI.GUIDANCE_OF_BACKGROUND else background,
            confidence=cfg.SEMI.GUIDANCE_CONFIDENCE,
            first_weight=cfg.SEMI.GUIDANCE_WEIGHT,
            last_weight=cfg.SEMI.GUIDANCE_LAST_WEIGHT,
            max_iter=cfg.SOLVER.MAX_ITER,
            softmax_at=cfg.SEMI.GUIDANCE_SOFTMAX,
        )

    def weight(self, iteration: int) -> float:
        """Weight of the loss at an iteration."""
        done = min(iteration / max(self.max_iter, 1), 1.0)
        return self.first_weight + (self.last_weight - self.first_weight) * done

    @torch.no_grad()
    def labels(
        self, probability: Tensor, padded_size: tuple[int, int], valid: Tensor, ignore_value: int
    ) -> PseudoLabels:
        """
        Args:
            probability: (B, C, h, w), the frozen CLIP's for the weak views.
            padded_size: (H', W') of the images that it saw.
            valid: (B, H, W) bool, False on padding.
        """
        found = []
        for image_probability in probability.unsqueeze(1):  # one by one: full-size maps of all classes are large
            resized = self._at_pixels(image_probability, (padded_size[0], padded_size[1]))
            found.append(resized[0, :, : valid.shape[1], : valid.shape[2]].max(dim=0))
        confidence, labels = (torch.stack(part) for part in zip(*found))
        keep = valid & (confidence >= self.confidence)
        for label in self.unguided:
            keep &= labels != label
        return PseudoLabels(labels.masked_fill(~valid, ignore_value), keep)

    def _at_pixels(self, probability: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (1, C, h, w) of patches → (1, C, *size) of pixels."""
        if self.softmax_at == "patches":
            return F.interpolate(probability, size=size, mode="bilinear", align_corners=False)
        # log p is the similarity minus a number that all classes of a patch share. Resizing is linear, so at every
        # pixel they still share a number, and it cancels in the softmax. (With CLIP's factor of 100, similarities that
        # differ by more than 0.8 are cut off; CLIP's differ by a few tenths.)
        logarithm = probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
        return F.interpolate(logarithm, size=size, mode="bilinear", align_corners=False).softmax(1)
