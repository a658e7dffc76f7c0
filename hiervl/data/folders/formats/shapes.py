"""Draw outlines, boxes, ellipses and bitmaps of annotation files as pixels.

Coordinates are x (to the right) and y (down) in pixels: pixel (row, column) covers x from column to column + 1 and y
from row to row + 1. A shape is drawn into the part of the image that it covers, a :class:`Patch`.
"""

import base64
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from hiervl.data.loading.readers import MAX_PIXELS, decode_image

Points = Sequence[Sequence[float]]

FEW_POINTS = "outlines of fewer than 3 points are left out"
ONLY_BOXES = "boxes have no outline: their area does not count"
NO_AREA = "objects cover no pixel of the image"
# Points further away than this many image sizes are moved nearer: the memory for drawing grows with the edges' length.
FARTHEST = 10


class Patch(NamedTuple):
    """A part of a mask: bool (h, w). Its first pixel is at row ``top`` and column ``left`` of the image."""

    top: int
    left: int
    pixels: np.ndarray

    def clipped(self, height: int, width: int) -> "Patch":
        """The part inside an image of that size."""
        top, left = max(0, self.top), max(0, self.left)
        rows = slice(top - self.top, max(top, min(height, self.top + self.pixels.shape[0])) - self.top)
        columns = slice(left - self.left, max(left, min(width, self.left + self.pixels.shape[1])) - self.left)
        return Patch(top, left, self.pixels[rows, columns])

    def of(self, image: np.ndarray) -> np.ndarray:
        """The pixels (h, w) of an image that the patch covers, as a view."""
        height, width = self.pixels.shape
        return image[self.top : self.top + height, self.left : self.left + width]


@dataclass(frozen=True)
class Shape:
    """One object of an annotation file.

    Attributes:
        name: its label in the file.
        draw: function from the image's height and width to the pixels of the object; None: it has none, see
            ``problem``.
        problem: the problem of such objects, in the plural ("lines have no area"); "": none, it is drawn. A shape with
            a problem that can be drawn marks an area with unknown labels.
        group: shapes of one group are one object.
        is_crowd: several objects in one shape, without outlines of their own.
        reach: height and width of the smallest image that holds the shape, where it has coordinates.
    """

    name: str
    draw: Callable[[int, int], Patch] | None
    problem: str = ""
    group: Hashable = None
    is_crowd: bool = False
    reach: tuple[float, float] | None = None


def crowd(shape: Shape) -> Shape:
    """The same shape as several objects in one."""
    return replace(shape, is_crowd=True)


def left_out(name: str, problem: str) -> Shape:
    """An object that has no area."""
    return Shape(name, None, problem)


def polygon(
    name: str, points: Points | np.ndarray, holes: Sequence[Points] = (), problem: str = "", group: Hashable = None
) -> Shape:
    """The inside of an outline, without its holes.

    Args:
        points, holes: (n, 2) x and y.

    Raises:
        ValueError: the points are not pairs of finite numbers.
    """
    outline = _checked(points)
    rings = [_checked(hole) for hole in holes if len(hole) > 2]
    if len(np.unique(outline, axis=0)) < 3:
        return left_out(name, FEW_POINTS)

    def draw(height: int, width: int) -> Patch:
        patch = _fill(outline, height, width)
        for ring in rings:
            hole = _fill(ring, height, width, patch)
            patch.pixels[hole.pixels] = False
        return patch

    right, bottom = outline.max(axis=0).tolist()
    return Shape(name, draw, problem, group, reach=(bottom, right))


