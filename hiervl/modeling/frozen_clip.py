"""The frozen CLIP: CLIP before training, beside the trained encoder. It guides unlabelled images (SemiVL; MaskCLIP)."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import TextFeatures

from .image_encoder import ImageEncoder
from .image_statistics import ImageStatistics


class ClipEmbeddings(NamedTuple):
    """Embeddings of images by the frozen encoder. All vectors have length 1."""

    dense: Tensor  # (B, D, H/stride, W/stride)
    pooled: Tensor | None  # (B, D); None unless asked for


class FrozenClip(nn.Module):
    """CLIP's image encoder before training, without visual prompts: its embeddings and its dense zero-shot prediction.

    Its weights are buffers outside every ``state_dict``: every run takes them from CLIP again. They are neither saved
    nor trained. A copy of a network shares them.
    """

    factor: Tensor  # (3, 1, 1), from the student's statistics to CLIP's own
    shift: Tensor

    def __init__(
        self,
        backbone: ImageEncoder,
        logit_scale: float,
        share: bool = True,
        from_statistics: tuple[ImageStatistics, ImageStatistics] | None = None,
    ):
        """
        Args:
            backbone: the image encoder before training.
            logit_scale: CLIP's own factor on its similarities.
            share: share weights that training never changes with the trained encoder, instead of copying them. Do not
                use it if other weights than CLIP's are loaded into that encoder later.
            from_statistics: if images are normalised and padded for another encoder, the pixel statistics of that
                encoder and of CLIP; None: they are normalised for CLIP.
        """
        super().__init__()
        self.encoder = copy.deepcopy(backbone)
        self.encoder.keep_embeddings_only()
        for own, trained in zip(self.encoder.visual.parameters(), backbone.visual.parameters()):
            if share and not trained.requires_grad:
                own.data = trained.data
        _parameters_to_buffers(self.encoder)
        self.eval()
        self.logit_scale = logit_scale
        self.is_of_another = from_statistics is not None
        if from_statistics is not None:
            (mean, std), (own_mean, own_std) = (map(torch.tensor, each) for each in from_statistics)
            self.register_buffer("factor", (std / own_std).view(-1, 1, 1), persistent=False)
            self.register_buffer("shift", ((mean - own_mean) / own_std).view(-1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "FrozenClip":
        """It is never trained."""
        return super().train(False)

    def __deepcopy__(self, memo) -> "FrozenClip":
        return self

    @torch.no_grad()
    def embed(self, images: Tensor, pooled: bool = False) -> ClipEmbeddings:
        """images (B, 3, H, W), normalised and padded; ``pooled``: also give the pooled embedding."""
        if self.is_of_another:
            images = self._as_clip_sees(images)
        return ClipEmbeddings(*self.encoder.embeddings(images, pooled))

    def _as_clip_sees(self, images: Tensor) -> Tensor:
        """The same images, normalised for CLIP and resized to the nearest size that its grid covers exactly."""
        unit = self.encoder.size_divisibility
        size = [(side + unit // 2) // unit * unit for side in images.shape[2:]]
        size = [max(side, unit) for side in size]
        images = images * self.factor + self.shift
        if not self.encoder.export_form and tuple(size) == tuple(images.shape[2:]):
            return images
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def classify(self, dense: Tensor, text: TextFeatures) -> Tensor:
        """Dense embedding (B, D, h, w) → class probabilities (B, C, h, w). The best phrase of a class counts."""
        with torch.autocast(dense.device.type, enabled=False):  # the scale multiplies hundredths of similarity
            similarity = text.prototype_similarity(dense.float().permute(0, 2, 3, 1))
            return (similarity * self.logit_scale).softmax(-1).permute(0, 3, 1, 2)

    def forward(self, images: Tensor, text: TextFeatures) -> Tensor:
        """images (B, 3, H, W), normalised and padded → class probabilities (B, C, H/stride, W/stride)."""
        return self.classify(self.embed(images).dense, text)


def _parameters_to_buffers(module: nn.Module) -> None:
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            delattr(part, name)
            part.register_buffer(name, tensor.detach(), persistent=False)
