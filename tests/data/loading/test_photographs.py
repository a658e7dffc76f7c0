"""Photographs as phones save them: JPEG as .jfif, AVIF, and HEIC where pillow-heif is installed."""

import numpy as np
import pytest
from PIL import Image

from hiervl.data.folders.files import find_files, image_size
from hiervl.data.loading.file_types import HAS_AVIF, HAS_HEIC, IMAGE_SUFFIXES, TYPES
from hiervl.data.loading.readers import read_image
from hiervl.utils.errors import UserError

QUARTERS = np.kron(np.array([[30, 90], [150, 220]], dtype=np.uint8), np.ones((32, 24), dtype=np.uint8))


def check_photograph(path, image_format, turned=True, **options):
    """A photograph, perhaps to be turned by its EXIF data, is read up to what the encoder loses."""
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    expected = np.rot90(QUARTERS, -1) if turned else QUARTERS
    Image.fromarray(np.repeat(QUARTERS[:, :, None], 3, axis=2)).save(path, image_format, exif=exif, **options)
    assert list(find_files(path.parent)) == [path.stem]
    assert image_size(path) == expected.shape
    image = read_image(str(path))
    assert image.shape == (*expected.shape, 3)
    assert abs(image[:, :, 0].astype(int) - expected).mean() < 8


def test_jfif(tmp_path):
    check_photograph(tmp_path / "a.JFIF", "JPEG", quality=95)


@pytest.mark.skipif(not HAS_AVIF, reason="Pillow without AVIF")
def test_avif(tmp_path):
    check_photograph(tmp_path / "a.avif", "AVIF", quality=90)


@pytest.mark.skipif(not HAS_HEIC, reason="pillow-heif is not installed")
def test_heic(tmp_path):
    """Phones write how it is turned into HEIC's own fields, which the decoder obeys, and not into EXIF alone."""
    check_photograph(tmp_path / "a.heic", "HEIF", turned=False, quality=90)


@pytest.mark.skipif(HAS_HEIC, reason="pillow-heif is installed")
def test_heic_without_its_decoder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))  # phones rename, too
    with pytest.raises(UserError, match="it is a HEIC photograph; install pillow-heif, or convert to JPEG"):
        read_image(str(tmp_path / "a.jpg"))
    assert ".heic" not in IMAGE_SUFFIXES and "pillow-heif" in TYPES[".heic"].advice
