"""What CLIP predicts from a dataset's phrases before any training: scores and pictures that help to choose words."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hiervl.modeling  # noqa: F401  fills Detectron2's registries
from hiervl.data.loading.augmentation import resize_image, short_side_size
from hiervl.data.loading.mappers import image_tensor
from hiervl.evaluation.semantic_evaluator import confusion_matrix, scores_from_confusion
from hiervl.modeling.encoders import build_clip_encoder
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.modeling.image_statistics import clip_statistics
from hiervl.modeling.text_encoder import build_text_encoder
from hiervl.structures import TextFeatures
from hiervl.visualization.pictures import Row

HEAT = 0.6  # share of the colour in a picture of a class's probability


class ZeroShotMaps(NamedTuple):
    """CLIP's prediction for one image, at its original size."""

    classes: Tensor  # (C, H, W) probabilities; the best phrase of a class counts, as in guidance
    claims: Tensor  # (K, H, W) bool: pixels of the class if it had that phrase alone


class ZeroShotClip(nn.Module):
    """CLIP's dense similarity to the phrases of the classes (MaskCLIP), one image at a time."""

    phrase_text: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        clip: FrozenClip,
        text: TextFeatures,
        phrase_text: Tensor,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        side: int,
    ):
        """
        Args:
            clip: the image encoder.
            text: of the C classes; phrase_text: (K, D), embeddings of length 1 of each of their phrases alone.
            pixel_mean, pixel_std: RGB statistics in 0…255.
            side: images are resized to this shorter side, in pixels.
        """
        super().__init__()
        self.clip = clip
        self.side = side
        self.text = text
        self.register_buffer("phrase_text", phrase_text)
        self.owners = text.phrase_class.tolist()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1))

    @classmethod
    def from_config(cls, cfg, class_phrases: Sequence[Sequence[str]]) -> "ZeroShotClip":
        """The CLIP of ``MODEL.CLIP`` and the template of ``MODEL.TEXT``; images as large as ``INPUT.CROP_SIZE``."""
        text, logit_scale = build_text_encoder(cfg, class_phrases)
        text.eval().to(cfg.MODEL.DEVICE)
        text_features = text()
        text.set_classes([[phrase] for phrases in class_phrases for phrase in phrases])
        frozen = FrozenClip(build_clip_encoder(cfg), logit_scale)
        statistics = clip_statistics(cfg)
        return cls(frozen, text_features, text().prototypes, *statistics, cfg.INPUT.CROP_SIZE).to(cfg.MODEL.DEVICE)

    @torch.no_grad()
    def forward(self, image: np.ndarray) -> ZeroShotMaps:
        """image: (H, W, 3) uint8 RGB."""
        size = image.shape[0], image.shape[1]
        small = resize_image(image, short_side_size(*size, self.side))
        pixels = (image_tensor(small).to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std
        height, width = pixels.shape[1:]
        step = self.clip.encoder.size_divisibility
        padded = F.pad(pixels, (0, -width % step, 0, -height % step))[None]
        dense = self.clip.embed(padded).dense

        def at_size(probability: Tensor) -> Tensor:
            """(1, C, h, w) of the patches → (C, H, W), resized as in guidance and then to the image's size."""
            seen = F.interpolate(probability, size=padded.shape[2:], mode="bilinear", align_corners=False)
            return F.interpolate(seen[:, :, :height, :width], size=size, mode="bilinear", align_corners=False)[0]

        classes = at_size(self.clip.classify(dense, self.text))
        winner = classes.argmax(0)
        claims = []
        for owner, phrase in zip(self.owners, self.phrase_text):
            if self.owners.count(owner) > 1:
                claims.append(at_size(self._with_one_phrase(dense, owner, phrase)).argmax(0) == owner)
            else:
                claims.append(winner == owner)
        return ZeroShotMaps(classes, torch.stack(claims))

    def _with_one_phrase(self, dense: Tensor, owner: int, phrase: Tensor) -> Tensor:
        """dense embedding (1, D, h, w) → class probabilities (1, C, h, w), with ``phrase`` (D,) alone for its class."""
        dense = dense.float().permute(0, 2, 3, 1)
        similarity = self.text.prototype_similarity(dense)
        similarity[..., owner] = dense @ phrase.float()
        return (similarity * self.clip.logit_scale).softmax(-1).permute(0, 3, 1, 2)


class ZeroShotScores:
    """IoU of the classes with all their phrases, and of each class with one of its phrases alone."""

    def __init__(self, class_names: Sequence[str], class_phrases: Sequence[Sequence[str]], ignore_label: int = 255):
        """
        Args:
            class_names, class_phrases: of the C classes; ignore_label: label of pixels that do not count.
        """
        self.class_names, self.ignore_label = list(class_names), ignore_label
        self.owners = [(label, phrase) for label, phrases in enumerate(class_phrases) for phrase in phrases]
        self.confusion = np.zeros((len(class_names),) * 2, dtype=np.int64)
        self.hits = np.zeros(len(self.owners), dtype=np.int64)
        self.unions = np.zeros(len(self.owners), dtype=np.int64)

    def add(self, maps: ZeroShotMaps, truth: np.ndarray) -> np.ndarray:
        """Count an image with its label map (H, W); returns the predicted label map."""
        prediction = maps.classes.argmax(dim=0).cpu().numpy()
        self.confusion += confusion_matrix(truth, prediction, len(self.class_names), self.ignore_label)
        counted = torch.from_numpy(truth != self.ignore_label)
        labels = torch.from_numpy(truth.astype(np.int64))
        for index, (label, _) in enumerate(self.owners):
            claimed = maps.claims[index].cpu() & counted
            is_class = labels == label
            self.hits[index] += int((claimed & is_class).sum())
            self.unions[index] += int((claimed | is_class).sum())
        return prediction

    def class_scores(self) -> dict:
        """mIoU and IoU by class name, in percent, as the evaluation computes them."""
        return scores_from_confusion(self.confusion, self.class_names)

    def phrase_scores(self) -> list[list[tuple[str, float]]]:
        """For every class its phrases, each with the IoU in percent of the class if it had that phrase alone.

        The other classes keep all their phrases. nan if no pixel shows the class or is predicted as it.
        """
        scores: list[list[tuple[str, float]]] = [[] for _ in self.class_names]
        for (label, phrase), hits, union in zip(self.owners, self.hits, self.unions):
            scores[label].append((phrase, 100 * hits / union if union else float("nan")))
        return scores


class ClassPictures:
    """For every class a row of pictures of the image with the most pixels of it."""

    def __init__(self, class_names: Sequence[str]):
        self.class_names = list(class_names)
        self._best: dict[int, tuple[int, str, list]] = {}

    def add(self, title: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, maps: ZeroShotMaps) -> None:
        """Consider an image (H, W, 3) with label maps (H, W)."""
        counts = np.bincount(truth.ravel(), minlength=len(self.class_names))
        for label in map(int, np.flatnonzero(counts[: len(self.class_names)])):
            if counts[label] <= self._best.get(label, (0,))[0]:
                continue
            heat = heat_picture(image, maps.classes[label].cpu().numpy())
            heat_caption = f"CLIP: {self.class_names[label]}"
            panels = [("image", image), ("truth", truth), ("CLIP", prediction), (heat_caption, heat)]
            self._best[label] = (int(counts[label]), title, panels)

    def rows(self, notes: Sequence[str]) -> list[Row]:
        """A row per class that occurs in an image, titled with its name and note."""
        return [
            (f"{self.class_names[label]}: {notes[label]} ({title})", panels)
            for label, (_, title, panels) in sorted(self._best.items())
        ]


def heat_picture(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """``image`` in grey, tinted from blue to red where a class's probability (H, W) goes from 0 to 1."""
    gray = np.repeat(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    heat = cv2.applyColorMap(np.rint(255 * probability).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    return np.rint((1 - HEAT) * gray + HEAT * heat).astype(np.uint8)
