"""Scores of phrases from made-up maps. Tests with ShapesWorld's CLIP are in tests/commands."""

import math

import numpy as np
import pytest
import torch

from hiervl.inference.zero_shot import ClassPictures, ZeroShotClip, ZeroShotMaps, ZeroShotScores, heat_picture
from hiervl.semi_supervised.guidance import ClipGuidance


def maps(classes, claims):
    return ZeroShotMaps(torch.tensor(classes)[:, None], torch.tensor(claims, dtype=torch.bool)[:, None])


def test_classes_are_those_of_the_guidance(make_cfg):
    """What `hiervl prompts` scores is what the frozen CLIP says in training, several phrases of a class included."""
    cfg = make_cfg("INPUT.CROP_SIZE", 64)
    phrases = [["cat", "kitten", "tiger"], ["tree"], ["bus", "coach"]]
    torch.manual_seed(0)
    zero_shot = ZeroShotClip.from_config(cfg, phrases)
    zero_shot.clip.logit_scale = 2000.0  # a random CLIP has hardly an opinion; the way of resizing must matter
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = zero_shot(image)
    pixels = (torch.from_numpy(image).permute(2, 0, 1) - zero_shot.pixel_mean) / zero_shot.pixel_std
    dense = zero_shot.clip.embed(pixels[None]).dense
    guidance = ClipGuidance(confidence=0.0, first_weight=1.0, last_weight=1.0, max_iter=1)

    def labels(text):
        everywhere = torch.ones(1, 64, 64, dtype=torch.bool)
        return guidance.labels(zero_shot.clip.classify(dense, text), (64, 64), everywhere, 255).labels[0]

    by_guidance = labels(zero_shot.text)
    assert len(by_guidance.unique()) == 3 and torch.equal(found.classes.argmax(0), by_guidance)
    torch.testing.assert_close(found.classes.sum(0), torch.ones(64, 64))
    # One phrase alone: what the guidance would say of a list of classes in which the class has no other.
    torch.manual_seed(0)
    text = ZeroShotClip.from_config(cfg, [["kitten"], ["tree"], ["bus", "coach"]]).text
    torch.testing.assert_close(text.phrase_prototypes[0], zero_shot.text.phrase_prototypes[1])
    assert found.claims[1].any() and torch.equal(found.claims[1], labels(text) == 0)
    assert torch.equal(found.claims[3], by_guidance == 1)


def test_an_image_of_another_size_is_answered_at_its_own(make_cfg, resize_by_opencv):
    """Shown with the short side of the crop, padded to whole patches, and resized back twice without the padding."""
    torch.manual_seed(0)
    zero_shot = ZeroShotClip.from_config(make_cfg("INPUT.CROP_SIZE", 40), [["cat"], ["tree"], ["bus"]])
    zero_shot.clip.logit_scale = 2000.0
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)  # shown as 40 × 50, padded to 48 × 64
    halved = np.floor(image.reshape(40, 2, 50, 2, 3).mean((1, 3)) + 0.5)  # whole numbers, as an image has them
    pixels = (torch.from_numpy(halved).float().permute(2, 0, 1) - zero_shot.pixel_mean) / zero_shot.pixel_std
    padded = torch.zeros(1, 3, 48, 64)
    padded[0, :, :40, :50] = pixels
    probability = zero_shot.clip.classify(zero_shot.clip.embed(padded).dense, zero_shot.text)
    expected = resize_by_opencv(resize_by_opencv(probability, (48, 64))[0, :, :40, :50], (80, 100))
    found = zero_shot(image).classes
    assert expected.std() > 0.1
    assert (found - expected).abs().mean() < 1e-4


def test_scores_of_classes_and_phrases_by_hand():
    """Four pixels; class 0 has the phrases a and b, class 1 has c. The last pixel does not count."""
    scores = ZeroShotScores(["x", "y"], [["a", "b"], ["c"]])
    said = maps([[0.9, 0.2, 0.8, 0.4], [0.1, 0.8, 0.2, 0.6]], [[1, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]])
    prediction = scores.add(said, np.array([[0, 0, 1, 255]]))
    assert prediction.tolist() == [[0, 1, 0, 1]]
    classes = scores.class_scores()
    assert classes["IoU"]["x"] == pytest.approx(100 / 3)  # pixel 0 of the pixels 0, 1, 2
    assert classes["IoU"]["y"] == 0.0
    (a, b), (c,) = scores.phrase_scores()
    assert a == ("a", 100.0)  # claims pixels 0 and 1, as the truth does
    assert b == ("b", 0.0)  # claims pixel 2 alone
    assert c == ("c", pytest.approx(100 / 2))  # claims 1 and 2; the truth is 2


def test_a_class_that_no_pixel_shows_or_is_predicted_as_has_no_score():
    scores = ZeroShotScores(["x", "y"], [["a"], ["b"]])
    scores.add(maps([[1.0], [0.0]], [[1], [0]]), np.array([[0]]))
    assert math.isnan(scores.phrase_scores()[1][0][1])


def test_each_class_is_shown_on_the_image_with_most_of_it():
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    pictures = ClassPictures(["x", "y", "z"])
    said = maps([[1.0] * 3, [0.0] * 3, [0.0] * 3], [[0] * 3])
    for title, truth in (("first", [[0, 0, 1]]), ("second", [[0, 1, 1]]), ("third", [[255, 255, 0]])):
        pictures.add(title, image, np.array(truth), np.zeros((1, 3), dtype=int), said)
    rows = pictures.rows(["1", "2", "3"])
    assert [title for title, _ in rows] == ["x: 1 (first)", "y: 2 (second)"]
    assert [caption for caption, _ in rows[0][1]] == ["image", "truth", "CLIP", "CLIP: x"]


def test_heat_goes_from_blue_to_red():
    heat = heat_picture(np.zeros((1, 3, 3), dtype=np.uint8), np.array([[0.1, 0.5, 0.95]])).astype(int)
    assert heat[0, 0, 2] > heat[0, 0, 0] and heat[0, 2, 0] > heat[0, 2, 2] and heat[0, 1, 1] > 100
