"""Predictions made by hand, whose instances and segments can be told by looking at them."""

import numpy as np
import pytest
import torch

from hiervl.evaluation.sliding_window import Window
from hiervl.inference.postprocess import (
    Instance,
    InstanceCollector,
    instances_from_queries,
    objects_of_map,
    panoptic_of_map,
    query_masks,
)

CERTAIN = 20.0  # a logit that is a probability of 1 to eight digits


def logits_of(*labels, num_classes=3):
    """Rows that are sure of their class; ``num_classes`` itself is "no object"."""
    return CERTAIN * torch.nn.functional.one_hot(torch.tensor(labels), num_classes + 1).float()


def boxes(*places, size=(4, 8), probability=1.0):
    """Masks that are rectangles (top, left, bottom, right)."""
    masks = torch.zeros(len(places), *size)
    for mask, (top, left, bottom, right) in zip(masks, places):
        mask[top:bottom, left:right] = probability
    return masks


def test_two_queries_of_one_class_are_two_instances_with_boxes_and_masks():
    found = instances_from_queries(
        logits_of(1, 1, 3), boxes((0, 0, 2, 3), (1, 4, 4, 8), (0, 0, 4, 8)), things=(1, 2), min_score=0.5
    )
    found.sort(key=lambda instance: instance.area)
    assert [(i.label, i.box, i.area) for i in found] == [(1, (0, 0, 2, 3), 6), (1, (1, 4, 4, 8), 12)]
    assert found[0].full_mask((4, 8)).sum() == 6 and found[0].full_mask((4, 8))[:2, :3].all()


def test_an_instances_score_is_class_probability_times_mean_mask_probability():
    logits = torch.tensor([[0.0, 0.0, 0.0, -100.0], [0.0, CERTAIN, 0.0, 0.0]])  # 1/3 each; sure
    probability = torch.tensor([[[0.9, 0.7, 0.2]], [[0.1, 0.2, 0.6]]])  # inside: 0.9 and 0.7; 0.6
    sure, unsure = instances_from_queries(logits, probability, things=(1, 2), min_score=0.0)
    assert sure.score == pytest.approx(0.6, rel=1e-5) and sure.label == 1
    assert unsure.score == pytest.approx(0.8 / 3, rel=1e-5) and unsure.area == 2


def test_empty_masks_classes_that_are_no_things_and_low_scores_give_no_instance():
    masks = boxes((0, 0, 2, 2), (0, 0, 0, 0), (2, 2, 4, 4))
    assert [i.label for i in instances_from_queries(logits_of(0, 1, 2), masks, (1, 2), min_score=0.1)] == [2]
    assert instances_from_queries(logits_of(1), boxes((0, 0, 2, 2), probability=0.6), (1,), min_score=0.7) == []
    assert instances_from_queries(logits_of(1), boxes((0, 0, 2, 2)), things=()) == []
    assert instances_from_queries(torch.zeros(0, 4), torch.zeros(0, 4, 8), things=(1,)) == []


def test_of_several_queries_with_one_object_the_best_stays_and_classes_do_not_compete():
    masks = boxes((0, 0, 4, 4), (0, 0, 4, 5), (0, 0, 4, 4), (0, 5, 4, 8))
    masks[1] *= 0.9
    found = instances_from_queries(logits_of(1, 1, 2, 1), masks, things=(1, 2))
    assert sorted((i.label, i.box) for i in found) == [(1, (0, 0, 4, 4)), (1, (0, 5, 4, 8)), (2, (0, 0, 4, 4))]


def test_where_two_objects_of_one_class_overlap_the_query_of_higher_score_gets_the_pixel():
    probability = torch.zeros(2, 1, 6)
    probability[0, 0] = torch.tensor([0.9, 0.9, 0.9, 0.6, 0.0, 0.0])
    probability[1, 0] = torch.tensor([0.0, 0.0, 0.6, 0.9, 0.9, 0.9])
    found = instances_from_queries(logits_of(1, 1), probability, things=(1,))
    assert sorted(i.box for i in found) == [(0, 0, 1, 3), (0, 3, 1, 6)]


def test_query_masks_are_cut_to_the_image_without_padding():
    masks = torch.full((1, 4, 4), -CERTAIN)
    masks[:, :, 2:] = CERTAIN  # the right half of a padded 16 × 16
    probability = query_masks(masks, (16, 16), (16, 12))
    assert probability.shape == (1, 16, 12)
    assert (probability[..., :6] < 0.5).all() and (probability[..., 10:] > 0.5).all()


def test_query_masks_are_resized_about_the_centers_of_pixels(resize_by_opencv):
    torch.manual_seed(0)
    masks = torch.randn(2, 4, 6)
    expected = resize_by_opencv(masks, (16, 24))[:, :15, :20].sigmoid()
    torch.testing.assert_close(query_masks(masks, (16, 24), (15, 20)), expected, atol=1e-5, rtol=1e-5)


