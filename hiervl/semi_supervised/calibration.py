"""Fit the relevance gate and its threshold to the labelled images (design §1.3)."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hiervl.data.loading.loaders import build_labeled_loader, load_labeled
from hiervl.modeling.segmenter import ClipSegmenter

MAX_IMAGES = 64
BATCH = 8


def labeled_batches(cfg) -> Iterator[list[dict]]:
    """Some batches of weakly augmented labelled images: the same at every call and in every process."""
    loader = build_labeled_loader(cfg, BATCH)
    return itertools.islice(loader, math.ceil(min(MAX_IMAGES, len(load_labeled(cfg))) / BATCH))


def validation_batches(cfg, count: int) -> Iterator[list[dict]]:
    """The same of about ``count`` images of the first dataset in ``DATASETS.TEST``; none without such a dataset."""
    if not cfg.DATASETS.TEST:
        return iter(())
    loader = build_labeled_loader(cfg, BATCH, cfg.DATASETS.TEST[0])
    return itertools.islice(loader, math.ceil(count / BATCH))


@torch.no_grad()
def labeled_similarities(cfg, model: ClipSegmenter) -> tuple[Tensor, Tensor]:
    """Similarity of labelled images to every class, and which classes they show: (images, C), (images, C) bool."""
    was_training = model.training
    model.eval()
    text = model.encode_text()
    similarity: list[Tensor] = []
    presence: list[Tensor] = []
    for batch in labeled_batches(cfg):
        images = model.normalize([sample["image"] for sample in batch])
        similarity.append(model.relevance_similarity(images, text))
        for sample in batch:
            labels = np.unique(sample["sem_seg"].numpy())
            shown = torch.zeros(len(model.class_names), dtype=torch.bool)
            shown[[c for c in labels if 0 <= c < len(shown)]] = True
            presence.append(shown)
    model.train(was_training)
    return torch.cat(similarity), torch.stack(presence).to(model.device)


def fit_gate(cfg, model: ClipSegmenter) -> None:
    """Fit an untrained gate to the similarities of this CLIP with these classes."""
    if model.gate is not None:
        similarity, _ = labeled_similarities(cfg, model)
        model.gate.fit_gate(similarity)


def calibrate_threshold(cfg, model: ClipSegmenter) -> None:
    """Set the threshold so that the share ``MODEL.HSQG.CALIBRATED_RECALL`` of the classes in labelled images passes."""
    hsqg = cfg.MODEL.HSQG
    if model.gate is None or not hsqg.CALIBRATED_RECALL:
        return
    similarity, presence = labeled_similarities(cfg, model)
    relevance = model.gate.gate_logits(similarity).sigmoid()
    model.gate.calibrate_threshold(relevance, presence, hsqg.CALIBRATED_RECALL, hsqg.THRESHOLD)
