"""Masks of two exports in one folder: their values differ, and no mask alone is wrong."""

import numpy as np
import pytest

from hiervl.data.checking.check import check

FOUR = "classes: [{name: background, background: true}, cap, stem, gills]"


def write(own, make):
    """Every mask as ``make(number, labels)``; in the labels 0 is frequent and 2 is rare."""
    bounds = np.array([38, 54])
    for number in range(10):
        labels = np.searchsorted(bounds + number % 3, np.arange(64), side="right")
        own.mask(f"labelled/masks/{number:02d}.png", np.tile(make(number, labels).astype(np.uint8), (64, 1)))


@pytest.mark.parametrize("classes", [FOUR, ""])
def test_half_of_the_masks_count_from_1(own, classes):
    """Four entries fit all values; three do not, and then no class is missing."""
    if classes:
        (own.root / "classes.yaml").write_text(classes)
    write(own, lambda number, labels: labels + number % 2)
    found = next(finding for finding in check(own.layout()).findings if finding.readings)
    assert found.level == ("warning" if classes else "error")
    assert "5 of 10 masks have no 0, and the values 1, 2, 3 as often as the others have the values 0, 1, 2" in (
        found.sentence
    )
    assert ("lacks an entry for the value 3" in found.sentence) == (not classes)
    assert [reading.names[2] for reading in found.readings] == ["cap", "stem"]
    assert [name[-6:-4] for name in found.files] == ["01", "03", "05", "07", "09"]
    assert not any("a class is missing" in finding.sentence for finding in check(own.layout()).findings)


def test_images_without_background_are_no_second_export(own):
    """They show the classes that the others show, in other shares."""
    write(own, lambda number, labels: labels if number % 2 else np.maximum(labels, 1))
    assert check(own.layout()).findings == []


def test_one_mask_without_0_is_no_second_export(own):
    (own.root / "classes.yaml").write_text(FOUR)
    write(own, lambda number, labels: labels + (number == 4))
    assert not any(finding.readings for finding in check(own.layout()).findings)


def test_half_of_the_masks_have_the_object_as_255(own):
    (own.root / "classes.yaml").write_text("classes: [{name: background, background: true}, cap]")
    write(own, lambda number, labels: (labels > 0) * (255 if number % 2 else 1))
    (found,) = check(own.layout()).findings
    assert "5 of 10 masks hold only 0 and 255" in found.sentence and "(1) 255 is 'cap', too" in found.sentence
    assert [reading.names.get(255) for reading in found.readings] == ["cap", None]


def test_borders_of_255_are_no_second_export(own):
    write(own, lambda number, labels: np.where(np.arange(64) == 20, 255, labels) if number % 2 else labels)
    assert check(own.layout()).findings == []
