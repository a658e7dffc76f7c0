"""Scores of phrases from made-up maps; what ShapesWorld's CLIP truly sees is in tests/commands."""

import math

import numpy as np
import pytest
import torch

from hiervl.inference.zero_shot import ClassPictures, ZeroShotMaps, ZeroShotScores, heat_picture


def maps(classes, phrases):
    return ZeroShotMaps(torch.tensor(classes)[:, None], torch.tensor(phrases)[:, None])


def test_scores_of_classes_and_phrases_by_hand():
    """Four pixels; class 0 has the phrases a and b, class 1 has c. The last pixel does not count."""
    scores = ZeroShotScores(["x", "y"], [["a", "b"], ["c"]])
    said = maps(
        [[2.0, 0.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0]],
        [[2.0, 2.0, 0.0, 9.0], [0.0, 0.0, 3.0, 9.0], [1.0, 1.0, 5.0, 1.0]],
    )
    prediction = scores.add(said, np.array([[0, 0, 1, 255]]))
    assert prediction.tolist() == [[0, 1, 0, 1]]
    classes = scores.class_scores()
    assert classes["IoU"]["x"] == pytest.approx(100 / 3)  # pixel 0 of the pixels 0, 1, 2
    assert classes["IoU"]["y"] == 0.0
    (a, b), (c,) = scores.phrase_scores()
    assert a == ("a", 100.0)  # claims pixels 0 and 1, as the truth does
    assert b == ("b", 0.0)  # claims pixel 2 alone
    assert c == ("c", pytest.approx(100 / 2))  # claims 1 and 2 against class 0's 0.0 and 3.0; the truth is 2


def test_what_nobody_shows_nor_claims_has_no_score():
    scores = ZeroShotScores(["x", "y"], [["a"], ["b"]])
    scores.add(maps([[1.0], [0.0]], [[1.0], [0.0]]), np.array([[0]]))
    assert math.isnan(scores.phrase_scores()[1][0][1])


def test_each_class_is_pictured_where_it_is_largest():
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    pictures = ClassPictures(["x", "y", "z"])
    said = maps([[1.0] * 3, [0.0] * 3, [0.0] * 3], [[0.0] * 3])
    for title, truth in (("first", [[0, 0, 1]]), ("second", [[0, 1, 1]]), ("third", [[255, 255, 0]])):
        pictures.add(title, image, np.array(truth), np.zeros((1, 3), dtype=int), said)
    rows = pictures.rows(["1", "2", "3"])
    assert [title for title, _ in rows] == ["x: 1 (first)", "y: 2 (second)"]
    assert [caption for caption, _ in rows[0][1]] == ["image", "truth", "CLIP", "CLIP: x"]


def test_heat_goes_from_blue_to_red():
    heat = heat_picture(np.zeros((1, 3, 3), dtype=np.uint8), np.array([[0.1, 0.5, 0.95]])).astype(int)
    assert heat[0, 0, 2] > heat[0, 0, 0] and heat[0, 2, 0] > heat[0, 2, 2] and heat[0, 1, 1] > 100
