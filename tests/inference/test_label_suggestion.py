"""Which images are chosen, by hand-made scores and by a small network."""

import math

import numpy as np
import pytest
import torch

from hiervl.inference.label_suggestion import ImageScores, LabelScorer, ScoreTable, by_class, suggest


def table_of(rows, names=None):
    """A table of (uncertainty by class, embedding) with the disagreement left 0."""
    table = ScoreTable(len(rows))
    for index, (uncertainty, embedding) in enumerate(rows):
        embedding = np.array(embedding, np.float32) / np.linalg.norm(embedding)
        scores = ImageScores(np.float32(uncertainty), np.zeros(len(uncertainty), np.float32), embedding)
        table.add(names[index] if names else f"{index:03d}", scores)
    return table


def indices(suggestions):
    return [suggestion.index for suggestion in suggestions]


def test_scores_of_a_pixel_by_hand():
    """One pixel where both say ½, ½; one where they contradict each other; one where both are sure."""
    student = torch.tensor([[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])[:, None]
    teacher = torch.tensor([[0.5, 0.0, 0.0], [0.5, 1.0, 1.0]])[:, None]
    unsure, disagreeing = by_class(student, teacher)
    # entropy of the mean: log 2, log 2, 0, half of it each class's; divergence: 0, log 2, 0
    torch.testing.assert_close(unsure, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(disagreeing, torch.tensor([0.5, 0.5]))


def test_entropy_is_a_share_of_its_maximum():
    even = torch.full((5, 2, 3), 0.2)
    unsure, disagreeing = by_class(even, even)
    assert unsure.sum().item() == pytest.approx(6) and disagreeing.abs().max() < 1e-5


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    """Without the mean of the class, every image of the first kind would come before the only one of the second."""
    same = [([0.5, 0.0], [1, 0.1 * index]) for index in range(1, 9)]
    rare = [([0.0, 0.01], [1, 0.0])]
    assert indices(suggest(table_of(same + rare), 1)) == [8]


def test_gain_times_novelty_by_hand():
    """First the largest gain. Then the second image, unsure but a copy of the first, loses against a different one."""
    rows = [([0.4], [1, 0]), ([0.39], [1, 0.001]), ([0.1], [0, 1])]
    first, second, third = suggest(table_of(rows), 3)
    assert (first.index, second.index, third.index) == (0, 2, 1)
    assert first.novelty == 2 and second.novelty == pytest.approx(math.sqrt(2), abs=1e-3)
    assert third.novelty == pytest.approx(0.001, abs=5e-4)
    # and the same where the first is labelled already: gain 0.39 · 0.001 against 0.1 · √2
    assert indices(suggest(table_of(rows[1:]), 2, np.array([[1, 0]], np.float32))) == [1, 0]


def test_a_class_counts_less_the_more_of_it_is_chosen():
    """In units of the classes' means: 2, 2, 2 of the first, 2.6, 1.7, 1.7 of the second; all equally far apart.

    After 2.6 and two of 2, another 2 gains log(1 + 2 / 5) = 0.34, and 1.7 gains log(1 + 1.7 / 3.6) = 0.39.
    """
    unsure = ([1, 0], [1, 0], [1, 0], [0, 1.3], [0, 0.85], [0, 0.85])
    assert indices(suggest(table_of(list(zip(unsure, np.eye(6)))), 6)) == [3, 0, 1, 4, 2, 5]


def test_disagreement_counts_as_uncertainty_does():
    table = ScoreTable(2)
    for index, disagreement in enumerate((0.001, 0.002)):
        scores = np.array([0.5], np.float32), np.array([disagreement], np.float32), np.eye(2, dtype=np.float32)[index]
        table.add(str(index), ImageScores(*scores))
    assert indices(suggest(table, 1)) == [1]


def test_the_choice_does_not_depend_on_the_order_and_ties_go_by_name():
    rng = np.random.default_rng(0)
    rows = [(rng.random(4), rng.normal(size=6)) for _ in range(30)]
    rows += rows[:10]  # copies, under later names
    names = [f"{index:02d}" for index in range(40)]
    expected = [names[index] for index in indices(suggest(table_of(rows, names), 40))]
    assert sorted(expected) == names
    assert all(expected.index(names[index]) < expected.index(names[30 + index]) for index in range(10))
    order = rng.permutation(40).tolist()
    shuffled = [names[index] for index in order]
    found = suggest(table_of([rows[index] for index in order], shuffled), 40)
    assert [shuffled[index] for index in indices(found)] == expected


def test_a_network_scores_images_of_any_size(make_network):
    student, teacher = make_network().eval(), make_network().eval()
    scorer = LabelScorer(student, teacher, crop_size=32)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    alike = scorer(image)
    assert 0 < alike.uncertainty.sum() <= 1 and alike.disagreement.sum() < 1e-5
    assert np.linalg.norm(alike.embedding) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        for parameter in teacher.query_decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    apart = scorer(image)
    assert 1e-4 < apart.disagreement.sum() <= 1
    np.testing.assert_array_equal(apart.embedding, alike.embedding)
