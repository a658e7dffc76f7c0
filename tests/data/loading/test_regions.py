import numpy as np
import pytest
from scipy import ndimage

from hiervl.data.loading.regions import regions_as_instances


def test_every_region_is_numbered_and_specks_and_unlabeled_pixels_are_not():
    labels = np.zeros((50, 60), np.uint8)  # 3 pixels are a thousandth
    labels[0:10, 0:10] = labels[0:10, 20:30] = 1
    labels[10:20, 10:20] = 1  # touches the first at a corner only
    labels[30:32, 0:1] = 1
    labels[40:50, 40:60] = 2
    labels[0:5, 50:60] = 255
    numbers = regions_as_instances(labels, ignore_value=255)
    parts = [numbers[0:10, 0:10], numbers[0:10, 20:30], numbers[10:20, 10:20], numbers[40:50, 40:60]]
    assert all(len(np.unique(part)) == 1 for part in parts)
    parts += [numbers[25:30], numbers[0:10, 10:20]]  # the background, and what those three cut off of it
    assert sorted(int(part[0, 0]) for part in parts) == [1, 2, 3, 4, 5, 6] and numbers.max() == 6
    assert not numbers[30:32, 0:1].any() and not numbers[0:5, 50:60].any()


@pytest.mark.parametrize("label", [0, 255])
def test_maps_of_one_value(label):
    numbers = regions_as_instances(np.full((4, 4), label), ignore_value=255)
    assert (numbers == (label == 0)).all()


def test_regions_are_those_of_each_class_alone():
    """The same division as SciPy's labelling of one class after the other."""
    rng = np.random.default_rng(0)
    for height, width in ((1, 30), (30, 1), (24, 24), (31, 17)):
        labels = rng.integers(0, 3, (height, width))
        numbers = regions_as_instances(labels, ignore_value=2)  # so small a map has no specks
        for label in (0, 1):
            regions, count = ndimage.label(labels == label)
            pairs = np.unique(np.stack([regions, numbers])[:, labels == label], axis=1)
            assert pairs.shape[1] == count == len(set(pairs[1])) and pairs.min() > 0
        assert not numbers[labels == 2].any()
