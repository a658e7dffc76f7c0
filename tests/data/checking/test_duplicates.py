import cv2
import numpy as np
import pytest

from hiervl.data.checking.duplicates import fingerprint, near_duplicates


def clouds(seed, size=(120, 160)):
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def pairs(first, second):
    return near_duplicates({"a": fingerprint(first)}, {"b": fingerprint(second)})


def test_the_same_picture_however_stored():
    image = clouds(0)
    smaller = cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA)
    _, packed = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 50])
    for other in (image, smaller, cv2.imdecode(packed, cv2.IMREAD_COLOR)):
        assert pairs(image, other) == [("a", "b")]


@pytest.mark.parametrize("seed", range(1, 6))
def test_different_pictures_are_not_duplicates(seed):
    assert pairs(clouds(0), clouds(seed)) == []
    assert pairs(clouds(0), clouds(0)[:, ::-1]) == []  # mirrored


def test_flat_pictures_are_told_apart_by_their_brightness():
    black, gray = np.zeros((20, 20, 3), dtype=np.uint8), np.full((20, 20, 3), 100, dtype=np.uint8)
    assert pairs(black, gray) == [] and pairs(gray, gray) == [("a", "b")]
    assert near_duplicates({}, {"b": fingerprint(gray)}) == []
