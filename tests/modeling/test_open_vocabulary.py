"""Scores over classes of which the linear head knows only some."""

import math

import pytest
import torch

from hiervl.modeling.open_vocabulary import OpenVocabularyClassifier
from hiervl.structures import TextFeatures


def text_of(*embeddings):
    rows = torch.tensor(embeddings)
    return TextFeatures(rows, rows, rows, torch.arange(len(rows)))


TEXT = text_of((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))
LINEAR = torch.tensor([[[math.log(3.0), math.log(1.0), math.log(4.0)]]])  # two known classes, "no object": 3 : 1 : 4


def classify(known, query_class, joint=(1.0, 0.0), temperature=1.0, text=TEXT):
    classifier = OpenVocabularyClassifier(known, temperature)
    joint = torch.tensor([[joint]])
    scores = classifier(LINEAR, joint, torch.tensor([[query_class]]), torch.tensor(0.0), text)
    return scores.softmax(-1)[0, 0].tolist()


def test_known_classes_in_another_order_keep_their_linear_scores():
    assert classify([1, 0], -1, text=text_of((1.0, 0.0), (0.0, 1.0))) == pytest.approx([1 / 8, 3 / 8, 4 / 8])


def test_a_class_left_out_gives_its_probability_to_the_others():
    assert classify([1], -1, text=text_of((1.0, 0.0))) == pytest.approx([1 / 5, 4 / 5])


def test_an_instance_query_shares_the_probability_of_some_object_by_similarity():
    # Similarities 1, 0, −1 at τ = 1; the second class is new. P(object) = 4/8 in all.
    e = math.e
    new = 1 / (e + 1 + 1 / e)
    expected = [(1 - new) * 3 / 8, new * 4 / 8, (1 - new) * 1 / 8, 4 / 8]
    assert classify([0, None, 1], -1) == pytest.approx(expected)


def test_a_text_query_of_a_new_class_is_that_class_or_nothing():
    assert classify([0, None, 1], 1) == pytest.approx([0, 4 / 8, 0, 4 / 8])


def test_a_text_query_of_a_known_class_is_never_a_new_one():
    assert classify([0, None, 1], 0) == pytest.approx([3 / 8, 0, 1 / 8, 4 / 8])


def test_all_classes_new():
    e = math.e
    total = e + 1 + 1 / e
    assert classify([None] * 3, -1) == pytest.approx([e / total / 2, 1 / total / 2, 1 / e / total / 2, 1 / 2])


def test_classes_of_queries_become_columns_of_the_linear_head():
    classifier = OpenVocabularyClassifier([1, None, 0], 1.0)
    assert classifier.linear_class(torch.tensor([0, 1, 2, -1])).tolist() == [1, -1, 0, -1]


def share(known, background, p, q):
    classifier = OpenVocabularyClassifier(known, 1.0, background)
    return classifier.share_pixels(*(torch.tensor(x).view(1, -1, 1, 1) for x in (p, q))).flatten().tolist()


def test_pixels_are_split_between_known_and_new_classes_by_clip():
    # Background √(0.4 · 0.1) = 0.2; of the other 0.8 the new class has 0.5/0.9, known ones share the rest 4 : 1.
    scores = share([0, 1, 2, None], [0], [0.8, 0.8, 0.2, 0.2], [0.1, 0.2, 0.2, 0.5])
    new = 0.8 * 0.5 / 0.9
    assert scores == pytest.approx([0.2, (0.8 - new) * 0.8, (0.8 - new) * 0.2, new], abs=1e-4)


def test_new_classes_share_pixels_by_the_mean_of_network_and_clip():
    # √(0.8 · 0.45) : √(0.2 · 0.2) = 3 : 1; without background CLIP's 0.65 stays, and a new background is a new class.
    expected = [0.35, 0.65 * 3 / 4, 0.65 / 4]
    for background in ([], [1]):
        scores = share([0, None, None], background, [0.0, 0.8, 0.2], [0.35, 0.45, 0.2])
        assert scores == pytest.approx(expected, abs=1e-4)


def test_new_classes_alone_whose_gates_are_closed_are_shared_by_clip():
    assert share([None, None], [], [0.0, 0.0], [0.9, 0.1]) == pytest.approx([0.75, 0.25])


def test_a_new_class_that_clip_hardly_sees_takes_what_background_leaves():
    """Background √0.2; CLIP gives all that is left to the only other class, however little it sees of it."""
    scores = share([0, None], [0], [0.2, 0.8], [1 - 1e-7, 1e-7])
    assert scores == pytest.approx([math.sqrt(0.2), 1 - math.sqrt(0.2)], abs=1e-3)


def test_pixels_of_known_classes_are_left_as_they_are():
    assert share([1, 0], [0], [0.5, 3.0], [0.9, 0.1]) == [0.5, 3.0]


@torch.no_grad()
def test_a_network_with_other_classes_and_back(make_network, resize_by_opencv):
    network = make_network().eval()
    images = 255 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = network.semantic_maps(images)
    names = list(network.class_names)

    network.set_classes(["lamp", *names], [["lamp", "a street light"], *[[name] for name in names]], [1])
    maps = network.semantic_maps(images)
    assert maps.shape == (2, 7, 64, 64)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 64, 64))
    given = []
    network.open_vocabulary.share_pixels = lambda scores, by_clip: given.append(by_clip) or scores
    network.semantic_maps(images)
    dense, text = network.backbone(network.normalize(list(images)))["dense_embedding"], network.encode_text()
    similarity = text.class_similarity(dense.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = (similarity * network.mask_prior.log_scale.exp()).softmax(1)
    expected = resize_by_opencv(expected, given[0].shape[2:])
    torch.testing.assert_close(given[0], expected, atol=1e-5, rtol=1e-4)  # q is what the image encoder says
    assert network.query_generator.always_active == (1,)
    network.set_classes(names[::-1], [[name] for name in names[::-1]], [5])
    reversed_maps = network.semantic_maps(images).flip(1)
    network.set_classes(names, [[name] for name in names], [0])

    torch.testing.assert_close(network.semantic_maps(images), before)
    torch.testing.assert_close(reversed_maps, before, rtol=1e-3, atol=1e-4)