def test_without_candidates_regions_are_objects_and_stuff_is_one_segment():
    labels = np.array([[1, 1, 0, 1], [0, 0, 0, 2]])
    confidence = np.array([[0.5, 0.7, 1.0, 0.9], [1.0, 1.0, 1.0, 0.8]])
    found = objects_of_map(labels, confidence, things=(1, 2))
    assert [(i.label, i.box) for i in found] == [(1, (0, 3, 1, 4)), (2, (1, 3, 2, 4)), (1, (0, 0, 1, 2))]
    assert found[2].score == pytest.approx(0.6)
    ids, segments = panoptic_of_map(labels, confidence, (1, 2), found)
    assert [(s.label, s.is_thing) for s in segments] == [(1, True), (2, True), (1, True), (0, False)]
    np.testing.assert_array_equal(ids, [[3, 3, 4, 1], [4, 4, 4, 2]])


@pytest.mark.parametrize("first, second", [((0, 3), (5, 7)), ((0, 4), (3, 7))])
def test_candidates_divide_a_region_and_a_pixel_goes_to_the_nearest_then_the_first(first, second):
    labels = np.array([[1, 1, 1, 1, 1, 1, 1, 0]])
    candidates = [rectangle(1, 0, left, 1, right) for left, right in (first, second)]
    found = objects_of_map(labels, np.ones((1, 8)), (1,), candidates)
    assert sorted(i.box for i in found) == [(0, 0, 1, 4), (0, 4, 1, 7)]


def test_an_objects_score_depends_on_its_agreement_with_the_best_candidate():
    labels, confidence = np.array([[1, 1, 1, 1, 0, 0, 1, 1]]), np.full((1, 8), 0.8)
    candidates = [rectangle(1, 0, 0, 1, 5, score=0.9)]  # 4 of 5 pixels in common with the first region
    agreed, alone = objects_of_map(labels, confidence, (1,), candidates)
    assert agreed.box == (0, 0, 1, 4) and agreed.score == pytest.approx(0.8 * (0.5 + 0.5 * 0.9 * 4 / 5))
    assert alone.score == pytest.approx(0.8 / 2)
    assert [i.score for i in objects_of_map(labels, confidence, (1,), candidates=[])] == pytest.approx([0.4, 0.4])
    assert [i.score for i in objects_of_map(labels, confidence, (1,))] == pytest.approx([0.8, 0.8])


def test_one_candidate_joins_the_two_regions_of_a_covered_object():
    labels = np.array([[1, 1, 2, 2, 1, 1, 0, 1]])  # the last column is another object of class 1
    candidates = [rectangle(1, 0, 0, 1, 6), rectangle(1, 0, 7, 1, 8)]
    found = objects_of_map(labels, np.ones((1, 8)), (1, 2), candidates)
    assert sorted((i.label, i.box, i.area) for i in found) == [
        (1, (0, 0, 1, 6), 4),
        (1, (0, 7, 1, 8), 1),
        (2, (0, 2, 1, 4), 2),
    ]


def test_a_candidate_gets_no_part_of_regions_it_hardly_touches():
    labels = np.array([[1] * 8 + [0] + [1] * 4])
    candidates = [rectangle(1, 0, 0, 1, 10), rectangle(1, 0, 7, 1, 8)]
    found = objects_of_map(labels, np.ones((1, 13)), (1,), candidates)
    assert sorted(i.box for i in found) == [(0, 0, 1, 8), (0, 9, 1, 13)]  # 1 of 4 and 1 of 8 pixels are too few


# Two windows of 4 × 6 that share the columns 2 … 5 of an image of 4 × 8.
LEFT, RIGHT = Window(0, 0, 4, 6, (4, 6)), Window(0, 2, 4, 6, (4, 6))


def rectangle(label, top, left, bottom, right, score=0.9):
    return Instance(label, score, (top, left, bottom, right), np.ones((bottom - top, right - left), bool))


def test_an_object_across_two_windows_becomes_one():
    collector = InstanceCollector()
    collector.add(LEFT, [rectangle(1, 0, 1, 2, 6, score=0.8)])  # cut off at column 6
    collector.add(RIGHT, [rectangle(1, 0, 0, 2, 6, score=0.9)])  # its columns 2 … 7
    (joined,) = collector.instances()
    assert joined.box == (0, 1, 2, 8)
    assert joined.area == 2 * 7 and joined.score == 0.9


def test_objects_of_other_classes_or_places_stay_apart_across_windows():
    collector = InstanceCollector()
    collector.add(LEFT, [rectangle(1, 0, 3, 2, 6), rectangle(2, 2, 3, 4, 6)])
    collector.add(RIGHT, [rectangle(2, 0, 1, 2, 4), rectangle(1, 0, 4, 2, 6)])
    assert len(collector.instances()) == 4


def test_two_instances_of_one_window_never_become_one():
    collector = InstanceCollector()
    collector.add(LEFT, [rectangle(1, 0, 2, 4, 6)])
    collector.add(RIGHT, [rectangle(1, 0, 0, 4, 4), rectangle(1, 0, 0, 4, 4, score=0.5)])
    assert len(collector.instances()) == 2
