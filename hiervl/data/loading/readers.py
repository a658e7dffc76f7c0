"""Read image, label and instance files as arrays. Every problem becomes one sentence that names the file."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from hiervl.data.loading.bands import Bands, read_bands
from hiervl.data.loading.file_types import HAS_AVIF, HAS_HEIC, HEAD, IMAGE, type_of_bytes
from hiervl.data.loading.turns import UPRIGHT, fitting_orientation, is_doubtful, orientation_of, turned, turned_size
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

# Pillow logs errors that it also raises; the sentence of the error is better.
logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)

MAX_8_BIT = 255
MAX_16_BIT = 65535
# A label is one number per pixel: palette indices count, palette colours do not.
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
DEEP_GRAY_MODES = ("I", "I;16", "I;16L", "I;16B")
MAX_LISTED_VALUES = 5
# Formats that Pillow decodes itself. Others start programs (EPS: Ghostscript) or are rarely tested.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", *(["AVIF"] if HAS_AVIF else []))
if HAS_HEIC:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS += ("HEIF",)
# A small file may claim any size. Pillow needs 0.7 GB for this many pixels.
MAX_PIXELS = 178_956_970
OVERVIEW_SIDE = 128  # least shorter side of an image that is decoded at a reduced size
FULL_SIZE = "hiervl full size"
TAG_OF_KIND = 254  # in the header of a TIFF page
COUNTED_BY_READING = ("TIFF", "GIF")  # formats whose header does not say how many pages there are
NO_PAGE_OF_ITS_OWN = 1 | 4  # bits of a TIFF page's type: a smaller copy of another page, or its transparency


def read_image(path: str, bands: Bands | None = None) -> np.ndarray:
    """Read an image as viewers show it.

    Grey, palette, CMYK and transparent images become RGB (transparency is dropped, not blended), 16-bit images are
    scaled to 8 bits, and the EXIF orientation is applied.

    Args:
        bands: for TIFFs, the bands for red, green and blue, and the values for black and white; None: read like other
            images.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UserError: the file is missing, cannot be decoded, has more than :data:`MAX_PIXELS`, or its kind of pixels is
            not supported.
    """
    if bands is not None and bands.applies_to(path):
        return read_bands(path, bands)
    return rgb_of(open_image(path, upright=True), path)


def read_overview(path: str, bands: Bands | None = None) -> tuple[tuple[int, int], np.ndarray]:
    """Height and width of an image, and the image itself; a large JPEG is decoded at a reduced size. Errors are those
    of :func:`read_image`.

    The whole file is read, so truncated files are noticed, but a large JPEG takes a third of the time.

    Args:
        bands: as in :func:`read_image`.

    Returns:
        The size of the upright image, and (H, W, 3) uint8 RGB, upright, perhaps smaller.
    """
    if bands is not None and bands.applies_to(path):
        pixels = read_bands(path, bands)
        return (pixels.shape[0], pixels.shape[1]), pixels
    image = open_image(path, upright=False, reduced=True)
    height, width = image.info.pop(FULL_SIZE, image.size[::-1])
    height, width = turned_size((height, width), orientation_of(image))
    return (height, width), rgb_of(_upright(image, path), path)


def _upright(image: Image.Image, path: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data
        raise _unreadable(path, error) from None


def rgb_of(image: Image.Image, path: str) -> np.ndarray:
    """As :func:`read_image`, for an opened, upright image. ``path``: its name in messages."""
    if image.mode in DEEP_GRAY_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > MAX_16_BIT:
            raise UserError(f"{path} holds values from {values.min()} to {values.max()}: save it with 8 or 16 bits.")
        gray = (values >> 8).astype(np.uint8)  # convert("RGB") would clip at 255
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values, whose range is unknown: save it with 8 or 16 bits.")
    return np.array(image.convert("RGB"))


def read_label(
    path: str,
    num_classes: int,
    ignore_label: int = 255,
    image_size: tuple[int, int] | None = None,
    image_file: str = "",
) -> np.ndarray:
    """Read a label file and check it. It is rotated like its image, see ``turns.py``.

    Args:
        path: image file with one class index per pixel (grey or palette).
        num_classes: C; valid labels are 0 … C-1 and ``ignore_label``.
        image_size: height and width of the upright image; None: not compared.
        image_file: the image; its EXIF data may say how to rotate a label of another size.

    Returns:
        (H, W) uint8, or int32 if a value exceeds 255.

    Raises:
        UserError: the file is missing, cannot be decoded, holds colours, has another size than the image, or a value
            that is not a class.
    """
    label = _read_indices(path, image_size, image_file)
    values = _values_in(label)
    wrong = [value for value in values if not (0 <= value < num_classes or value == ignore_label)]
    if wrong:
        raise UserError(
            f"{path} holds {listed(wrong, MAX_LISTED_VALUES)}, but the {num_classes} classes are "
            f"0 to {num_classes - 1} and {ignore_label} is ignored: correct the file or the list of classes."
        )
    return label


def read_instances(path: str, image_size: tuple[int, int] | None = None, image_file: str = "") -> np.ndarray:
    """Read a file of instance numbers: one number per pixel, 0 without an instance.

    Args:
        image_size, image_file: as in :func:`read_label`.

    Returns:
        (H, W) uint8, or int32 if a number exceeds 255.

    Raises:
        UserError: as :func:`read_label`, except for the values.
    """
    return _read_indices(path, image_size, image_file)


def read_stored(path: str) -> np.ndarray:
    """The stored numbers (H, W) of a mask file, without its EXIF rotation.

    Raises:
        UserError: the file is missing, cannot be decoded or holds colours.
    """
    return _stored_indices(path)[0]


def _stored_indices(path: str) -> tuple[np.ndarray, int | None]:
    """The numbers and the orientation of a mask file."""
    image = open_mask(path)
    if image.mode not in INDEX_MODES:
        raise UserError(f"{path} holds {image.mode} colours: save it with one class or instance index per pixel.")
    indices = np.array(image)
    if indices.dtype == bool:
        indices = indices.astype(np.uint8)
    if indices.dtype != np.uint8:
        indices = indices.astype(np.uint8 if 0 <= indices.min() and indices.max() <= MAX_8_BIT else np.int32)
    return indices, orientation_of(image)


def _read_indices(path: str, image_size: tuple[int, int] | None, image_file: str) -> np.ndarray:
    indices = as_image_is_turned(*_stored_indices(path), image_size, image_file)
    if image_size is not None and indices.shape != tuple(image_size):
        raise UserError(
            f"{path} is {indices.shape[1]}×{indices.shape[0]} pixels, but its image is "
            f"{image_size[1]}×{image_size[0]}: the two must have the same size."
        )
    return indices


def _values_in(indices: np.ndarray) -> list:
    """The different values, ascending."""
    if indices.dtype == np.uint8:  # ten times faster than np.unique, which sorts the pixels
        return np.flatnonzero(np.bincount(indices.ravel(), minlength=MAX_8_BIT + 1)).tolist()
    return np.unique(indices).tolist()


def open_image(path: str, upright: bool = False, reduced: bool = False) -> Image.Image:
    """Decode a file completely, so that a truncated one is noticed here. ``upright``: apply its EXIF rotation.
    ``reduced``: decode a large JPEG at a fraction of its size; the full size is in ``info[FULL_SIZE]`` (height,
    width)."""
    if not os.path.isfile(path):
        raise UserError(f"{path} is missing: put it back, or take its image out of the dataset.")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from None
    return decode_image(data, path, upright=upright, reduced=reduced)


class BandsError(UserError):
    """A TIFF has bands that need a choice of three."""


def open_mask(path: str) -> Image.Image:
    """As :func:`open_image`, for a mask, of which no page may be passed over.

    Raises:
        UserError: as :func:`open_image`; or the file holds several pages or frames of its size that differ.
    """
    try:
        image = open_image(path)
    except BandsError:
        raise UserError(
            f"{path} is a TIFF of several bands that are no colours, and a mask has one: save the class of every pixel "
            "as one number, or one file (.npy) with a map per class."
        ) from None
    count = _pages(path) if image.format in COUNTED_BY_READING or getattr(image, "is_animated", False) else 1
    if count > 1:
        raise UserError(
            f"{path} holds {count} pages, of which only the first would be read: save one mask per image, or the pages "
            "as one array (.npy) with a map per class."
        )
    return image


def _pages(path: str) -> int:
    """How many pages of the first one's size a file holds; 1 if they are all the same."""
    with image_header(path) as image:
        frames, size, count, differs = getattr(image, "n_frames", 1), image.size, 1, False
        if frames == 1:
            return 1
        first = _page(image)
        for number in range(1, frames):
            image.seek(number)
            kind = image.tag_v2.get(TAG_OF_KIND, 0) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0
            if image.size == size and not kind & NO_PAGE_OF_ITS_OWN:
                count += 1
                differs = differs or not np.array_equal(first, _page(image))
        return count if differs else 1


