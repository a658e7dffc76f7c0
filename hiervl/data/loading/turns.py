"""Rotate or mirror photographs by their EXIF data, and rotate masks that were drawn on the stored pixels.

Images are always used upright. A mask fits either the upright or the stored pixels of its image. Which one, is decided
in this order:

1. by the mask's own EXIF data: a mask with a rotation is rotated;
2. by its size: a mask that fits the upright image is upright already; a mask that fits only the stored image is rotated
   like the image.

With a half turn, a mirror image or a square image the size does not change. Then a mask without its own EXIF data
counts as upright, because labelling programs show photographs upright, and :func:`is_doubtful` is true. Sizes are
height and width; an orientation is EXIF's number, 1 (upright) to 8, or None where a file says none.
"""

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF's number of the tag
UPRIGHT = 1
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap width and height

Size = tuple[int, ...]


def orientation_of(image: Image.Image) -> int | None:
    """The EXIF orientation of an opened image."""
    value = image.getexif().get(ORIENTATION)
    return value if value in range(1, 9) else None


def turned(values: np.ndarray, orientation: int | None) -> np.ndarray:
    """Stored pixels (H, W, …), rotated and mirrored as ``orientation`` says."""
    if orientation in QUARTER_TURNS:
        values = values.swapaxes(0, 1)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(values[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def turned_size(size: Size, orientation: int | None) -> Size:
    """The size of stored pixels after rotation, and the reverse."""
    return (size[1], size[0]) if orientation in QUARTER_TURNS else (size[0], size[1])


def fitting_orientation(
    stored: Size, mask_orientation: int | None, upright: Size, image_orientation: int | None
) -> int | None:
    """How to rotate a mask so that it fits its upright image; the mask's own orientation if nothing fits.

    Args:
        stored: size of the mask's stored pixels.
        mask_orientation, image_orientation: the EXIF orientations of the two files.
        upright: size of the upright image.
    """
    for orientation in (mask_orientation, UPRIGHT, image_orientation):
        if turned_size(stored, orientation) == tuple(upright):
            return orientation
    return mask_orientation


def is_doubtful(stored: Size, mask_orientation: int | None, upright: Size, image_orientation: int | None) -> bool:
    """Whether an image is rotated, its mask has no orientation, and its size fits either way."""
    is_turned = image_orientation not in (None, UPRIGHT)
    return (
        is_turned
        and mask_orientation is None
        and tuple(stored) == tuple(upright) == turned_size(stored, image_orientation)
    )
