"""TIFFs with many bands, from satellites and multispectral cameras: three bands become red, green and blue.

rasterio, which is optional, reads them. Pillow decodes at most four bands.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiervl.utils.errors import UserError

TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Bands:
    """The bands of a TIFF to read, and their values for black and white.

    Attributes:
        numbers: of the bands that are red, green and blue, counted from 1.
        value_range: the values that become 0 and 255, linear between them; None: the full range of the file's type.
    """

    numbers: tuple[int, int, int]
    value_range: tuple[float, float] | None = None

    @classmethod
    def from_config(cls, cfg) -> "Bands | None":
        """Build it from ``DATASET.BANDS`` and ``BAND_RANGE``; None if they are empty.

        Raises:
            UserError: they are not three numbers from 1, or not two ascending values.
        """
        return cls.checked(cfg.DATASET.BANDS, cfg.DATASET.BAND_RANGE, ("DATASET.BANDS", "DATASET.BAND_RANGE"))

    @classmethod
    def checked(cls, numbers: Sequence[int], values: Sequence[float], names: tuple[str, str]) -> "Bands | None":
        """Of what somebody wrote, under these two names; None where that is nothing.

        Raises:
            UserError: as :meth:`from_config`.
        """
        numbers, values = list(numbers), list(values)
        if not numbers and not values:
            return None
        if len(numbers) != 3 or not all(type(number) is int and number > 0 for number in numbers):
            raise UserError(
                f"{names[0]} names three bands, for red, green and blue, counted from 1, such as [4, 3, 2], not "
                f"{numbers}."
            )
        if values and (len(values) != 2 or not values[0] < values[1]):
            raise UserError(f"{names[1]} is two values, the dark one first, such as [0, 3000], not {values}.")
        first, second, third = numbers
        return cls((first, second, third), (float(values[0]), float(values[1])) if values else None)

    def applies_to(self, path: str) -> bool:
        """Whether the file is a TIFF. Other files are read as usual."""
        return str(path).lower().endswith(TIFF_SUFFIXES)

    def scale(self, values: np.ndarray, path: str) -> np.ndarray:
        """Values of any type → uint8.

        Raises:
            UserError: they are floating-point numbers, and no range is given.
        """
        if values.dtype == np.uint8 and self.value_range is None:
            return values
        if self.value_range is not None:
            low, high = self.value_range
        elif values.dtype.kind in "iu":
            low, high = 0.0, float(np.iinfo(values.dtype).max)
        else:
            raise UserError(
                f"{path} holds {values.dtype} values, whose range is unknown: write the values that are black and "
                "white as DATASET.BAND_RANGE, such as [0, 1]."
            )
        scaled = (values.astype(np.float32) - low) * (255 / (high - low))
        return np.nan_to_num(scaled, nan=0.0).clip(0, 255).round().astype(np.uint8)


def read_bands(path: str, bands: Bands) -> np.ndarray:
    """Three bands of a TIFF: (H, W, 3) uint8.

    Raises:
        UserError: rasterio is not installed, the file is broken, or it has fewer bands.
    """
    with _opened(path) as file:
        check_count(path, file.count, bands)
        values = _rasterio_call(path, lambda: file.read(list(bands.numbers)))
    return bands.scale(values, path).transpose(1, 2, 0)


def tiff_size(path: str) -> tuple[int, int]:
    """Height and width of a TIFF with any number of bands, from its header. Errors are those of :func:`read_bands`."""
    with _opened(path) as file:
        return file.height, file.width


def check_count(path: str, count: int, bands: Bands) -> None:
    """Raise a UserError if a file with ``count`` bands does not have all wanted bands."""
    if max(bands.numbers) > count:
        wanted = list(bands.numbers)
        raise UserError(f"{path} has {count} bands, but DATASET.BANDS is {wanted}: choose from 1 to {count}.")


def has_rasterio() -> bool:
    return importlib.util.find_spec("rasterio") is not None


def _opened(path: str) -> Any:
    if not has_rasterio():
        raise UserError(f"{path} is a TIFF that DATASET.BANDS is for: install rasterio (`pip install rasterio`).")
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=rasterio.errors.NotGeoreferencedWarning)
        return _rasterio_call(path, lambda: rasterio.open(path))


def _rasterio_call(path: str, call) -> Any:
    from rasterio.errors import RasterioError

    try:
        return call()
    except (RasterioError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a TIFF ({reason}): replace the file.") from None
