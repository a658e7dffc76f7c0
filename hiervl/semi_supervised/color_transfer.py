"""Labelled images in the colours of unlabelled ones (Reinhard et al., "Color Transfer between Images", 2001)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiervl.utils.transfer import to_device

LEAST_SPREAD = 1.0  # grey values; an image of one colour has none to be scaled


def in_colors_of_others(
    labeled: Sequence[dict], unlabeled: Sequence[dict], probability: float, device: torch.device
) -> list[dict]:
    """Give labelled samples the colours of unlabelled ones, so that true labels are also seen in their light.

    Each labelled sample is changed with ``probability``. It moves part of the way, uniform between none and all of it,
    to the colours of an unlabelled sample of the batch that is drawn at random.

    Args:
        labeled: samples with "image", (3, H, W) in 0…255, and "valid", (H, W) bool, False on padding.
        unlabeled: samples with "image_weak" and "valid" of the same kind; none: nothing changes.

    Returns:
        The labelled samples in their order, new dicts where the image is another one (float32, on ``device``).
    """
    if not unlabeled:
        return list(labeled)
    changed = []
    for sample in labeled:
        if torch.rand(()) < probability:
            other = unlabeled[int(torch.randint(len(unlabeled), ()))]
            image, valid, look, look_valid = (
                to_device(x, device) for x in (sample["image"], sample["valid"], other["image_weak"], other["valid"])
            )
            amount = float(torch.rand(()))
            sample = {**sample, "image": transfer_colors(image.float(), valid, look.float()[:, look_valid], amount)}
        changed.append(sample)
    return changed


def transfer_colors(image: Tensor, valid: Tensor, look: Tensor, amount: float) -> Tensor:
    """Move mean and standard deviation of every channel towards those of other pixels.

    Args:
        image: (3, H, W), float in 0…255.
        valid: (H, W) bool; the others are padding, which neither counts nor changes.
        look: (3, N) pixels in 0…255.
        amount: 0 leaves the image as it is, 1 gives it the mean and deviation of ``look``, up to clipping at 0 and 255.
    """
    pixels = image[:, valid]
    if not pixels.numel() or not look.numel():
        return image
    spread, mean = torch.std_mean(pixels, dim=1, correction=0, keepdim=True)
    look_spread, look_mean = torch.std_mean(look, dim=1, correction=0, keepdim=True)
    new_mean, new_spread = mean.lerp(look_mean, amount), spread.lerp(look_spread, amount)
    moved = (pixels - mean) * (new_spread / spread.clamp(min=LEAST_SPREAD)) + new_mean
    result = image.clone()
    result[:, valid] = moved.clamp(0, 255)
    return result
