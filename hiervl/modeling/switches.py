"""Which parts of the network a config asks for, where one switch makes another part useless."""

import logging
from collections.abc import Sequence

from hiervl.utils.errors import UserError

from .clip import FROM_CHECKPOINT
from .encoders import build_clip_encoder
from .frozen_clip import FrozenClip
from .image_encoder import ImageEncoder
from .image_statistics import clip_statistics, image_statistics

logger = logging.getLogger(__name__)

IMAGE_EMBEDDINGS = ("trained", "frozen")
BACKGROUND = "background"  # named by default, whether or not there is such a class


def background_classes(cfg, class_names: Sequence[str]) -> list[int]:
    """Indices of the classes that ``MODEL.HSQG.ALWAYS_ACTIVE`` names; names that are no class are warned of."""
    names = cfg.MODEL.HSQG.ALWAYS_ACTIVE
    unknown = sorted(set(names) - {BACKGROUND, *class_names})
    if unknown:
        logger.warning("MODEL.HSQG.ALWAYS_ACTIVE names what is no class: %s.", ", ".join(unknown))
    return [index for index, name in enumerate(class_names) if name in names]


def reads_text(cfg) -> bool:
    """Whether anything reads the text queries: the query decoder, or the pixels in CMSAM. Else there are none."""
    return cfg.MODEL.QUERY_DECODER.TEXT_QUERIES or cfg.MODEL.CMSAM.PIXELS_READ_TEXT


def needs_align_head(cfg) -> bool:
    """φ is trained by loss_align on instance queries, and read by the classifiers by text.

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
    """Whether instance queries start from places of the image, which the mask prior finds."""
    decoder = cfg.MODEL.QUERY_DECODER
    return bool(decoder.INSTANCE_SEEDS and decoder.MASK_PRIOR and decoder.INSTANCE_QUERIES)


def build_frozen_clip(cfg, backbone: ImageEncoder, logit_scale: float, share: bool = False) -> FrozenClip:
    """The tower as CLIP's weights made it; to be called before it is trained or anything is loaded into it.

    Raises:
        UserError: its weights are to come from a checkpoint, which holds trained ones alone.
    """
    if cfg.MODEL.CLIP.PRETRAINED == FROM_CHECKPOINT:
        raise UserError(
            "MODEL.CLIP.PRETRAINED is 'checkpoint', but this run also asks CLIP as it was before any training: name "
            "CLIP's own weights, as in the config.yaml of the run that the checkpoint is from."
        )
    if cfg.MODEL.ENCODER.NAME:
        statistics = (image_statistics(cfg), clip_statistics(cfg))
        return FrozenClip(build_clip_encoder(cfg), logit_scale, share=False, from_statistics=statistics)
    return FrozenClip(backbone, logit_scale, share)


def build_optional_frozen_clip(cfg, backbone: ImageEncoder, logit_scale: float) -> FrozenClip | None:
    """The untrained tower, where it is to judge the relevance of the classes (``MODEL.HSQG.IMAGE_EMBEDDING``), or where
    the trained encoder knows no language (``MODEL.ENCODER``).

    Raises:
        UserError: the value is unknown.
    """
    which = cfg.MODEL.HSQG.IMAGE_EMBEDDING
    if which not in IMAGE_EMBEDDINGS:
        raise UserError(f"MODEL.HSQG.IMAGE_EMBEDDING is one of {', '.join(IMAGE_EMBEDDINGS)}, not '{which}'.")
    if cfg.MODEL.ENCODER.NAME:
        return build_frozen_clip(cfg, backbone, logit_scale)
    if which == "trained" or not cfg.MODEL.HSQG.RELEVANCE or not reads_text(cfg):
        return None
    return build_frozen_clip(cfg, backbone, logit_scale)
