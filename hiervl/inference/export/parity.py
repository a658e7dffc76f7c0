"""Check that an exported file computes the same as the network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hiervl.modeling.segmenter import ClipSegmenter

Run = Callable[[Tensor], Tensor]  # (B, 3, H, W) in 0…255 → S (B, C, H, W)
DETAILS = 16  # pixels between random colours: coarse patterns, as in photographs, not noise


class Parity(NamedTuple):
    """The comparison of one batch."""

    shape: tuple[int, int, int]  # images, height, width
    difference: float  # largest difference between values of S
    largest: float  # largest value of S
    agreement: float  # share of the pixels with the same best class


def check_parity(network: ClipSegmenter, run: Run, shapes: Sequence[tuple[int, int, int]]) -> list[Parity]:
    """Compare ``run`` with the network (in evaluation mode) on random images of the given shapes."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        images = random_images(shape, generator).to(network.device)
        expected, scores = network.semantic_maps(images), run(images)
        found.append(
            Parity(
                shape,
                (expected - scores).abs().max().item(),
                expected.max().item(),
                (expected.argmax(1) == scores.argmax(1)).float().mean().item(),
            )
        )
    return found


def random_images(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Coloured clouds with some noise: (B, 3, H, W), float32 in 0…255."""
    batch, height, width = shape
    coarse = torch.rand(batch, 3, height // DETAILS + 2, width // DETAILS + 2, generator=generator)
    clouds = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    noise = 0.05 * torch.randn(batch, 3, height, width, generator=generator)
    return ((clouds + noise) * 255).clamp(0, 255)


def shapes_to_check(crop_size: int, smallest: int) -> list[tuple[int, int, int]]:
    """The training crop, another size in another batch, and a small one."""
    wide = (max(smallest, crop_size * 3 // 4 + 1), max(smallest, crop_size * 5 // 4 + 3))
    return [(1, max(smallest, crop_size), max(smallest, crop_size)), (2, *wide), (3, smallest, smallest + 6)]
