"""Which patches of a class are hidden; both losses by hand, by their gradients, and by what they should reward."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hiervl.losses.masked_consistency import hide_random_class, masked_consistency_loss, pixel_text_loss

IGNORE = 255
EMBEDDINGS = Path(__file__).resolve().parents[3] / "shared" / "clip_text_embeddings" / "voc12_wbg_single.npy"


def hide(labels, patch_size=2, num_classes=4):
    images = torch.ones(len(labels), 3, *labels.shape[1:])
    return hide_random_class(images, labels, patch_size, num_classes, IGNORE)


def test_patches_that_the_class_covers_by_half_are_hidden():
    """Class 3 covers 4, 2, 1 and 0 pixels of four patches of 2 × 2; class 1 the rest. Whichever is drawn, its patches
    of at least 2 pixels are black and no others."""
    labels = torch.tensor([[[3, 3, 3, 3, 3, 1, 1, 1], [3, 3, 1, 1, 1, 1, 1, 1]]])
    expected = {3: [True, True, False, False], 1: [False, True, True, True]}
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        hidden = hide(labels)
        (drawn,) = hidden.classes.tolist()
        seen.add(drawn)
        assert hidden.patches.flatten().tolist() == expected[drawn]
        black = (hidden.images == 0).all(1)[0]
        assert black.tolist() == [[p for p in expected[drawn] for _ in range(2)]] * 2
    assert seen == {1, 3}


def test_of_a_thin_class_the_patch_that_it_covers_most_is_hidden():
    """Class 2 covers a quarter of one patch of 4 × 4 and a sixteenth of another."""
    labels = torch.zeros(1, 4, 8, dtype=torch.long)
    labels[0, 0, :4] = 2
    labels[0, 0, 4] = 2
    for seed in range(10):
        torch.manual_seed(seed)
        hidden = hide(labels, patch_size=4)
        if hidden.classes.item() == 2:
            assert hidden.patches.flatten().tolist() == [True, False]
            return
    raise AssertionError("class 2 was never drawn")


def test_images_of_one_class_or_none_stay_whole():
    """Beside an image of two classes; unlabelled pixels are no class and are never hidden."""
    labels = torch.full((3, 4, 4), IGNORE)
    labels[1, :2] = 1
    labels[2, :2, :2], labels[2, :2, 2:] = 0, 3
    hidden = hide(labels)
    assert hidden.patches.sum((1, 2)).tolist() == [0, 0, 1]
    assert (hidden.images[:2] == 1).all() and (hidden.images[2] == 0).sum() == 3 * 4
    features = torch.randn(3, 5, 2, 2, requires_grad=True)
    nothing = torch.zeros_like(hidden.patches)
    similarity = torch.rand(3, 2, 2, 4, requires_grad=True)
    for loss, source in (
        (masked_consistency_loss(features, torch.randn(3, 5, 2, 2), nothing), features),
        (pixel_text_loss(similarity, hidden.classes, nothing, 0.1), similarity),
    ):
        assert loss.item() == 0
        loss.backward()
        assert not source.grad.any()


def test_every_present_class_is_drawn_alike():
    """600 draws of 3 classes, which cover unequal areas: 200 each, ± 5 standard deviations (11.5)."""
    labels = torch.zeros(600, 2, 8, dtype=torch.long)
    labels[:, :, 6:], labels[:, :, 4:6] = 2, 3
    torch.manual_seed(0)
    counts = torch.bincount(hide(labels).classes, minlength=4).tolist()
    assert counts[1] == 0 and all(abs(count - 200) < 58 for count in (counts[0], *counts[2:]))


def test_masked_consistency_by_hand():
    """Cosines 0 and 0.6 on the two hidden patches: (1 + 0.4) / 2; the third is not hidden, lengths do not count."""
    masked = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 3)
    whole = torch.tensor([[0.0, 5.0], [3.0, 4.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 3)
    patches = torch.tensor([[[True, True, False]]])
    assert masked_consistency_loss(masked, whole, patches).item() == pytest.approx(0.7)


def test_pixel_text_by_hand():
    """Two classes of cosines 0.8 and 0.6 at τ = 0.2: −log(e⁴ / (e⁴ + e³)) for the first, 1 more for the second."""
    similarity = torch.tensor([0.8, 0.6]).expand(2, 1, 1, 2)
    patches = torch.ones(2, 1, 1, dtype=torch.bool)
    first = math.log(1 + math.exp(-1))
    for classes, expected in (([0, 0], first), ([1, 1], first + 1), ([0, 1], first + 0.5)):
        loss = pixel_text_loss(similarity, torch.tensor(classes), patches, temperature=0.2)
        assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_gradients_equal_finite_differences():
    torch.manual_seed(1)
    masked = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    whole, texts = torch.randn(1, 3, 2, 2).double(), F.normalize(torch.randn(4, 3).double(), dim=1)
    patches = torch.tensor([[[True, False], [True, True]]])

    def consistency(x):
        return masked_consistency_loss(x, whole, patches)

    def pixel_text(x):
        return pixel_text_loss(F.normalize(x, dim=1).permute(0, 2, 3, 1) @ texts.T, torch.tensor([2]), patches, 0.5)

    for loss in (consistency, pixel_text):
        assert torch.autograd.gradcheck(loss, masked)
        masked.grad = None
        loss(masked).backward()
        assert masked.grad[:, :, 0, 0].any() and not masked.grad[:, :, 0, 1].any()


def test_identical_encoders_on_an_unmasked_image_agree(make_network):
    """The frozen copy of an untrained encoder: distance 0 where nothing is hidden, more where something is."""
    from hiervl.modeling.frozen_clip import FrozenClip

    network = make_network("MODEL.CLIP.VISUAL_PROMPTS", 0, trained=False)
    images = network.normalize(list(255 * torch.rand(2, 3, 64, 64)))
    whole = FrozenClip(network.backbone, 10.0).embed(images).dense
    everything = torch.ones(2, 8, 8, dtype=torch.bool)
    with torch.no_grad():
        loss = masked_consistency_loss(network.backbone.dense_embedding(images), whole, everything)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        labels = torch.zeros(2, 64, 64, dtype=torch.long)
        labels[:, 16:48, 16:48] = 1
        hidden = hide_random_class(images, labels, 8, 2, IGNORE)
        assert masked_consistency_loss(network.backbone.dense_embedding(hidden.images), whole, hidden.patches) > 1e-3


@pytest.mark.skipif(not EMBEDDINGS.is_file(), reason="CLIP's text embeddings of Pascal VOC are not at hand")
def test_pixel_text_falls_as_an_embedding_moves_to_its_text():
    """From every other class's text to its own, among CLIP's embeddings of the 21 classes of Pascal VOC."""
    texts = F.normalize(torch.from_numpy(np.load(EMBEDDINGS)).float(), dim=-1)
    assert len(texts) == 21
    patches = torch.ones(1, 1, 1, dtype=torch.bool)
    for true in range(21):
        for other in {0, (true + 1) % 21, (true + 7) % 21} - {true}:
            losses = []
            for step in (0.0, 0.25, 0.5, 0.75, 1.0):
                embedding = F.normalize((1 - step) * texts[other] + step * texts[true], dim=0)
                similarity = (texts @ embedding).view(1, 1, 1, 21)
                losses.append(pixel_text_loss(similarity, torch.tensor([true]), patches, 0.07).item())
            assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1