def box(
    name: str, left: float, top: float, right: float, bottom: float, angle: float = 0.0, problem: str = ""
) -> Shape:
    """A rectangle, rotated clockwise about its centre by ``angle`` degrees."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return turned_polygon(name, corners, ((left + right) / 2, (top + bottom) / 2), angle, problem)


def turned_polygon(name: str, points: Points, center: Sequence[float], angle: float, problem: str = "") -> Shape:
    """A polygon, rotated clockwise (y points down) about ``center`` by ``angle`` degrees."""
    offset = _checked(points) - center
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return polygon(name, offset @ np.array([[cosine, sine], [-sine, cosine]]) + center, problem=problem)


def ellipse(
    name: str, x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0, group: Hashable = None
) -> Shape:
    """The pixels with centres inside an ellipse, rotated clockwise about its centre by ``angle`` degrees."""
    (x, y), (radius_x, radius_y) = _checked([(x, y), (radius_x, radius_y)])
    radius_x, radius_y = abs(radius_x), abs(radius_y)
    reach = max(radius_x, radius_y)

    def draw(height: int, width: int) -> Patch:
        top, bottom = _span(y - reach, y + reach, height)
        left, right = _span(x - reach, x + reach, width)
        rows, columns = np.mgrid[top:bottom, left:right] + 0.5
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        along = (columns - x) * cosine + (rows - y) * sine
        across = (rows - y) * cosine - (columns - x) * sine
        tiny = np.finfo(float).tiny
        return Patch(top, left, (along / max(radius_x, tiny)) ** 2 + (across / max(radius_y, tiny)) ** 2 <= 1)

    return Shape(name, draw, group=group, reach=(y + reach, x + reach))


def bitmap(name: str, pixels: np.ndarray, top: int = 0, left: int = 0, group: Hashable = None) -> Shape:
    """Pixels (h, w) bool; the first is at (top, left)."""
    patch = Patch(int(top), int(left), np.asarray(pixels, dtype=bool))
    height, width = patch.pixels.shape
    return Shape(name, patch.clipped, group=group, reach=(patch.top + height, patch.left + width))


def runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Run lengths → pixels (height, width) bool: how many are outside, then inside, then outside …, row by row.

    Raises:
        ValueError: they do not add up to the size.
    """
    lengths = np.asarray(counts, dtype=np.int64)
    if height * width > MAX_PIXELS or lengths.min(initial=0) < 0 or lengths.sum() != height * width:
        raise ValueError(f"run lengths of {lengths.sum()} pixels for {width}×{height}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def png_bytes(text: str | bytes, source: str, unpack: Callable[[bytes], bytes] = bytes) -> np.ndarray:
    """The pixels (h, w) bool that a PNG inside an annotation file marks: by its alpha channel, else where it is not 0.

    Args:
        text: the PNG in base64.
        source: the annotation file, for messages.
        unpack: decompresses the decoded bytes, if they were compressed.
    """
    image = decode_image(unpack(base64.b64decode(text)), source)
    if image.mode in ("RGBA", "LA", "PA"):
        return np.array(image.getchannel("A")) > 0
    values = np.array(image)
    return (values.any(axis=2) if values.ndim == 3 else values) != 0


def _checked(points: Any) -> np.ndarray:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError("points that are not pairs of numbers")
    return values


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    """Whole pixels from ``low`` to ``high`` inside 0 … length."""
    start = min(max(math.floor(low), 0), length)
    return start, max(start, min(math.ceil(high), length))


def _fill(ring: np.ndarray, height: int, width: int, within: Patch | None = None) -> Patch:
    """The inside of a ring (n, 2), drawn into its own bounds or those of another patch."""
    far = FARTHEST * max(height, width)
    ring = ring.clip(-far, far)
    if within is None:
        left, right = _span(ring[:, 0].min(), ring[:, 0].max(), width)
        top, bottom = _span(ring[:, 1].min(), ring[:, 1].max(), height)
    else:
        top, left = within.top, within.left
        bottom, right = top + within.pixels.shape[0], left + within.pixels.shape[1]
    if top == bottom or left == right:
        return Patch(top, left, np.zeros((bottom - top, right - left), dtype=bool))
    flat = (ring - (left, top)).ravel().tolist()
    encoded = coco_mask.frPyObjects([flat], bottom - top, right - left)
    return Patch(top, left, coco_mask.decode(encoded)[:, :, 0].astype(bool))
