"""Overlays are told from the photographs below them, and from other versions of these."""

import cv2
import numpy as np
import pytest
from PIL import Image

from hiervl.data.preparation.overlay_pictures import Comparison, compare_files, compare_pictures
from hiervl.data.preparation.survey_overlays import is_named_as_overlays
from tests.overlays import boxes, half, half_of_objects, opaque_objects, outlines, photograph


def as_jpeg(image):
    return cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("in_gray", [False, True])
@pytest.mark.parametrize("draw", [half, half_of_objects, opaque_objects, outlines, boxes])
def test_the_overlay_is_found(draw, in_gray):
    for seed in range(3):
        image, labels = photograph(seed)
        if in_gray:
            image = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        drawn = as_jpeg(draw(image, labels))
        assert (compare_pictures(image, drawn), compare_pictures(drawn, image)) == (
            Comparison.SECOND_IS_OVERLAY,
            Comparison.FIRST_IS_OVERLAY,
        )


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda image: image // 2,
        lambda image: (255 * (image / 255) ** 0.5).astype(np.uint8),
        lambda image: np.repeat(image[..., :1], 3, axis=2),
        lambda image: np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2),
        lambda image: image[..., [1, 0, 2]],
        lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    ],
    ids=["copy", "darker", "gamma", "red channel", "gray", "channels exchanged", "noise"],
)
def test_another_version_of_a_photograph_is_no_overlay(change):
    image, _ = photograph(0)
    found = {compare_pictures(image, change(image)), compare_pictures(change(image), image)}
    assert found <= {Comparison.ALIKE, Comparison.DIFFERENT}


def test_one_channel_does_not_see_what_another_one_sees():
    """Beside near infrared, a colored photograph is more colorful, and no overlay."""
    image, labels = photograph(0)
    image = np.clip(image[..., 1:2] * [1.02, 1.0, 0.95], 0, 255).astype(
        np.uint8
    )  # most of it is nearly the same in red
    image[labels > 0, 1] = np.minimum(image[labels > 0, 1], 180) + 70
    red = np.repeat(image[..., :1], 3, axis=2)
    assert compare_pictures(image, red) == compare_pictures(red, image) is Comparison.ALIKE


def test_different_photographs_are_not_compared():
    image, _ = photograph(0)
    others = (photograph(1)[0], image[:, ::-1], np.roll(image, 5, axis=0), photograph(0, (160, 120))[0])
    assert [compare_pictures(image, other) for other in others] == [Comparison.DIFFERENT] * 4
    assert compare_pictures(np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4, 3), np.uint8)) is Comparison.DIFFERENT


def test_names_of_folders_that_say_it():
    named = (
        "overlays",
        "out/Overlay_half",
        "SegmentationClassVisualization",
        "visualised",
        "my-previews",
        "predictions",
    )
    others = ("images", "vis", "nir", "television", "blender", "predators", "rgb")
    assert all(map(is_named_as_overlays, named)) and not any(map(is_named_as_overlays, others))


def test_a_file_that_cannot_be_read_is_no_overlay(tmp_path):
    image, _ = photograph(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert compare_files(tmp_path / "a.png", tmp_path / "b.png") is Comparison.DIFFERENT
