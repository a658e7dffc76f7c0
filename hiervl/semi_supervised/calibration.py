"""Fitting the relevance gate and its threshold to the labelled images (design §1.3)."""

import math
from typing import List, Tuple

import numpy as np
import torch
from torch import Tensor

from hiervl.data.loaders import build_labeled_loader, load_labeled
from hiervl.modeling import HierVL

MAX_IMAGES = 64
BATCH = 8


@torch.no_grad()
def labelled_similarities(cfg, model: HierVL) -> Tuple[Tensor, Tensor]:
    """Similarity of labelled images to every class, and which classes they show: (images, C), (images, C) bool."""
    was_training = model.training
    model.eval()
    text = model.encode_text()
    similarity: List[Tensor] = []
    presence: List[Tensor] = []
    loader = iter(build_labeled_loader(cfg, BATCH))
    for _ in range(math.ceil(min(MAX_IMAGES, len(load_labeled(cfg))) / BATCH)):
        batch = next(loader)
        pooled = model.backbone(model.normalise([sample["image"] for sample in batch]))["pooled_embedding"]
        similarity.append(text.class_similarity(pooled.float()))
        for sample in batch:
            labels = np.unique(sample["sem_seg"].numpy())
            shown = torch.zeros(len(model.class_names), dtype=torch.bool)
            shown[[c for c in labels if c < len(shown)]] = True
            presence.append(shown)
    model.train(was_training)
    return torch.cat(similarity), torch.stack(presence).to(model.device)


def fit_gate(cfg, model: HierVL) -> None:
    """Place an untrained gate where the similarities of this CLIP and these classes lie."""
    if cfg.MODEL.HSQG.RELEVANCE:
        similarity, _ = labelled_similarities(cfg, model)
        model.query_generator.fit_gate(similarity)


def calibrate_threshold(cfg, model: HierVL) -> None:
    """Let the share ``MODEL.HSQG.CALIBRATED_RECALL`` of the classes in the labelled images pass."""
    hsqg = cfg.MODEL.HSQG
    if not hsqg.RELEVANCE or not hsqg.CALIBRATED_RECALL:
        return
    similarity, presence = labelled_similarities(cfg, model)
    relevance = model.query_generator.gate_logits(similarity).sigmoid()
    model.query_generator.calibrate_threshold(relevance, presence, hsqg.CALIBRATED_RECALL, hsqg.THRESHOLD)
