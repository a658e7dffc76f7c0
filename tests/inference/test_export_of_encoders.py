"""Every family of image encoders, alone and as a frozen CLIP beside another, in one graph for all sizes."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hiervl.inference.export import FORMATS, FixedClassSegmenter, export_graph, parity
from hiervl.modeling.clip import load_clip
from hiervl.modeling.encoders import encoder_class
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.structures import TextFeatures
from tests.families import FAMILIES, shake, write_clip, write_tokenizer

MEAN, STD = (0.45, 0.46, 0.41), (0.25, 0.26, 0.28)
BESIDE = ("vit", "efficientnet")  # the families that are also a frozen CLIP beside another encoder, to save time


class Encoded(nn.Module):
    """Stands in for the network: its maps are those of an encoder, and what a frozen CLIP says of the same images."""

    gate = None

    def __init__(self, backbone: nn.Module, frozen_clip: FrozenClip | None):
        super().__init__()
        self.backbone, self.frozen_clip = backbone, frozen_clip
        self.pixel_mean, self.pixel_std = (255 * torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))

    def encode_text(self) -> TextFeatures:
        return TextFeatures(*(torch.zeros(1) for _ in TextFeatures._fields))

    def segment(self, images, text):
        features = list(self.backbone(images).values())
        return features if self.frozen_clip is None else [*features, *self.frozen_clip.embed(images, pooled=True)]

    def semantic_scores(self, maps, text):
        """One channel for each of the encoder's outputs and for the frozen CLIP's two."""
        size = maps[0].shape[2:]
        channels = []
        for map in maps:
            weights = torch.arange(1, map.shape[1] + 1).cos()
            if map.dim() == 2:
                channels.append((map @ weights)[:, None, None, None].expand(-1, 1, *size))
            else:
                mixed = torch.einsum("bdhw,d->bhw", map, weights).unsqueeze(1)
                channels.append(F.interpolate(mixed, size=size, mode="bilinear", align_corners=False))
        return torch.cat(channels, dim=1)


@pytest.fixture(autouse=True)
def without_trace(monkeypatch):
    """pytest listens to all loggers; torch.export then writes a trace of itself, which takes most of its time."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_family_is_exported(family, tmp_path):
    tokenizer = write_tokenizer(tmp_path) if family == "siglip" else ""
    clip, _ = load_clip(write_clip(family, tmp_path), "", tokenizer)
    shake(clip)
    encoder = encoder_class(clip.visual, family)(clip.visual).eval()
    statistics = ((MEAN, STD), ((0.5,) * 3, (0.5,) * 3))
    beside = FrozenClip(encoder, 100.0, from_statistics=statistics) if family in BESIDE else None
    network = Encoded(encoder, beside).eval()
    segmenter, form, path = FixedClassSegmenter(network), FORMATS["torchscript"], tmp_path / "encoder.pt"
    form.write(export_graph(segmenter), path, {})
    run, unit = form.read(path), encoder.size_divisibility
    for shape in ((1, 2 * unit + 5, 3 * unit), (2, 4 * unit, 2 * unit + 1)):
        images = parity.random_images(shape, torch.Generator().manual_seed(3))
        expected = segmenter(images)
        assert expected.shape[1] == (6 if beside is None else 8)
        torch.testing.assert_close(run(images), expected, atol=1e-4, rtol=1e-4)
