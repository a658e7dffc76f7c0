"""Masks of two values, and backgrounds that are rare: the object may be either value, so that both are shown."""

import numpy as np
import pytest
from PIL import Image

from hiervl.data.checking.check import check

BOTH = "classes: [{name: background, background: true%s}, {name: cap%s}]"


def binary(own, ground, thing, columns=10):
    """Masks with ``thing`` in the first of 64 columns and ``ground`` in the others."""
    own.masks(lambda labels: np.where(np.arange(64) < columns, thing, ground).astype(np.uint8) + 0 * labels)


def read_as(own, classes):
    (own.root / "classes.yaml").write_text(classes)
    return check(own.layout()).findings


@pytest.mark.parametrize("ground, thing", [(0, 255), (255, 0), (0, 128), (1, 0)])
@pytest.mark.parametrize("name", ["{name: background, background: true, label: 7}", "ground"])
def test_both_readings_of_two_values_are_shown_the_likelier_first(own, ground, thing, name):
    binary(own, ground, thing)
    background = "background" if "background" in name else name
    cap = "{name: cap, label: 9}" if 1 in (ground, thing) else "cap"
    (found,) = [finding for finding in read_as(own, f"classes: [{name}, {cap}]") if finding.level == "error"]
    expected = [{thing: "cap", ground: background}, {ground: "cap", thing: background}]
    shown = [reading.names for reading in found.readings]
    assert (shown if "background" in name else sorted(shown, key=expected.index)) == expected
    for value, other in ((ground, thing), (thing, ground)):
        assert f"{value} is 'cap' and {other} is '{background}': write `label: {value}` and" in found.sentence


def test_a_class_alone_is_either_value(own):
    binary(own, 255, 0)
    found = next(finding for finding in read_as(own, "classes: [cap]") if finding.readings)
    assert "(1) 0 is 'cap': write `label: 0` into its entry" in found.sentence
    assert "background: true, label: 255}` in front; (2) 255 is 'cap'" in found.sentence


def test_no_warning_contradicts_the_two_readings(own):
    """As an older ``init`` wrote it beside a list of two classes."""
    binary(own, 255, 0)
    found = read_as(own, "classes: [{name: background, background: true}, cap, {name: value 255, label: 255}]")
    assert [finding.level for finding in found] == ["error", "warning"]
    assert "either way take the entry 'value 255' out" in found[0].sentence
    assert "still calls 1 classes by their values" in found[1].sentence


@pytest.mark.parametrize("labels", [(0, 255), (0, 1)])
def test_rare_backgrounds_may_be_exchanged(own, labels):
    binary(own, labels[1], labels[0])  # inverted
    (found,) = read_as(own, BOTH % (f", label: {labels[0]}", f", label: {labels[1]}"))
    assert found.level == "warning" and "'background' is the background, but has 15.6% of" in found.sentence
    assert [reading.names[labels[1]] for reading in found.readings] == ["cap", "background"]
    binary(own, labels[1], labels[0], columns=20)  # 31 %: large objects are common
    assert read_as(own, BOTH % (f", label: {labels[0]}", f", label: {labels[1]}")) == []


def test_rare_backgrounds_in_colours(own):
    own.masks(
        lambda labels: np.where(np.arange(64)[:, None] < 10, 0, 255).astype(np.uint8) + np.zeros((64, 64, 3), "u1")
    )
    (found,) = read_as(own, BOTH % (", color: [0, 0, 0]", ", color: [255, 255, 255]"))
    assert "(2) [255, 255, 255] is the background" in found.sentence


def test_inverted_masks_of_one_class_each(own):
    for path in (own.root / "labelled/masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_cap.png"))
    binary(own, 255, 0)
    (found,) = read_as(own, BOTH % ("", ""))
    assert "if the masks are inverted, black where the class is" in found.sentence


@pytest.mark.parametrize(
    "classes", ["classes: [{name: background, background: true}, cap]", BOTH % ("", ", label: 255")]
)
def test_jpeg_masks_get_one_line_of_advice(own, classes):
    binary(own, 0, 255)
    for path in list((own.root / "labelled/masks").iterdir()):
        labels = np.array(Image.open(path))
        labels[10:30, 20:50] = 255
        Image.fromarray(labels).save(path.with_suffix(".jpg"), quality=80)
        path.unlink()
    (found,) = [finding for finding in read_as(own, classes) if finding.level == "error"]
    assert "near 0 or 255: masks of two values were saved as JPEG" in found.sentence and "label:" not in found.sentence


@pytest.mark.parametrize("values, absent", [((255, 0, 1), "stem"), ((255, 1, 2), "background")])
def test_a_background_of_255_is_one_error_with_both_readings(own, values, absent):
    """Most pixels are 255, which does not count, and a class is missing: no other finding contradicts."""
    own.masks(lambda labels: np.array(values, np.uint8)[np.where(np.arange(64) % 4, 0, labels)])
    (found,) = check(own.layout()).findings
    assert found.level == "error" and f"no mask shows '{absent}'" in found.sentence
    assert "(1) 255 is 'background'" in found.sentence and "{name: unlabelled, ignore: true" in found.sentence
    assert found.readings[0].names == {values[1]: "cap", values[2]: "stem", 255: "background"}
