"""Guidance by the untrained CLIP: which pixels, which labels, which weight."""

import pytest
import torch

from hiervl.config.files import SHIPPED, SHIPPED_BASE
from hiervl.engine.run_config import load_config
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.semi_supervised.guidance import ClipGuidance
from hiervl.utils.errors import UserError

SEMIVL = "baselines/semivl.yaml"


def says():
    """(1, 2, 1, 2) of a CLIP that is sure of class 1 on the left, and unsure on the right."""
    left, right = torch.tensor([0.05, 0.95]), torch.tensor([0.6, 0.4])
    return torch.stack((left, right), dim=-1)[None, :, None, :]


def test_only_sure_and_valid_pixels_are_guided():
    guidance = ClipGuidance(confidence=0.9, first_weight=1.0, last_weight=0.0, max_iter=10)
    valid = torch.ones(1, 4, 8, dtype=torch.bool)
    valid[:, 0] = False
    labels, keep = guidance.labels(says(), (4, 8), valid, ignore_value=255)
    assert (labels[:, 0] == 255).all() and not keep[:, 0].any()
    assert (labels[:, 1:, :3] == 1).all() and (labels[:, 1:, 6:] == 0).all()
    assert keep[:, 1:, 0].all() and not keep[:, :, 4:].any()


def test_labels_lie_where_the_padded_image_had_them(resize_by_opencv):
    """The probabilities belong to the padded image; what they say of the padding is cut off, not squeezed in."""
    torch.manual_seed(0)
    probability = (4 * torch.randn(2, 3, 3, 4)).softmax(1)
    guidance = ClipGuidance(confidence=0.6, first_weight=1.0, last_weight=1.0, max_iter=1)
    valid = torch.ones(2, 10, 13, dtype=torch.bool)
    labels, keep = guidance.labels(probability, (12, 16), valid, ignore_value=255)
    confidence, expected = resize_by_opencv(probability, (12, 16))[:, :, :10, :13].max(1)
    assert torch.equal(labels, expected) and torch.equal(keep, confidence >= 0.6)
    assert 0.2 < keep.float().mean() < 0.9


def test_background_gives_no_guidance():
    guidance = ClipGuidance(background=[1], confidence=0.55, first_weight=1.0, last_weight=1.0, max_iter=1)
    labels, keep = guidance.labels(says(), (4, 8), torch.ones(1, 4, 8, dtype=torch.bool), ignore_value=255)
    assert not keep[labels == 1].any() and keep[:, :, 7].all()


def test_softmax_at_the_pixels_is_that_of_resized_similarities():
    """As SemiVL's code: the similarities are resized, then CLIP's factor and the softmax. Surer between two patches."""
    torch.manual_seed(0)
    similarity = 0.4 * torch.nn.functional.normalize(torch.randn(2, 5, 3, 4), dim=1)  # CLIP's differ by less
    probability = (100 * similarity).softmax(1)
    valid = torch.ones(2, 9, 14, dtype=torch.bool)
    resized = torch.nn.functional.interpolate(similarity, size=(12, 16), mode="bilinear", align_corners=False)
    confidence, labels = (100 * resized).softmax(1)[:, :, :9, :14].max(1)
    kept = {}
    for softmax_at in ("patches", "pixels"):
        guidance = ClipGuidance(confidence=0.9, first_weight=1.0, last_weight=1.0, max_iter=1, softmax_at=softmax_at)
        kept[softmax_at] = guidance.labels(probability, (12, 16), valid, ignore_value=255)
    found, keep = kept["pixels"]
    assert torch.equal(found, labels) and torch.equal(keep, confidence >= 0.9)
    assert keep.sum() > kept["patches"].keep.sum()
    with pytest.raises(UserError, match="SEMI.GUIDANCE_SOFTMAX is one of patches, pixels, not 'both'"):
        ClipGuidance(confidence=0.9, first_weight=1.0, last_weight=1.0, max_iter=1, softmax_at="both")


def test_the_semivl_baseline_guides_as_its_code():
    plain, semivl = (load_config(str(SHIPPED_BASE), deltas=deltas) for deltas in ([], [str(SHIPPED / SEMIVL)]))
    guidance = [ClipGuidance.from_config(cfg, [0]) for cfg in (plain, semivl)]
    assert [(each.softmax_at, each.unguided) for each in guidance] == [("patches", {0}), ("pixels", set())]
    assert semivl.MODEL.TEXT.TEMPLATE.format("dog") == "a photo of a dog"


def test_weight_falls_linearly():
    guidance = ClipGuidance(confidence=0.9, first_weight=0.1, last_weight=0.0, max_iter=10)
    assert [guidance.weight(t) for t in (0, 5, 10, 20)] == pytest.approx([0.1, 0.05, 0.0, 0.0])


def test_frozen_clip_stays_what_clip_was(make_network):
    network = make_network()
    frozen = FrozenClip(network.backbone, 10.0)
    text, images = network.encode_text(), torch.rand(2, 3, 64, 64)
    before = frozen(images, text)
    assert torch.allclose(before.sum(1), torch.ones_like(before.sum(1)), atol=1e-5)
    # Without visual prompts and untrained, it agrees with the encoder itself.
    network.backbone.visual_prompts = None
    dense = network.backbone(images)["dense_embedding"]
    expected = (torch.einsum("bdhw,cd->bchw", dense, text.prototypes) * 10.0).softmax(1)
    assert torch.allclose(before, expected, atol=1e-5)
    with torch.no_grad():
        for parameter in network.backbone.visual.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert torch.equal(frozen(images, text), before)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
