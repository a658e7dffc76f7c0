"""Mean and standard deviation of the pixels that an image encoder was trained with."""

from typing import NamedTuple

import open_clip
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg

from hiervl.utils.errors import UserError

from .clip import config_file, model_config


class ImageStatistics(NamedTuple):
    """RGB, in 0…255."""

    mean: list[float]
    std: list[float]


def image_statistics(cfg) -> ImageStatistics:
    """``MODEL.PIXEL_MEAN`` and ``MODEL.PIXEL_STD`` if set, else the statistics of the trained encoder.

    Raises:
        UserError: only one of the two is set, or they do not have three values.
    """
    mean, std = list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)
    if not mean and not std:
        return _trunk_statistics(cfg.MODEL.ENCODER.NAME) if cfg.MODEL.ENCODER.NAME else clip_statistics(cfg)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"MODEL.PIXEL_MEAN {mean} and MODEL.PIXEL_STD {std} need three values each (red, green, blue; 0 to 255, "
            "no deviation of 0), or leave both empty: then those of the encoder are taken."
        )
    return ImageStatistics(mean, std)


def clip_statistics(cfg) -> ImageStatistics:
    """The statistics of ``MODEL.CLIP``."""
    return _model_statistics(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)


def _trunk_statistics(name: str) -> ImageStatistics:
    known = get_pretrained_cfg(name, allow_unregistered=True)
    mean, std = (known.mean, known.std) if known else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return ImageStatistics([255 * value for value in mean], [255 * value for value in std])


def _model_statistics(name: str, pretrained: str) -> ImageStatistics:
    """From the tag of the weights; for a file, from the model's first tag; else timm's for the trunk; else OpenAI's."""
    trunk = get_pretrained_cfg(model_config(name)["vision_cfg"].get("timm_model_name") or "", allow_unregistered=True)
    tags = [] if config_file(name) else open_clip.list_pretrained_tags_by_model(name)
    tag = pretrained if pretrained in tags else next(iter(tags), "")
    known = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    mean = known.get("mean") or (trunk and trunk.mean) or open_clip.OPENAI_DATASET_MEAN
    std = known.get("std") or (trunk and trunk.std) or open_clip.OPENAI_DATASET_STD
    return ImageStatistics([255 * value for value in mean], [255 * value for value in std])
