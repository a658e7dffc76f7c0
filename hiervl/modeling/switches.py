"""Which parts of the network a config asks for, where one switch makes another part useless."""

from typing import Optional

from torch import nn

from hiervl.errors import UserError

from .frozen_clip import FrozenClip

IMAGE_EMBEDDINGS = ("trained", "frozen")


def reads_text(cfg) -> bool:
    """Whether anything reads the text rows: the query decoder, or the pixels in CMSAM. Else there are none."""
    return cfg.MODEL.QUERY_DECODER.TEXT_QUERIES or cfg.MODEL.CMSAM.PIXELS_READ_TEXT


def needs_align_head(cfg) -> bool:
    """φ is trained by loss_align on instance rows, and read by the classifiers by text.

    Raises:
        UserError: it would be read without having been trained.
    """
    decoder = cfg.MODEL.QUERY_DECODER
    is_trained = bool(cfg.LOSS.ALIGN and decoder.INSTANCE_QUERIES)
    if decoder.CLASSIFIER in ("text", "mean") and not is_trained:
        raise UserError(
            f"MODEL.QUERY_DECODER.CLASSIFIER '{decoder.CLASSIFIER}' needs rows that were aligned with text: set "
            "LOSS.ALIGN and MODEL.QUERY_DECODER.INSTANCE_QUERIES above 0, or the classifier to 'linear'."
        )
    return is_trained


def seeds_instances(cfg) -> bool:
    """Whether instance rows start from places of the image, which the mask prior finds."""
    decoder = cfg.MODEL.QUERY_DECODER
    return bool(decoder.INSTANCE_SEEDS and decoder.MASK_PRIOR and decoder.INSTANCE_QUERIES)


def build_frozen_judge(cfg, backbone: nn.Module, logit_scale: float) -> Optional[FrozenClip]:
    """The untrained tower, where it is to judge the relevance of the classes (``MODEL.HSQG.IMAGE_EMBEDDING``).

    Raises:
        UserError: the value is unknown.
    """
    which = cfg.MODEL.HSQG.IMAGE_EMBEDDING
    if which not in IMAGE_EMBEDDINGS:
        raise UserError(f"MODEL.HSQG.IMAGE_EMBEDDING is one of {', '.join(IMAGE_EMBEDDINGS)}, not '{which}'.")
    if which == "trained" or not cfg.MODEL.HSQG.RELEVANCE or not reads_text(cfg):
        return None
    return FrozenClip(backbone, logit_scale, share=False)
