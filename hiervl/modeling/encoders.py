"""The image encoder that a config names, of whatever family (docs/encoders.md)."""

from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from hiervl.utils.errors import UserError

from .clip import load_model
from .clip_image_encoder import ClipImageEncoder
from .convolutional_encoder import ConvolutionalEncoder, ResNetEncoder
from .image_encoder import ImageEncoder
from .timm_vit_encoder import TimmVitEncoder

ENCODERS: tuple[type[ImageEncoder], ...] = (ClipImageEncoder, TimmVitEncoder, ResNetEncoder, ConvolutionalEncoder)


def encoder_class(visual: nn.Module, name: str) -> type[ImageEncoder]:
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


@BACKBONE_REGISTRY.register()
def build_clip_image_encoder(cfg, input_shape) -> ImageEncoder:
    """The image tower of ``MODEL.CLIP`` as a backbone."""
    clip = load_model(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    return encoder_class(clip.visual, cfg.MODEL.CLIP.NAME).from_config(cfg, clip.visual)
