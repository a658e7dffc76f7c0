"""The image encoder that a config names, of whatever family (docs/encoders.md)."""

from typing import Any

import torch
from detectron2.modeling import BACKBONE_REGISTRY
from open_clip.model import _build_vision_tower

from hiervl.utils.errors import UserError

from .clip import check_text_side, load_model, model_config
from .clip_image_encoder import ClipImageEncoder
from .convolutional_encoder import ConvolutionalEncoder, ResNetEncoder
from .image_encoder import ImageEncoder
from .timm_vit_encoder import TimmVitEncoder
from .vision_encoder import build_vision_encoder

ENCODERS: tuple[type[ImageEncoder], ...] = (ClipImageEncoder, TimmVitEncoder, ResNetEncoder, ConvolutionalEncoder)


def encoder_class(visual: Any, name: str) -> type[ImageEncoder]:
    """The class of encoders that reads an image tower of open_clip.

    Args:
        name: of the model, for the error.

    Raises:
        UserError: none does.
    """
    for encoder in ENCODERS:
        if encoder.takes(visual):
            return encoder
    raise UserError(
        f"MODEL.CLIP.NAME '{name}': HierVL has no encoder for its image tower; docs/encoders.md lists the families "
        "that it reads."
    )


def check_clip(name: str) -> None:
    """Look at a model's architecture alone; nothing is fetched, and no memory is taken.

    Args:
        name: see :func:`load_model`.

    Raises:
        UserError: there is no such model, or HierVL cannot read its image or its text side.
    """
    config = model_config(name)
    check_text_side(name, config)
    try:
        with torch.device("meta"):
            visual = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    except (RuntimeError, TypeError, KeyError, ValueError, AssertionError) as error:
        raise UserError(f"MODEL.CLIP.NAME '{name}': its image tower cannot be built ({error}).") from error
    encoder_class(visual, name)


@BACKBONE_REGISTRY.register()
def build_clip_image_encoder(cfg, input_shape) -> ImageEncoder:
    """The encoder of ``MODEL.ENCODER`` as a backbone, or where there is none the image tower of ``MODEL.CLIP``."""
    return build_vision_encoder(cfg) if cfg.MODEL.ENCODER.NAME else build_clip_encoder(cfg)


def build_clip_encoder(cfg) -> ImageEncoder:
    """The image tower of ``MODEL.CLIP``."""
    clip = load_model(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    return encoder_class(clip.visual, cfg.MODEL.CLIP.NAME).from_config(cfg, clip.visual)
