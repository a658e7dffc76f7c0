"""Augmentation as pure functions on NumPy arrays.

Images are (H, W, 3) uint8 RGB, maps of labels or instances (H, W) integers; every result is a new array or a view, and
inputs are not changed. Randomness comes only from the generator that is passed in. The ranges and the order follow
UniMatch. The colour functions compute the same as torchvision's on uint8 tensors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

IMAGE_FILL = 0
VALUES = np.arange(256, dtype=np.float32)  # of a uint8
HUE_CIRCLE = 360.0  # OpenCV's float HSV counts hue in degrees

CUTMIX_AREA = (0.02, 0.4)  # share of the crop
CUTMIX_ASPECT = (0.3, 1 / 0.3)  # height / width
NO_BOX = (0, 0, 0, 0)


# ---------------------------------------------------------------------------- geometry


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to ``size`` (height, width): mean over the pixel's area when shrinking, else bilinear."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map of labels or instances to ``size`` (height, width) by nearest neighbour."""
    if values.shape == tuple(size):
        return values
    # Not INTER_NEAREST, which would be shifted by half a pixel from the resized image.
    return cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with a shorter side of ``short_side`` pixels and the same aspect; 0 changes nothing."""
    if short_side == 0:
        return height, width
    factor = short_side / min(height, width)
    return _at_least_one(height * factor), _at_least_one(width * factor)


def random_scale_size(rng: np.random.Generator, height: int, width: int, scale: tuple[float, float]) -> tuple[int, int]:
    """Height and width with a longer side that is uniform in the range ``scale`` × the current one, with the same
    aspect."""
    long_side = max(height, width)
    lowest, highest = (max(1, int(long_side * factor)) for factor in scale)
    factor = rng.integers(lowest, highest + 1) / long_side
    return _at_least_one(height * factor), _at_least_one(width * factor)


def random_offset(rng: np.random.Generator, height: int, width: int, crop_size: int) -> tuple[int, int]:
    """Top and left of a uniformly placed crop; 0 for a side that is shorter than the crop."""
    top = rng.integers(0, max(height - crop_size, 0) + 1)
    left = rng.integers(0, max(width - crop_size, 0) + 1)
    return int(top), int(left)


def crop_and_pad(array: np.ndarray, offset: tuple[int, int], crop_size: int, fill: int) -> np.ndarray:
    """Cut a square at (top, left). Missing pixels at the right and the bottom become ``fill``."""
    top, left = offset
    piece = array[top : top + crop_size, left : left + crop_size]
    if piece.shape[:2] == (crop_size, crop_size):
        return piece
    padded = np.full((crop_size, crop_size) + array.shape[2:], fill, dtype=array.dtype)
    padded[: piece.shape[0], : piece.shape[1]] = piece
    return padded


def flip(array: np.ndarray) -> np.ndarray:
    """Mirror left and right."""
    return array[:, ::-1]


@dataclass(frozen=True)
class WeakView:
    """One drawn geometry, which is applied in the same way to an image and its maps.

    Attributes:
        size: height and width to which the source is resized.
        offset: top and left of the crop in the resized source.
        crop_size: side of the crop in pixels.
        flipped: mirror the crop, padding included.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    crop_size: int
    flipped: bool

    def image(self, image: np.ndarray) -> np.ndarray:
        """(crop, crop, 3); padding is black."""
        return self._cut(resize_image(image, self.size), IMAGE_FILL)

    def map(self, values: np.ndarray, fill: int) -> np.ndarray:
        """(crop, crop); padding is ``fill``."""
        return self._cut(resize_map(values, self.size), fill)

    def valid(self) -> np.ndarray:
        """(crop, crop) bool: False on padding."""
        inside = np.zeros((self.crop_size, self.crop_size), dtype=bool)
        inside[: self.size[0] - self.offset[0], : self.size[1] - self.offset[1]] = True
        return flip(inside) if self.flipped else inside

    def _cut(self, resized: np.ndarray, fill: int) -> np.ndarray:
        crop = crop_and_pad(resized, self.offset, self.crop_size, fill)
        return flip(crop) if self.flipped else crop


