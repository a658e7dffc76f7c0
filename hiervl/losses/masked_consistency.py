"""Masked consistency: one class of an image is hidden, and the encoder must infer it (paper §3.6.2, eq. 6–8)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .normalization import mean_over_processes

HIDDEN_SHARE = 0.5  # a patch is hidden where the class covers at least this share of it
HIDDEN_VALUE = 0.0  # value of a normalised pixel: CLIP's mean colour


class HiddenClass(NamedTuple):
    """Images in which the patches of one class are hidden."""

    images: Tensor  # (B, 3, H, W)
    classes: Tensor  # (B,): the hidden class; has no meaning if no patch is hidden
    patches: Tensor  # (B, H/patch, W/patch) bool: the hidden patches


def hide_random_class(
    images: Tensor, labels: Tensor, patch_size: int, num_classes: int, ignore_value: int
) -> HiddenClass:
    """Hide one random class of every image.

    Whole patches are hidden, so that the outline of the class cannot be seen: all patches that the class covers by at
    least half. A class too thin for that loses the patches that it covers most. An image with fewer than two classes
    stays whole, because nothing would be left to infer the class from.

    Args:
        images: (B, 3, H, W) normalised and padded to whole patches; they are not changed.
        labels: (B, H, W), ``ignore_value`` on unlabelled pixels and padding.
    """
    counted = labels.masked_fill(labels == ignore_value, num_classes).flatten(1)
    present = torch.zeros(len(labels), num_classes + 1, device=labels.device)
    present.scatter_(1, counted, 1.0)
    present = present[:, :num_classes] > 0
    # Draw a random number for each present class and take the largest: all are equally likely.
    lots = torch.rand(present.shape, device=labels.device).masked_fill(~present, -1.0)
    classes = lots.argmax(1)
    class_mask = (labels == classes[:, None, None]).float()
    share = F.avg_pool2d(class_mask.unsqueeze(1), patch_size).squeeze(1)  # (B, h, w)
    least = share.amax((1, 2), keepdim=True).clamp(max=HIDDEN_SHARE)
    may_hide = (present.sum(1) > 1)[:, None, None]
    patches = (share >= least) & (share > 0) & may_hide
    pixels = patches.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)
    return HiddenClass(images.masked_fill(pixels.unsqueeze(1), HIDDEN_VALUE), classes, patches)


def masked_consistency_loss(masked: Tensor, whole: Tensor, patches: Tensor) -> Tensor:
    """Mean over the hidden patches of 1 − cos(masked, whole) (eq. 6); 0 where nothing is hidden.

    Args:
        masked: (B, D, h, w) of the trained encoder, which sees the image with the class hidden.
        whole: (B, D, h, w) of the frozen encoder, which sees all of it.
        patches: (B, h, w) bool.
    """
    distance = 1.0 - F.cosine_similarity(masked, whole, dim=1)
    return (distance * patches).sum() / mean_over_processes(patches.sum())


def pixel_text_loss(similarity: Tensor, classes: Tensor, patches: Tensor, temperature: float) -> Tensor:
    """Mean over the hidden patches of −log softmax_j(cos(masked, t_j)/τ) at the hidden class (eq. 7); 0 where nothing
    is hidden.

    Args:
        similarity: (B, h, w, C), cosine of the masked embedding to every class's text.
        classes: (B,); patches: (B, h, w) bool; temperature: τ.
    """
    log_p = (similarity / temperature).log_softmax(-1)
    hidden_log_p = log_p.gather(3, classes[:, None, None, None].expand(*log_p.shape[:3], 1)).squeeze(3)
    return -(hidden_log_p * patches).sum() / mean_over_processes(patches.sum())
