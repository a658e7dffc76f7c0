"""Which classes the frozen CLIP knows, measured on labelled images; parts that use CLIP leave out the others."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from hiervl.evaluation import confusion_matrix
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.modeling.segmenter import ClipSegmenter

from .calibration import labeled_batches

logger = logging.getLogger(__name__)

ENOUGH_IMAGES = 3  # a class counts as unknown only if at least this many labelled images show it


def silence_prior(cfg, model: ClipSegmenter) -> None:
    """Switch the mask prior off for classes that CLIP does not know (``MODEL.QUERY_DECODER.PRIOR_MIN_IOU``).

    Call it before the encoder is trained or anything is loaded into it. All processes see the same labelled images, so
    they agree.
    """
    least = cfg.MODEL.QUERY_DECODER.PRIOR_MIN_IOU
    prior = model.mask_prior
    if prior is None or not least:
        return
    iou, shown = zero_shot(cfg, model, model.frozen_clip or FrozenClip(model.backbone, model.logit_scale))
    unknown = unknown_classes(iou, shown, least)
    prior.known[unknown] = False
    if unknown:
        logger.warning(
            "CLIP does not know some classes (in brackets how far its zero-shot prediction overlaps the labelled "
            "images, IoU): %s. Their masks start from nothing instead of from its similarity to their names "
            "(MODEL.QUERY_DECODER.PRIOR_MIN_IOU %g); other words for them may help.",
            describe_classes(model.class_names, iou, unknown), least,
        )  # fmt: skip


def describe_classes(class_names: Sequence[str], iou: np.ndarray, classes: Sequence[int]) -> str:
    """Names of classes with their IoU, for a message."""
    return ", ".join(f"'{class_names[c]}' ({100 * iou[c]:.1f} %)" for c in classes)


def unknown_classes(iou: np.ndarray, shown: np.ndarray, least: float) -> list[int]:
    """Classes on which the frozen CLIP has an IoU below ``least`` (0…1), measured on enough labelled images.

    Args:
        iou: (C,), nan for classes that do not occur; shown: (C,), number of labelled images with each class.
    """
    return [c for c in range(len(iou)) if shown[c] >= ENOUGH_IMAGES and iou[c] < least]


@torch.no_grad()
def zero_shot(cfg, network, clip: FrozenClip) -> tuple[np.ndarray, np.ndarray]:
    """IoU of the frozen CLIP's dense prediction on labelled images: (C,), 0…1, nan for classes that do not occur. Also
    the number of images with each class: (C,)."""
    num_classes, ignore_value = len(network.class_names), cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    shown = np.zeros(num_classes, dtype=np.int64)
    text = network.encode_text()
    for images, truth in labeled_images(cfg, network):
        for image_truth in truth:
            shown[image_truth[image_truth != ignore_value].unique().cpu().numpy()] += 1
        batch = network.normalize(list(images))
        probability = F.interpolate(clip(batch, text), size=batch.shape[2:], mode="bilinear", align_corners=False)
        labels = probability.argmax(1)[:, : truth.shape[1], : truth.shape[2]]
        confusion += confusion_matrix(truth.cpu().numpy(), labels.cpu().numpy(), num_classes, ignore_value)
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    iou = np.divide(hits, union, out=np.full(num_classes, np.nan), where=union > 0)
    return iou, shown


def labeled_images(cfg, network, batches: Iterable[list[dict]] | None = None):
    """Batches of (B, 3, H, W) images in 0…255 and their labels (B, H, W): of the labelled images in training, or as
    given."""
    for batch in labeled_batches(cfg) if batches is None else batches:
        images = torch.stack([sample["image"] for sample in batch]).to(network.device)
        yield images, torch.stack([sample["sem_seg"] for sample in batch]).to(network.device)
