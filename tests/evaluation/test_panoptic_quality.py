"""Maps of one row, whose overlaps can be counted."""

import math

import numpy as np
import pytest

from hiervl.evaluation.panoptic_quality import PanopticQuality


def quality(truth, truth_labels, found, found_labels, num_classes=3):
    counted = PanopticQuality(num_classes)
    matches = counted.add(np.array([truth]), truth_labels, np.array([found]), found_labels)
    return counted, matches


def test_matched_missed_and_invented_segments():
    # Segment 1 is found with IoU 3/4; 2 is missed, since its IoU with 5 is 1/2; 5 is invented.
    counted, matches = quality(
        [1, 1, 1, 1, 2, 2, 2, 2, 3], {1: 0, 2: 0, 3: 1}, [4, 4, 4, 6, 5, 5, 6, 6, 7], {4: 0, 5: 0, 6: 1, 7: 1}
    )
    assert matches == {1: 4, 3: 7}
    assert counted.score([0]) == pytest.approx(100 * 0.75 / (1 + 1 / 2 + 1 / 2))
    assert counted.score([1]) == pytest.approx(100 * 1 / (1 + 1 / 2))
    assert counted.score([0, 1, 2]) == pytest.approx((37.5 + 200 / 3) / 2)  # class 2 does not occur
    assert math.isnan(counted.score([2]))


def test_another_class_is_no_match():
    counted, matches = quality([1, 1], {1: 0}, [1, 1], {1: 1})
    assert matches == {}
    assert counted.score([0]) == 0 and counted.score([1]) == 0


def test_pixels_without_truth_do_not_count():
    counted, matches = quality([1, 1, 0, 0, 0, 0], {1: 0}, [1, 1, 1, 1, 2, 2], {1: 0, 2: 1})
    assert matches == {1: 1} and counted.score([0]) == 100  # two of its pixels lie outside
    assert math.isnan(counted.score([1]))  # the second lies in no truth at all


def test_a_segment_that_lies_by_half_outside_of_the_truth_is_invented():
    """Not mostly, as one that is forgiven. A number without pixels is no segment."""
    counted, _ = quality([0, 0, 1, 1], {1: 0}, [2, 2, 2, 2], {2: 1, 9: 2})
    assert counted.score([1]) == 0 and math.isnan(counted.score([2]))
