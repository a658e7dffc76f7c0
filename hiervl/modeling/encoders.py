"""Build the image encoder that a config names, of any family (docs/encoders.md)."""

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
from .vision_encoder import build_vision_encoder, trunk_without_memory

ENCODERS: tuple[type[ImageEncoder], ...] = (ClipImageEncoder, TimmVitEncoder, ResNetEncoder, ConvolutionalEncoder)


def encoder_class(visual: Any, name: str) -> type[ImageEncoder]:
    """The encoder class for an image encoder of open_clip.

    Args:
        name: the model's name, for the error.

    Raises:
        UserError: no class reads it.
    """
    for encoder in ENCODERS:
        if encoder.takes(visual):
            return encoder
    raise UserError(
        f"MODEL.CLIP.NAME '{name}': HierVL cannot read its image encoder; docs/encoders.md lists the families "
        "that it reads."
    )


def check_clip(name: str) -> None:
    """Check the architecture of a model. Downloads nothing and allocates no memory.

    Args:
        name: see :func:`load_model`.

    Raises:
        UserError: there is no such model, or HierVL cannot read its image or text encoder.
    """
    check_text_side(name, model_config(name))
    encoder_class(_clip_encoder_without_memory(name), name)


def _clip_encoder_without_memory(name: str) -> Any:
    """The image encoder of a model of open_clip, its weights having shapes but no values."""
    config = model_config(name)
    try:
        with torch.device("meta"):
            return _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    except (RuntimeError, TypeError, KeyError, ValueError, AssertionError) as error:
        raise UserError(f"MODEL.CLIP.NAME '{name}': its image encoder cannot be built ({error}).") from error


def encoder_without_memory(cfg) -> ImageEncoder:
    """The encoder that ``cfg`` trains, its weights having shapes but no values (PyTorch's device "meta").

    Raises:
        UserError: as :func:`check_clip` and :func:`check_vision_encoder`, or a key of ``MODEL.CLIP`` does not fit.
    """
    if cfg.MODEL.ENCODER.NAME:
        visual, encoder = trunk_without_memory(cfg.MODEL.ENCODER.NAME, model_config(cfg.MODEL.CLIP.NAME)["embed_dim"])
    else:
        visual = _clip_encoder_without_memory(cfg.MODEL.CLIP.NAME)
        encoder = encoder_class(visual, cfg.MODEL.CLIP.NAME)
    with torch.device("meta"):
        return encoder.from_config(cfg, visual)


@BACKBONE_REGISTRY.register()
def build_clip_image_encoder(cfg, input_shape) -> ImageEncoder:
    """The encoder of ``MODEL.ENCODER`` as a backbone; if it is not set, the image encoder of ``MODEL.CLIP``."""
    return build_vision_encoder(cfg) if cfg.MODEL.ENCODER.NAME else build_clip_encoder(cfg)


def build_clip_encoder(cfg) -> ImageEncoder:
    """The image encoder of ``MODEL.CLIP``."""
    clip = load_model(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    return encoder_class(clip.visual, cfg.MODEL.CLIP.NAME).from_config(cfg, clip.visual)
