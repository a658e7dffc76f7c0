"""Which parts of the network a config needs, if one switch makes another part useless."""

import logging
from collections.abc import Sequence

from hiervl.utils.errors import UserError

from .clip import FROM_CHECKPOINT
from .encoders import build_clip_encoder
from .frozen_clip import FrozenClip
from .image_encoder import ImageEncoder
from .image_statistics import clip_statistics, image_statistics

logger = logging.getLogger(__name__)

BACKGROUND = "background"  # in the default config, even if there is no such class


def background_classes(cfg, class_names: Sequence[str]) -> list[int]:
    """Indices of the classes in ``MODEL.HSQG.ALWAYS_ACTIVE``. Warns of names that are not a class."""
    names = cfg.MODEL.HSQG.ALWAYS_ACTIVE
    unknown = sorted(set(names) - {BACKGROUND, *class_names})
    if unknown:
        logger.warning(
            "MODEL.HSQG.ALWAYS_ACTIVE: %s is not a class; take it out of the list, or correct its name.",
            ", ".join(unknown),
        )
    return [index for index, name in enumerate(class_names) if name in names]


def reads_text(cfg) -> bool:
    """Whether anything reads the text queries: the query decoder, or the pixels in CMSAM. If not, there are none."""
    return cfg.MODEL.QUERY_DECODER.TEXT_QUERIES or cfg.MODEL.CMSAM.PIXELS_READ_TEXT


def needs_align_head(cfg) -> bool:
    """Whether the network needs φ. loss_align trains it on instance queries; classifiers by text read it.

    Raises:
        UserError: φ would be read without being trained.
    """
    decoder = cfg.MODEL.QUERY_DECODER
    is_trained = bool(cfg.LOSS.ALIGN and decoder.INSTANCE_QUERIES)
    if decoder.CLASSIFIER in ("text", "mean") and not is_trained:
        raise UserError(
            f"MODEL.QUERY_DECODER.CLASSIFIER '{decoder.CLASSIFIER}' needs queries that were aligned with text: set "
            "LOSS.ALIGN and MODEL.QUERY_DECODER.INSTANCE_QUERIES above 0, or the classifier to 'linear'."
        )
    return is_trained


def seeds_instances(cfg) -> bool:
    """Whether instance queries start at places of the image, which the mask prior finds."""
    decoder = cfg.MODEL.QUERY_DECODER
    return bool(decoder.INSTANCE_SEEDS and decoder.MASK_PRIOR and decoder.INSTANCE_QUERIES)


def build_frozen_clip(cfg, backbone: ImageEncoder, logit_scale: float, share: bool = False) -> FrozenClip:
    """The frozen CLIP. Call this before the encoder is trained or anything is loaded into it.

    Raises:
        UserError: the weights should come from a checkpoint, which holds only trained ones.
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
    """The frozen CLIP if the trained encoder knows no language (``MODEL.ENCODER``), else None."""
    return build_frozen_clip(cfg, backbone, logit_scale) if cfg.MODEL.ENCODER.NAME else None
