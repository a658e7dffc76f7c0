"""Give an image the colours of another one (Reinhard et al., "Color Transfer between Images", 2001).

Unlabelled images are often taken in another light than the labelled ones. The student sees labelled images in the
colours of unlabelled ones, with their true labels; the teacher sees unlabelled images in the colours of labelled ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiervl.utils.transfer import to_device

LEAST_SPREAD = 1.0  # grey values; avoids a division by 0 in images of one colour

Batch = dict[str, list[dict]]


def in_unlabeled_colors(batch: Batch, probability: float, device: torch.device) -> Batch:
    """Give labelled images and strong views, which the student sees, the colours of unlabelled images.

    Each of them changes with ``probability``. The colours come from a weak view of the batch, drawn at random. The
    image moves part of the way to these colours: the amount is drawn uniformly from 0 to 1.

    Args:
        batch: "labeled" samples with "image", "unlabeled" ones with "image_weak" and strong views, (3, H, W) in 0…255,
            all with "valid", (H, W) bool, False on padding.

    Returns:
        The batch, with new samples where images have changed (float32, on ``device``). Without unlabelled samples
        nothing changes.
    """
    looks = [(sample["image_weak"], sample["valid"]) for sample in batch["unlabeled"]]
    if not looks:
        return batch

    def changed(sample: dict) -> dict:
        names = [name for name in sample if name == "image" or name.startswith("image_strong")]
        chosen = [name for name in names if torch.rand(()) < probability]
        amounts = torch.rand(len(chosen)).tolist()
        images = {
            name: _recolor(sample[name], sample["valid"], looks, amount, device)
            for name, amount in zip(chosen, amounts)
        }
        return {**sample, **images}

    return {key: [changed(sample) for sample in samples] for key, samples in batch.items()}


def in_labeled_colors(batch: Batch, device: torch.device) -> Tensor:
    """The weak views, (B, 3, H, W), each with the colours of a labelled image of the batch, drawn at random."""
    looks = [(sample["image"], sample["valid"]) for sample in batch["labeled"]]
    weak = [(sample["image_weak"], sample["valid"]) for sample in batch["unlabeled"]]
    return torch.stack([_recolor(image, valid, looks, 1.0, device) for image, valid in weak])


def _recolor(
    image: Tensor, valid: Tensor, looks: Sequence[tuple[Tensor, Tensor]], amount: float, device: torch.device
) -> Tensor:
    look, look_valid = looks[int(torch.randint(len(looks), ()))]
    pixels = _valid_pixels(to_device(look, device).float(), to_device(look_valid, device))
    return transfer_colors(to_device(image, device).float(), to_device(valid, device), pixels, amount)


def transfer_colors(image: Tensor, valid: Tensor, look: Tensor, amount: float) -> Tensor:
    """Move the mean and standard deviation of every channel towards those of the pixels ``look``.

    Args:
        image: (3, H, W), float in 0…255.
        valid: (H, W) bool, False on padding. Padding is not counted and does not change.
        look: (3, N) pixels in 0…255.
        amount: from 0 to 1. 0 leaves the image as it is. 1 gives it the mean and deviation of ``look``.

    Returns:
        (3, H, W), clipped to 0…255.
    """
    pixels = _valid_pixels(image, valid)
    if not pixels.numel() or not look.numel():
        return image
    mean, spread = _mean_and_spread(pixels)
    look_mean, look_spread = _mean_and_spread(look)
    new_mean, new_spread = mean.lerp(look_mean, amount), spread.lerp(look_spread, amount)
    moved = (image - mean) * (new_spread / spread.clamp(min=LEAST_SPREAD)) + new_mean
    return torch.where(valid, moved.clamp(0, 255), image)


def _valid_pixels(image: Tensor, valid: Tensor) -> Tensor:
    """(3, N): gathered only where there is padding, because that takes much longer than all the rest."""
    return image.flatten(1) if valid.all() else image[:, valid]


def _mean_and_spread(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, (3, 1, 1) each. (``torch.std_mean`` is several times slower.)"""
    mean = pixels.mean(dim=1, keepdim=True)
    spread = (pixels - mean).square().mean(dim=1, keepdim=True).sqrt()
    return mean[..., None], spread[..., None]