def _page(image: Image.Image) -> np.ndarray:
    """The pixels of the current page; colours where the file has some, since frames of a GIF differ in form."""
    return np.array(image if image.mode in DEEP_GRAY_MODES or image.mode == "F" else image.convert("RGBA"))


def decode_image(
    data: bytes, name: str, *, upright: bool = False, max_pixels: int | None = None, reduced: bool = False
) -> Image.Image:
    """As :func:`open_image`, from a file's bytes. ``name``: its name in messages.

    ``max_pixels`` None stands for :data:`MAX_PIXELS`.

    Raises:
        UserError: it cannot be decoded, or has more than ``max_pixels`` according to its header.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # harmless warnings of Pillow about sizes and metadata
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            if reduced:
                image.info[FULL_SIZE] = image.size[::-1]
            if reduced and image.format == "JPEG":
                least = max(1, min(image.size) // OVERVIEW_SIDE)
                image.draft(None, (image.width // least, image.height // least))
            image.load()
            return ImageOps.exif_transpose(image) if upright else image
    except Image.DecompressionBombError:
        raise UserError(f"{name} has more than {max_pixels} pixels: cut it into tiles.") from None
    except UnidentifiedImageError:
        raise _unidentified(name, data) from None
    except Exception as error:  # Pillow's decoders raise many kinds of errors
        raise _unreadable(name, error) from None


def as_image_is_turned(
    stored: np.ndarray, mask_orientation: int | None, image_size: tuple[int, int] | None, image_file: str = ""
) -> np.ndarray:
    """The stored pixels (H, W) of a mask, rotated to its upright image; see ``turns.py``.

    Args:
        mask_orientation: the orientation in the mask's own EXIF data.
        image_size: height and width of the upright image; None: unknown.
        image_file: the image; its orientation is read only if the size does not fit.
    """
    if image_size is None:
        return turned(stored, mask_orientation)
    fits = tuple(image_size) in (stored.shape, turned_size(stored.shape, mask_orientation))
    image_orientation = None if fits or not image_file else file_frame(image_file).orientation
    return turned(stored, fitting_orientation(stored.shape, mask_orientation, image_size, image_orientation))


# A message about masks for which is_doubtful_mask is true.
DOUBTFUL = (
    "masks say nothing of the turn or mirror image that their photographs' EXIF data asks for, and their size or "
    "coordinates fit either way: they are taken for drawn on the upright photograph; look at the overlays of `python "
    "-m hiervl check-data`, and if masks are turned or mirrored there, remove the rotation from their photographs' "
    "EXIF data"
)


class Frame(NamedTuple):
    """What a file's header says about its stored pixels."""

    size: tuple[int, int]  # height, width
    orientation: int | None  # from its EXIF data


