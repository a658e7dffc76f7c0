"""``loss_masked_consistency`` and ``loss_pixel_text`` of the student on labelled images (paper §3.6.2)."""

import logging
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from hiervl.losses.masked_consistency import hide_random_class, masked_consistency_loss, pixel_text_loss
from hiervl.modeling.segmenter import ClipSegmenter
from hiervl.structures import TextFeatures
from hiervl.utils.transfer import to_device

logger = logging.getLogger(__name__)


class MaskedConsistency:
    """Hides a class of every labelled image from the student's encoder. The frozen CLIP sees the whole image."""

    def __init__(self, *, consistency: float, pixel_text: float, temperature: float, ignore_value: int):
        """
        Args:
            consistency, pixel_text: weights of the two losses; 0 switches one off.
            temperature: of ``loss_pixel_text``.
            ignore_value: label of pixels that no loss counts.
        """
        self.consistency, self.pixel_text = consistency, pixel_text
        self.temperature = temperature
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg, student: ClipSegmenter) -> Optional["MaskedConsistency"]:
        """Build it from ``LOSS.MASKED_CONSISTENCY`` and ``LOSS.PIXEL_TEXT``; None if there is nothing to do."""
        if not (cfg.LOSS.MASKED_CONSISTENCY or cfg.LOSS.PIXEL_TEXT):
            return None
        if not student.backbone.trains_embeddings:
            logger.warning(
                "Nothing of the image encoder is trained (MODEL.CLIP.TRAINABLE 'none', no visual prompts): the masked "
                "consistency losses have nothing to train and are left out."
            )
            return None
        return cls(
            consistency=cfg.LOSS.MASKED_CONSISTENCY,
            pixel_text=cfg.LOSS.PIXEL_TEXT,
            temperature=cfg.LOSS.PIXEL_TEXT_TEMPERATURE,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )

    @property
    def needs_frozen_clip(self) -> bool:
        """Whether it is needed: only ``loss_masked_consistency`` needs it."""
        return bool(self.consistency)

    def losses(
        self, student: ClipSegmenter, items: list[dict], images: Tensor, whole: Tensor | None, text: TextFeatures
    ) -> dict[str, Tensor]:
        """
        Args:
            items: labelled inputs with "sem_seg".
            images: (B, 3, H, W), the images of the items, normalised and padded.
            whole: (B, D, h, w), the frozen CLIP's dense embedding of the images.
        """
        labels = torch.full((len(images), *images.shape[2:]), self.ignore_value, device=images.device)
        for padded, item in zip(labels, items):
            height, width = item["sem_seg"].shape
            padded[:height, :width] = to_device(item["sem_seg"], labels.device)
        hidden = hide_random_class(
            images, labels, student.backbone.dense_stride, len(student.class_names), self.ignore_value
        )
        masked = student.backbone.dense_embedding(hidden.images)
        losses: dict[str, Tensor] = {}
        with torch.autocast(images.device.type, enabled=False):
            masked = masked.float()
            if self.consistency and whole is not None:
                whole = whole.float()
                if whole.shape[2:] != masked.shape[2:]:  # a frozen CLIP of another grid
                    whole = F.interpolate(whole, size=masked.shape[2:], mode="bilinear", align_corners=False)
                loss = masked_consistency_loss(masked, whole, hidden.patches)
                losses["loss_masked_consistency"] = self.consistency * loss
            if self.pixel_text:
                # The image embedding should move to the text, not the text to the image.
                fixed = TextFeatures._make(None if part is None else part.detach() for part in text)
                similarity = fixed.class_similarity(masked.permute(0, 2, 3, 1))
                loss = pixel_text_loss(similarity, hidden.classes, hidden.patches, self.temperature)
                losses["loss_pixel_text"] = self.pixel_text * loss
        return losses
