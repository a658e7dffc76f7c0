"""Predictions made by hand, whose instances and segments can be told by looking at them."""

import numpy as np
import pytest
import torch

from hiervl.evaluation.sliding_window import Window
from hiervl.inference.postprocess import (
    Instance,
    InstanceCollector,
    PanopticCollector,
    Segment,
    instances_of_regions,
    instances_of_rows,
    panoptic_of_regions,
    panoptic_of_rows,
    row_masks,
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


def test_two_rows_of_one_class_are_two_instances_with_boxes_and_masks():
    found = instances_of_rows(
        logits_of(1, 1, 3), boxes((0, 0, 2, 3), (1, 4, 4, 8), (0, 0, 4, 8)), things=(1, 2), min_score=0.5
    )
    found.sort(key=lambda instance: instance.area)
    assert [(i.label, i.box, i.area) for i in found] == [(1, (0, 0, 2, 3), 6), (1, (1, 4, 4, 8), 12)]
    assert found[0].full_mask((4, 8)).sum() == 6 and found[0].full_mask((4, 8))[:2, :3].all()


def test_an_instances_score_is_class_probability_times_mean_mask_probability():
    logits = torch.tensor([[0.0, 0.0, 0.0, -100.0]])  # 1/3 each
    probability = torch.tensor([[[0.9, 0.7, 0.2]]])  # inside: 0.9 and 0.7
    (instance, twin) = instances_of_rows(logits, probability, things=(1, 2))
    assert instance.score == pytest.approx(0.8 / 3, rel=1e-5)
    assert {instance.label, twin.label} == {1, 2}
    assert instance.area == 2


def test_empty_masks_classes_that_are_no_things_and_low_scores_give_no_instance():
    masks = boxes((0, 0, 2, 2), (0, 0, 0, 0), (2, 2, 4, 4))
    assert [i.label for i in instances_of_rows(logits_of(0, 1, 2), masks, (1, 2), min_score=0.1)] == [2]
    assert instances_of_rows(logits_of(1), boxes((0, 0, 2, 2), probability=0.6), (1,), min_score=0.7) == []
    assert instances_of_rows(logits_of(1), boxes((0, 0, 2, 2)), things=()) == []
    assert instances_of_rows(torch.zeros(0, 4), torch.zeros(0, 4, 8), things=(1,)) == []


def test_panoptic_gives_a_pixel_to_the_higher_product_and_joins_stuff():
    logits = logits_of(0, 1, 0, 3)  # stuff, thing, the same stuff again, nothing
    masks = boxes((0, 0, 4, 4), (0, 4, 4, 6), (0, 6, 4, 8), (0, 0, 4, 8))
    ids, segments = panoptic_of_rows(logits, masks, things=(1,))
    assert [(s.id, s.label, s.is_thing) for s in segments] == [(1, 0, False), (2, 1, True)]
    np.testing.assert_array_equal(ids, np.array([[1, 1, 1, 1, 2, 2, 1, 1]] * 4))


def test_panoptic_drops_a_segment_that_others_cover():
    masks = boxes((0, 0, 4, 6), (0, 0, 4, 8))
    masks[0] *= 0.9  # the second wins everywhere in the first
    ids, segments = panoptic_of_rows(logits_of(1, 2), masks, things=(1, 2))
    assert [s.label for s in segments] == [2]
    assert (ids == 1).all()


def test_panoptic_leaves_out_unsure_rows():
    ids, segments = panoptic_of_rows(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), boxes((0, 0, 4, 8)), things=(1,))
    assert segments == [] and (ids == 0).all()


def test_row_masks_cuts_the_padding_off():
    masks = torch.full((1, 4, 4), -CERTAIN)
    masks[:, :, 2:] = CERTAIN  # the right half of a padded 16 × 16
    probability = row_masks(masks, (16, 16), (16, 12))
    assert probability.shape == (1, 16, 12)
    assert (probability[..., :6] < 0.5).all() and (probability[..., 10:] > 0.5).all()


def test_regions_that_do_not_touch_are_instances_and_stuff_is_one_segment():
    labels = np.array([[1, 1, 0, 1], [0, 0, 0, 2]])
    confidence = np.array([[0.5, 0.7, 1.0, 0.9], [1.0, 1.0, 1.0, 0.8]])
    found = instances_of_regions(labels, confidence, things=(1, 2))
    assert [(i.label, i.box) for i in found] == [(1, (0, 3, 1, 4)), (2, (1, 3, 2, 4)), (1, (0, 0, 1, 2))]
    assert found[2].score == pytest.approx(0.6)
    ids, segments = panoptic_of_regions(labels, confidence, things=(1, 2))
    assert [s.label for s in segments] == [1, 2, 1, 0]
    np.testing.assert_array_equal(ids, [[3, 3, 4, 1], [4, 4, 4, 2]])


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


def test_panoptic_maps_of_two_windows_share_their_objects_and_their_stuff():
    left = np.array([[1, 1, 2, 2, 2, 2]] * 4)  # stuff, then an object from column 2 on
    right = np.array([[7, 7, 7, 7, 7, 5]] * 4)  # the object, then the stuff from column 7 on
    collector = PanopticCollector((4, 8))
    collector.add(LEFT, left, [Segment(1, 0, 0.9, False), Segment(2, 1, 0.9, True)])
    collector.add(RIGHT, right, [Segment(5, 0, 0.9, False), Segment(7, 1, 0.9, True)])
    ids, segments = collector.result()
    np.testing.assert_array_equal(ids, np.array([[1, 1, 2, 2, 2, 2, 2, 1]] * 4))
    assert [(s.id, s.label) for s in segments] == [(1, 0), (2, 1)]


def test_panoptic_objects_that_disagree_in_the_shared_part_stay_apart():
    left = np.array([[0, 0, 0, 0, 0, 1]] * 4)
    right = np.array([[1, 1, 1, 2, 2, 2]] * 4)
    collector = PanopticCollector((4, 8))
    collector.add(LEFT, left, [Segment(1, 1, 0.9, True)])
    collector.add(RIGHT, right, [Segment(1, 1, 0.9, True), Segment(2, 1, 0.9, True)])
    ids, segments = collector.result()
    assert len(segments) == 2
    np.testing.assert_array_equal(ids, np.array([[0, 0, 2, 2, 2, 1, 1, 1]] * 4))