def file_frame(path: str | os.PathLike) -> Frame:
    """Size and orientation, from the header.

    Raises:
        UserError: the file is missing or no image.
    """
    with image_header(path) as image:
        return Frame((image.height, image.width), orientation_of(image))


def frame_or_none(path: str | os.PathLike) -> Frame | None:
    """As :func:`file_frame`; None where there is no image to be read: whoever reads the file will say so."""
    try:
        return file_frame(path)
    except UserError:
        return None


def is_doubtful_mask(image_file: str, mask_file: str) -> bool:
    """Whether a mask may be rotated or not, see ``turns.py``. False if a file cannot be read."""
    try:
        image = file_frame(image_file)
        if image.orientation in (None, UPRIGHT):
            return False
        mask = file_frame(mask_file)
    except UserError:
        return False
    return is_doubtful(mask.size, mask.orientation, turned_size(image.size, image.orientation), image.orientation)


def _unidentified(name: str, data: bytes) -> UserError:
    """The error for a file that no decoder reads: what it is instead, or what its TIFF header says."""
    tiff = _tiff_samples(data)
    if tiff is not None:
        bands, bits = tiff
        return BandsError(
            f"{name} is a TIFF of {bands} bands of {bits} bits: set DATASET.BANDS to the three that are red, green and "
            f"blue, such as {'[4, 3, 2]' if bands > 4 else '[1, 2, 3]'}, and DATASET.BAND_RANGE to the values that are "
            "black and white (`predict` takes --bands and --band-range)."
        )
    found = type_of_bytes(data[:HEAD])
    if found is None or found is IMAGE:
        return UserError(f"{name} cannot be read as an image (no {', '.join(FORMATS)}): replace the file.")
    return UserError(f"{name} cannot be read as an image: it is {found.name}; {found.advice}.")


def _tiff_samples(data: bytes) -> tuple[int, int] | None:
    """Bands and bits of a TIFF, from its header; None: it is not a TIFF, or its header is damaged."""
    if data[:4] not in (b"II*\x00", b"MM\x00*"):
        return None
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        bits = directory.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return int(directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)), int(max(bits))
    except Exception:  # for a damaged file Pillow raises many kinds of errors
        return None


def _unreadable(name: str, error: BaseException) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name} cannot be read as an image ({reason}): replace the file.")


@contextlib.contextmanager
def image_header(path: str | os.PathLike) -> Iterator[Image.Image]:
    """An opened file without decoded pixels, for its size, kind and EXIF data.

    Raises:
        UserError: it is missing or not an image, even if that shows only inside the ``with`` block.
    """
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        open_image(os.fspath(path))  # its error says what the file is
        raise _unreadable(os.fspath(path), ValueError("its header is damaged")) from None
    except Exception as error:  # Pillow's decoders raise many kinds of errors
        raise _unreadable(os.fspath(path), error) from None
