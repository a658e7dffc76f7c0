"""Shapes as pixels, expected values counted by hand."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hiervl.data.folders.formats import shapes


def drawn(shape, height=6, width=8):
    image = np.zeros((height, width), dtype=int)
    patch = shape.draw(height, width)
    patch.of(image)[patch.pixels] = 1
    return image


def rows(*texts):
    return [[int(character == "#") for character in text] for text in texts]


def test_polygon_with_a_hole():
    outline = [(1, 1), (6, 1), (6, 5), (1, 5)]
    shape = shapes.polygon("cap", outline, [[(2, 2), (4, 2), (4, 4), (2, 4)]])
    assert drawn(shape).tolist() == rows("........", ".#####..", ".#..##..", ".#..##..", ".#####..", "........")


def test_polygon_beyond_the_image_is_cut():
    shape = shapes.polygon("cap", [(-3, -2), (2, -2), (2, 3), (-3, 3)])
    assert drawn(shape, 4, 4).tolist() == rows("##..", "##..", "##..", "....")
    assert not shapes.polygon("cap", [(20, 20), (30, 20), (30, 30)]).draw(4, 4).pixels.any()
    far = shapes.polygon("cap", [(-1e12, 0), (2, 0), (2, 4), (-1e12, 4)])  # must not need memory for its length
    assert drawn(far, 4, 4)[:, :2].all()


def test_a_part_of_the_image_gives_the_same_pixels_as_the_whole():
    """Random polygons, within the image and beyond, drawn by pycocotools on the whole image."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.uniform(-5, 35, (rng.integers(3, 8), 2))
        whole = coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], 24, 30))[:, :, 0]
        assert np.array_equal(drawn(shapes.polygon("cap", points), 24, 30), whole)


def test_circle_and_turned_box():
    assert drawn(shapes.ellipse("cap", 4, 3, 1.6, 1.6)).tolist() == rows(
        "........", "...##...", "..####..", "..####..", "...##...", "........"
    )
    assert drawn(shapes.box("cap", 1, 2, 7, 4, angle=90)).tolist() == rows(*["...##..."] * 6)


def test_runs_go_row_by_row_and_begin_outside():
    assert shapes.runs([1, 2, 2, 1], 2, 3).tolist() == [[False, True, True], [False, False, True]]
    with pytest.raises(ValueError, match="run lengths of 5 pixels for 3×2"):
        shapes.runs([1, 2, 2], 2, 3)


def test_bitmap_that_reaches_out_of_the_image():
    shape = shapes.bitmap("cap", np.ones((3, 3)), top=-1, left=6)
    assert drawn(shape, 3, 8).tolist() == rows("......##", "......##", "........")


def test_shapes_without_area_say_so():
    shape = shapes.polygon("cap", [(1, 1), (4, 4), (1, 1)])
    assert shape.draw is None and "fewer than 3 points" in shape.problem
    with pytest.raises(ValueError):
        shapes.polygon("cap", [(1, 1), (float("nan"), 4), (1, 1)])
