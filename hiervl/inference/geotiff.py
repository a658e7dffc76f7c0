"""Read and write TIFFs by windows, with their geographic position, if rasterio is installed."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiervl.data.loading.bands import TIFF_SUFFIXES, Bands, check_count
from hiervl.evaluation.sliding_window import Window
from hiervl.utils.errors import UserError
from hiervl.utils.files import whole_file

BLOCK = 256  # side of the tiles in files that are written, in pixels
CACHE_MEGABYTES = 256  # cache of GDAL, whose default is a share of the machine's memory


class GeoReference(NamedTuple):
    """The geographic position of an image, as rasterio describes it."""

    crs: Any
    transform: Any


class Raster:
    """A TIFF of any size."""

    def __init__(self, path: str, bands: Bands | None = None):
        """
        Args:
            bands: the bands to read; None: the first three, or only the first.

        Raises:
            UserError: the file is broken, or its pixels are not an image.
        """
        self.bands = bands
        rasterio = _rasterio()
        self.path = path
        try:
            with _settings():
                self._file = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise UserError(f"{path} cannot be read as a TIFF ({error}): replace the file.") from None
        self.size: tuple[int, int] = (self._file.height, self._file.width)
        if bands is not None:
            check_count(path, self._file.count, bands)
        elif self._file.dtypes[0] not in ("uint8", "uint16"):
            self._file.close()
            raise UserError(f"{path} holds {self._file.dtypes[0]} values: save it with 8 or 16 bits.")
        is_palette = self._file.colorinterp[0].name == "palette"
        self._palette = _palette_of(self._file) if is_palette else None

    @property
    def georeference(self) -> GeoReference | None:
        """The geographic position; None if the file has none."""
        return GeoReference(self._file.crs, self._file.transform) if self._file.crs is not None else None

    def read(self, window: Window | None = None, reduced_to: tuple[int, int] | None = None) -> np.ndarray:
        """RGB pixels (h, w, 3) uint8 of a window or of the whole file, perhaps reduced to a size (height, width).

        The first three bands are red, green and blue. With one or two bands, the first is grey. 16 bits become 8.
        """
        rasterio = _rasterio()
        place = None
        if window is not None:
            place = rasterio.windows.Window(window.left, window.top, window.width, window.height)
        numbers = [1, 2, 3] if self._file.count >= 3 else [1]
        numbers = list(self.bands.numbers) if self.bands is not None else numbers
        shape = None if reduced_to is None else (len(numbers), *reduced_to)
        try:
            with _settings():
                bands = self._file.read(numbers, window=place, out_shape=shape)
        except rasterio.errors.RasterioIOError as error:
            raise UserError(f"{self.path} is damaged ({error}): replace the file.") from None
        if self.bands is not None:
            return self.bands.scale(bands, self.path).transpose(1, 2, 0)
        if self._palette is not None:
            return self._palette[bands[0]]
        if bands.dtype == np.uint16:
            bands = (bands >> 8).astype(np.uint8)
        return np.repeat(bands, 3 // len(numbers), axis=0).transpose(1, 2, 0)

    def close(self) -> None:
        self._file.close()


def is_tiff(path: str) -> bool:
    return path.lower().endswith(TIFF_SUFFIXES)


def read_values(path: str, size: tuple[int, int]) -> np.ndarray:
    """The first band unchanged, reduced to ``size`` (height, width) by skipping pixels."""
    with _settings(), _rasterio().open(path) as file:
        return file.read(1, out_shape=size)


@contextlib.contextmanager
def write_raster(
    path: str,
    size: tuple[int, int],
    dtype: type,
    georeference: GeoReference | None = None,
    colors: Sequence[Sequence[int]] | None = None,
) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """Write a one-band TIFF part by part. The file appears when it is complete.

    Args:
        size: height and width.
        colors: RGB of the values 0, 1, …; kept in the file where its type is uint8.

    Yields:
        a function from top, left and an array (h, w) that writes it there.
    """
    rasterio = _rasterio()
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": np.dtype(dtype).name}
    if min(size) >= BLOCK:
        profile.update(tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
    if georeference is not None:
        profile.update(crs=georeference.crs, transform=georeference.transform)
    options = {"compress": "deflate", "bigtiff": "if_safer", **profile}
    with whole_file(path) as temporary, _settings(), rasterio.open(temporary, "w", **options) as file:
        if colors is not None and np.dtype(dtype) == np.uint8:
            file.write_colormap(1, {value: (*map(int, color), 255) for value, color in enumerate(colors)})

        def write(top: int, left: int, values: np.ndarray) -> None:
            place = rasterio.windows.Window(left, top, values.shape[1], values.shape[0])
            file.write(values.astype(dtype), 1, window=place)

        yield write


def _rasterio():
    """Import rasterio, which is optional, without its warning about files that have no geographic position."""
    import rasterio
    import rasterio.windows

    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def _settings():
    return _rasterio().Env(GDAL_CACHEMAX=CACHE_MEGABYTES)


def _palette_of(file) -> np.ndarray:
    palette = np.zeros((256, 3), np.uint8)
    for value, color in file.colormap(1).items():
        if value < len(palette):
            palette[value] = color[:3]
    return palette
