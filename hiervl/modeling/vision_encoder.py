"""Encoders of timm that were trained without language (DINOv2, DINOv3, ConvNeXt …), beside a frozen CLIP."""

import logging
import re
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.timm_model import TimmModel

from hiervl.utils.errors import UserError
from hiervl.utils.placeholder import NOT_READABLE, refuse_placeholder
from hiervl.utils.text import reason_of

from .clip import FROM_CHECKPOINT, model_config
from .convolutional_encoder import ConvolutionalEncoder
from .image_encoder import ImageEncoder
from .timm_vit_encoder import TimmVitEncoder

logger = logging.getLogger(__name__)

FETCHED = "timm"
LOCAL_NAME = re.compile(r"[\w.]+")  # "hf-hub:…" and the like would be downloaded


def check_vision_encoder(name: str) -> None:
    """Raises UserError: timm has no such model, or HierVL cannot read it. Downloads nothing."""
    trunk_without_memory(name, 8)


def trunk_without_memory(name: str, embed_dim: int) -> tuple[TimmModel, type[ImageEncoder]]:
    """A model of timm with a head, whose weights have shapes but no values, and the class that reads it."""
    _check_name(name)
    with torch.device("meta"):
        visual = TimmModel(name, embed_dim, pool="", proj="linear")
    return visual, _encoder_class(visual, name)


def build_vision_encoder(cfg) -> ImageEncoder:
    """The trunk of ``MODEL.ENCODER`` with a new, trained linear head to the embeddings of ``MODEL.CLIP``.

    Raises:
        UserError: the trunk or its weights are unknown, cannot be found or do not fit together.
    """
    name = cfg.MODEL.ENCODER.NAME
    _check_name(name)
    visual = TimmModel(name, model_config(cfg.MODEL.CLIP.NAME)["embed_dim"], pool="", proj="linear")
    encoder = _encoder_class(visual, name)
    weights = _pretrained_trunk(name, cfg.MODEL.ENCODER.PRETRAINED)
    if weights is not None:
        visual.trunk.load_state_dict(weights)
    built = encoder.from_config(cfg, visual)
    built.visual.head.requires_grad_(True)
    return built


def _check_name(name: str) -> None:
    if not LOCAL_NAME.fullmatch(name) or not timm.is_model(name):
        raise UserError(f"MODEL.ENCODER.NAME '{name}' is not a model of timm (timm.list_models() names them).")


def _encoder_class(visual: TimmModel, name: str) -> type[ImageEncoder]:
    for encoder in (TimmVitEncoder, ConvolutionalEncoder):
        if encoder.takes(visual):
            return encoder
    raise UserError(
        f"MODEL.ENCODER.NAME '{name}': HierVL reads timm's plain ViTs, and convolutions with maps of stride 4, 8, 16 "
        "and 32; this is neither."
    )


def _pretrained_trunk(name: str, pretrained: str) -> dict[str, torch.Tensor] | None:
    if pretrained == FROM_CHECKPOINT:
        return None
    if not pretrained:
        logger.warning("MODEL.ENCODER.PRETRAINED is empty: the encoder starts from random weights.")
        return None
    if pretrained != FETCHED and not Path(pretrained).is_file():
        raise UserError(
            f"MODEL.ENCODER.PRETRAINED: no weights at '{pretrained}'; give an existing file, '{FETCHED}' to fetch "
            "them, or leave it empty."
        )
    if pretrained != FETCHED:
        refuse_placeholder(pretrained, "a file of weights", "MODEL.ENCODER.PRETRAINED")
    source: dict[str, Any] = {} if pretrained == FETCHED else {"pretrained_cfg_overlay": {"file": pretrained}}
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **source).state_dict()
    except Exception as error:  # timm raises the errors of its back ends: network, hub, pickle, shapes
        if pretrained != FETCHED:
            raise UserError(
                f"MODEL.ENCODER.PRETRAINED: '{pretrained}' cannot be read as weights of '{name}' ({reason_of(error)}): "
                f"it is {NOT_READABLE}; give the file of weights itself."
            ) from error
        raise UserError(
            f"MODEL.ENCODER: the weights '{pretrained}' of '{name}' could not be loaded ({reason_of(error)}); download "
            "them on a machine with network access and give the file as MODEL.ENCODER.PRETRAINED."
        ) from error
