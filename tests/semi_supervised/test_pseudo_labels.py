"""Pseudo-labels, their thresholds and CutMix by hand."""

import pytest
import torch

from hiervl.semi_supervised.pseudo_labels import (
    ConfidenceThreshold,
    PseudoLabels,
    box_masks,
    cutmix,
    kept_fractions,
    make_pseudo_labels,
)
from hiervl.utils.errors import UserError

IGNORE = 255


def test_pseudo_labels_by_hand():
    """Four pixels: certain of 1, certain of 0, undecided, certain but padded. Scores are normalised first."""
    scores = torch.tensor([[0.1, 1.9, 0.5, 0.0], [0.4, 0.1, 0.4, 9.0]]).view(1, 2, 1, 4)  # p = 0.8, 0.95, 0.56, 1
    valid = torch.tensor([[[True, True, True, False]]])
    for threshold, keep in ((0.79, [True, True, False, False]), (0.81, [False, True, False, False])):
        pseudo = make_pseudo_labels(scores, valid, ConfidenceThreshold(2, threshold), ignore_value=IGNORE)
        assert pseudo.labels.flatten().tolist() == [1, 0, 0, IGNORE]
        assert pseudo.keep.flatten().tolist() == keep


def test_class_threshold_by_hand():
    """Class 0 is predicted with 0.9 on average, class 1 with 0.5: their thresholds are 0.8 and 0.8 · 5/9 = 0.44. Class
    2 only occurs in the padding, which counts nowhere, and has no part in it."""
    threshold = ConfidenceThreshold(3, 0.8, "class")
    threshold.momentum = 0.5
    confidence = torch.tensor([[[0.95, 0.85, 0.61, 0.39, 0.01]]])
    labels = torch.tensor([[[0, 0, 1, 1, 2]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    assert threshold(confidence, labels, valid).flatten().tolist() == [True, True, True, False, False]
    torch.testing.assert_close(threshold.mean_confidence, torch.tensor([0.9, 0.5, 0.0]))
    unseen = threshold.keeps(torch.tensor([[[0.81, 0.79]]]), torch.tensor([[[2, 2]]]), valid[..., :2])
    assert unseen.flatten().tolist() == [True, False]
    # A second batch weighs 1/2, the first one 1/4: class 0 has (0.6 + 0.9 / 2) / 1.5 = 0.7.
    threshold(torch.tensor([[[0.6]]]), torch.tensor([[[0]]]), valid[..., :1])
    torch.testing.assert_close(threshold.mean_confidence, torch.tensor([0.7, 0.5, 0.0]))


def test_adaptive_threshold_by_hand():
    """Three pixels of class 0 with 0.8 on average, one of class 1 with 0.4: 0.7 on average over all. The thresholds are
    0.7 for class 0 and 0.7 · 0.4/0.8 = 0.35 for class 1, whatever SEMI.CONFIDENCE is."""
    threshold = ConfidenceThreshold(2, 0.99, "adaptive")
    labels, valid = torch.tensor([[[0, 0, 0, 1]]]), torch.ones(1, 1, 4, dtype=torch.bool)
    keep = threshold(torch.tensor([[[0.9, 0.81, 0.69, 0.4]]]), labels, valid)
    assert keep.flatten().tolist() == [True, True, False, True]
    kept = threshold.keeps(torch.tensor([[[0.71, 0.69, 0.36, 0.34]]]), torch.tensor([[[0, 0, 1, 1]]]), valid)
    assert kept.flatten().tolist() == [True, False, True, False]


def test_fixed_threshold_learns_nothing():
    threshold = ConfidenceThreshold(2, 0.8)
    labels = torch.tensor([[[0, 1]]])
    assert threshold(torch.tensor([[[0.8, 0.79]]]), labels, labels >= 0).flatten().tolist() == [True, False]
    assert threshold.updates.tolist() == [0.0, 0.0]
    with pytest.raises(UserError, match="SEMI.THRESHOLD"):
        ConfidenceThreshold(2, 0.8, "klass")


def test_a_fixed_threshold_ignores_what_an_earlier_mode_has_learnt():
    """As after a checkpoint of a run with thresholds by class."""
    by_class = ConfidenceThreshold(2, 0.8, "class")
    by_class(torch.tensor([[[0.9, 0.5]]]), torch.tensor([[[0, 1]]]), torch.ones(1, 1, 2, dtype=torch.bool))
    fixed = ConfidenceThreshold(2, 0.8)
    fixed.load_state_dict(by_class.state_dict())
    confidence, labels = torch.tensor([[[0.79, 0.81]]]), torch.tensor([[[1, 1]]])
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    assert by_class.keeps(confidence, labels, valid).tolist() == [[[True, True]]]
    assert fixed.keeps(confidence, labels, valid).tolist() == [[[False, True]]]


def test_cutmix_moves_image_label_and_keep_together():
    """Three images of 2 × 3: the partner of each is the one before; the box excludes its far corner."""
    boxes = torch.tensor([[1, 0, 3, 1], [0, 0, 0, 0], [0, 1, 1, 2]])  # x0, y0, x1, y1
    inside = box_masks(boxes, 2, 3)
    assert inside.int().tolist() == [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0]] * 2, [[0, 0, 0], [1, 0, 0]]]
    labels = torch.arange(18).view(3, 2, 3)
    expected = [[[0, 13, 14], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]], [[12, 13, 14], [9, 16, 17]]]
    assert cutmix(labels, inside).tolist() == expected
    images = torch.stack((labels, labels + 100, labels + 200), dim=1)
    assert cutmix(images, inside)[:, 1].sub(100).tolist() == expected
    assert cutmix(labels % 2 == 0, inside).tolist() == (torch.tensor(expected) % 2 == 0).tolist()


def test_kept_fractions_by_hand():
    """Of 6 valid pixels 3 are kept, 2 of 2 of background and 1 of 4 of the rest; padding counts nowhere."""
    labels = torch.tensor([[[0, 0, 1, 2, 2, 1, IGNORE, IGNORE]]])
    pseudo = PseudoLabels(labels, torch.tensor([[[1, 1, 1, 0, 0, 0, 1, 0]]]).bool())

    def shares(background):
        return {name: share.item() for name, share in kept_fractions(pseudo, background, IGNORE).items()}

    assert shares([0]) == {"pseudo/kept": 0.5, "pseudo/kept_background": 1.0, "pseudo/kept_foreground": 0.25}
    assert shares([0, 2]) == {"pseudo/kept": 0.5, "pseudo/kept_background": 0.5, "pseudo/kept_foreground": 0.5}
    assert shares([3]) == {"pseudo/kept": 0.5, "pseudo/kept_background": 0.0, "pseudo/kept_foreground": 0.5}
    assert shares([]) == {"pseudo/kept": 0.5}
