"""Photographs that EXIF data asks to be turned or mirrored, and masks that may lie as the camera stored the pixels.

Images are always shown upright. A mask belongs to the pixels of its image in one of two frames, the upright or the
stored one. Which one it is follows, in this order, from

1. the mask's own EXIF data: a mask that carries a turn is turned;
2. its size: a mask that fits the upright image lies in its frame already, one that fits only the stored image lies in
   that one, and is turned as the image is.

A half turn, a mirror image and a square image leave the size as it is. There a mask without EXIF data of its own is
taken for upright, as programs for labelling show photographs, and :func:`is_doubtful` says that nobody can tell.
Sizes are height and width; an orientation is EXIF's number, 1 (upright) to 8, or None where a file says none.
"""

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF's number of the tag
UPRIGHT = 1
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap width and height

Size = tuple[int, ...]


def orientation_of(image: Image.Image) -> int | None:
    """The orientation that an opened image carries."""
    value = image.getexif().get(ORIENTATION)
    return value if value in range(1, 9) else None


def turned(values: np.ndarray, orientation: int | None) -> np.ndarray:
    """Stored pixels (H, W, …) as ``orientation`` wants them to be seen."""
    if orientation in QUARTER_TURNS:
        values = values.swapaxes(0, 1)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(values[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def turned_size(size: Size, orientation: int | None) -> Size:
    """Of stored pixels, once they are turned; and the other way round."""
    return (size[1], size[0]) if orientation in QUARTER_TURNS else (size[0], size[1])


def fitting_orientation(
    stored: Size, mask_orientation: int | None, upright: Size, image_orientation: int | None
) -> int | None:
    """How a mask is to be turned to lie on its upright image; the mask's own orientation where nothing fits.

    Args:
        stored: size of the mask's stored pixels.
        mask_orientation, image_orientation: the orientations that the two files carry.
        upright: size of the upright image.
    """
    for orientation in (mask_orientation, UPRIGHT, image_orientation):
        if turned_size(stored, orientation) == tuple(upright):
            return orientation
    return mask_orientation


def is_doubtful(stored: Size, mask_orientation: int | None, upright: Size, image_orientation: int | None) -> bool:
    """Whether an image is turned, its mask says nothing of it, and its size would fit either way."""
    is_turned = image_orientation not in (None, UPRIGHT)
    return (
        is_turned
        and mask_orientation is None
        and tuple(stored) == tuple(upright) == turned_size(stored, image_orientation)
    )