def weak_view(
    rng: np.random.Generator,
    height: int,
    width: int,
    crop_size: int,
    short_side: int = 0,
    scale: tuple[float, float] = (0.5, 2.0),
    flip_probability: float = 0.5,
) -> WeakView:
    """Draw the weak augmentation of an image of ``height`` × ``width`` pixels: resize, crop, flip."""
    size = random_scale_size(rng, *short_side_size(height, width, short_side), scale)
    return WeakView(size, random_offset(rng, *size, crop_size), crop_size, bool(rng.random() < flip_probability))


# ---------------------------------------------------------------------------- colour


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 is black, 1 the image."""
    return cv2.LUT(image, _to_uint8(VALUES * factor))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean of the grey image: 0 is that mean everywhere, 1 the image."""
    mean = float(_gray(image).mean())
    return cv2.LUT(image, _to_uint8(VALUES * factor + mean * (1 - factor)))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey image: 0 is grey, 1 the image."""
    return cv2.addWeighted(image, factor, to_grayscale(image), 1 - factor, 0.0)


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by ``turn``, a share of the full circle in -0.5 … 0.5."""
    # In float, because OpenCV's 8-bit HSV is wrong by up to 11 grey levels.
    hsv = cv2.cvtColor(np.divide(image, np.float32(255)), cv2.COLOR_RGB2HSV)
    hsv[..., 0] += turn % 1 * HUE_CIRCLE  # less than two circles; OpenCV subtracts one but never adds one
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), alpha=255)


def color_jitter(image: np.ndarray, rng: np.random.Generator, strengths: Sequence[float]) -> np.ndarray:
    """Change brightness, contrast, saturation and hue in random order, each by a random amount.

    Args:
        strengths: (b, c, s, h): the factors of brightness, contrast and saturation are uniform in
            max(0, 1 - b) … 1 + b and so on, the turn of the hue in -h … h. A strength of 0 leaves its property.
    """
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    *blends, hue = strengths
    amounts = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in blends] + [rng.uniform(-hue, hue)]
    for index in rng.permutation(len(adjustments)):
        if strengths[index] > 0:
            image = adjustments[index](image, amounts[index])
    return image


def to_grayscale(image: np.ndarray) -> np.ndarray:
    """The grey image, in three equal channels."""
    return cv2.cvtColor(_gray(image), cv2.COLOR_GRAY2RGB)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian of standard deviation ``sigma`` pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


@dataclass(frozen=True)
class StrongParameters:
    """Ranges of the strong augmentation; the defaults are UniMatch's.

    Attributes:
        jitter_probability: probability of the colour jitter.
        jitter: strengths of brightness, contrast, saturation and hue, see :func:`color_jitter`.
        grayscale_probability: probability of turning the image grey.
        blur_probability: probability of the blur.
        blur_sigma: range of the blur's standard deviation, in pixels.
    """

    jitter_probability: float = 0.8
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.25)
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)


def strong_view(image: np.ndarray, rng: np.random.Generator, parameters: StrongParameters) -> np.ndarray:
    """A strongly augmented copy of an image. The geometry does not change, so the weak view's labels fit it."""
    image = np.ascontiguousarray(image)  # OpenCV refuses mirrored views
    if rng.random() < parameters.jitter_probability:
        image = color_jitter(image, rng, parameters.jitter)
    if rng.random() < parameters.grayscale_probability:
        image = to_grayscale(image)
    if rng.random() < parameters.blur_probability:
        image = gaussian_blur(image, rng.uniform(*parameters.blur_sigma))
    return image


# ---------------------------------------------------------------------------- CutMix


def cutmix_box(rng: np.random.Generator, crop_size: int, probability: float) -> tuple[int, int, int, int]:
    """Draw the box that another image of the batch replaces.

    Area and aspect are uniform in ``CUTMIX_AREA`` and ``CUTMIX_ASPECT``; aspect and place are drawn until the box
    lies inside the crop, as UniMatch does, so elongated large boxes are rarer.

    Returns:
        (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; ``NO_BOX`` with probability 1 - ``probability``.
    """
    if rng.random() >= probability:
        return NO_BOX
    area = rng.uniform(*CUTMIX_AREA) * crop_size**2
    while True:
        aspect = rng.uniform(*CUTMIX_ASPECT)
        width, height = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
        x0, y0 = (int(start) for start in rng.integers(0, crop_size, size=2))
        if x0 + width <= crop_size and y0 + height <= crop_size:
            return x0, y0, x0 + width, y0 + height


def _gray(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 luma."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _at_least_one(length: float) -> int:
    return max(1, int(length + 0.5))
