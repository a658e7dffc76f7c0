"""How much memory an encoder asks for beside CLIP ViT-B/16, for which it was counted (``benchmarks/memory.py``)."""

from typing import Any, NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .encoders import encoder_without_memory

# What an attention layer of open_clip computes, of its output's size: queries, keys, values, what is read, the output.
ATTENTION_MAPS = 5
KEEPS_NOTHING = (nn.Identity, nn.Dropout, DropPath)
SIDE = 512  # pixels, of the image that is counted with; or the next size that the encoder takes
FINEST_STRIDE = 4  # of the finest map of ViT-B/16
BYTES_PER_WEIGHT = 4
COPIES_OF_TRAINED = 4  # the teacher's, the gradient, and Adam's two


class EncoderSize(NamedTuple):
    """What decides about memory.

    Attributes:
        unit: pixels; images are padded to multiples of it.
        positions: of its maps per pixel of the image, which the decoders keep; 1: as many as ViT-B/16 has.
        activations: numbers that its layers give per pixel of the image and that gradients flow back to; 1: as many as
            those of ViT-B/16.
        weight_gib: of its weights, the teacher's, gradients and the optimiser's states, and of a frozen CLIP beside it.
    """

    unit: int
    positions: float
    activations: float
    weight_gib: float


VIT_B16_ACTIVATIONS = 717.0  # per pixel, counted by activations_per_pixel
VIT_B16 = EncoderSize(unit=32, positions=1.0, activations=1.0, weight_gib=0.8)


def encoder_size(cfg) -> EncoderSize:
    """That of the encoder that ``cfg`` trains, from its architecture alone; some tenths of a second.

    Raises:
        UserError: HierVL cannot read the encoder, or a key of ``MODEL.CLIP`` does not fit it.
    """
    cfg = cfg.clone()
    cfg.MODEL.RECOMPUTE = []
    encoder = encoder_without_memory(cfg)
    weights = sum(p.numel() + COPIES_OF_TRAINED * p.numel() * p.requires_grad for p in encoder.parameters())
    if cfg.MODEL.ENCODER.NAME:  # CLIP's own stands beside it
        cfg.MODEL.ENCODER.NAME, cfg.MODEL.CLIP.BLOCKS = "", []
        weights += sum(p.numel() for p in encoder_without_memory(cfg).visual.parameters())
    return EncoderSize(
        unit=encoder.size_divisibility,
        positions=(FINEST_STRIDE / float(encoder.output_shape()["res2"].stride or FINEST_STRIDE)) ** 2,
        activations=activations_per_pixel(encoder) / VIT_B16_ACTIVATIONS,
        weight_gib=BYTES_PER_WEIGHT * weights / 2**30,
    )


def activations_per_pixel(encoder: Any) -> float:
    """Numbers, with gradients, that the layers of an encoder without memory return for an image, per pixel of it."""
    count = 0

    def add(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal count
        copies = ATTENTION_MAPS if isinstance(module, nn.MultiheadAttention) else 1
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, Tensor) and output.requires_grad and not isinstance(module, KEEPS_NOTHING):
            count += copies * output.numel()

    for module in encoder.modules():
        if isinstance(module, nn.MultiheadAttention) or not list(module.children()):
            module.register_forward_hook(add)
    side = -(-SIDE // encoder.size_divisibility) * encoder.size_divisibility
    encoder(torch.zeros(1, 3, side, side, device="meta"))
    return count / side**2
