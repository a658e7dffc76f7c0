"""TIFFs of many bands: three of them become an image."""

import numpy as np
import pytest

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.data.checking.check import check
from hiervl.data.folders.files import image_size
from hiervl.data.loading.bands import Bands
from hiervl.data.loading.mappers import TestMapper
from hiervl.data.loading.readers import read_image
from hiervl.inference.batch import read_ahead
from hiervl.inference.geotiff import Raster
from hiervl.inference.inputs import Item
from hiervl.utils.errors import UserError

rasterio = pytest.importorskip("rasterio")


def write_tiff(path, values):
    """values: (bands, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(path, "w", "GTiff", width, height, count, dtype=values.dtype.name) as file:
        file.write(values)


def twelve_bands(height=4, width=5):
    """Band k holds 100 · k and, at (0, 0), 3000."""
    values = np.broadcast_to(100 * np.arange(1, 13)[:, None, None], (12, height, width)).astype(np.uint16).copy()
    values[:, 0, 0] = 3000
    return values


def test_three_bands_in_a_range(tmp_path):
    write_tiff(tmp_path / "a.tif", twelve_bands())
    bands = Bands((4, 3, 2), (100.0, 1100.0))
    image = read_image(str(tmp_path / "a.tif"), bands)
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert image[1, 1].tolist() == [76, 51, 26]  # (400 − 100) / 1000 · 255 = 76.5, (300 − 100) …, (200 − 100) …
    assert image[0, 0].tolist() == [255] * 3
    whole = read_image(str(tmp_path / "a.tif"), Bands((4, 3, 2)))
    assert whole[0, 0].tolist() == [12] * 3  # 3000 / 65535 · 255
    assert image_size(tmp_path / "a.tif") == (4, 5)
    assert np.array_equal(
        TestMapper(bands=bands)({"file_name": str(tmp_path / "a.tif")})["image"].numpy()[:, 1, 1], image[1, 1]
    )
    raster = Raster(str(tmp_path / "a.tif"), bands)
    assert np.array_equal(raster.read(), image)
    raster.close()
    ((_, read),) = read_ahead([Item(str(tmp_path / "a.tif"), "a")], bands)
    assert np.array_equal(read.pixels, image)


def test_floating_point_bands_need_a_range(tmp_path):
    write_tiff(tmp_path / "a.tif", np.full((5, 3, 3), 0.5, dtype=np.float32))
    assert (read_image(str(tmp_path / "a.tif"), Bands((1, 2, 3), (0.0, 1.0))) == 128).all()
    with pytest.raises(UserError, match="float32 values, whose range is unknown: .* DATASET.BAND_RANGE"):
        read_image(str(tmp_path / "a.tif"), Bands((1, 2, 3)))


def test_unreadable_bands_say_which_key_to_set(tmp_path):
    write_tiff(tmp_path / "a.tif", twelve_bands())
    with pytest.raises(UserError, match=r"a TIFF of 12 bands of 16 bits: set DATASET.BANDS .* such as \[4, 3, 2\]"):
        read_image(str(tmp_path / "a.tif"))
    with pytest.raises(UserError, match="has 12 bands, but DATASET.BANDS is .*: choose from 1 to 12"):
        read_image(str(tmp_path / "a.tif"), Bands((13, 3, 2)))
    (tmp_path / "b.tif").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(UserError, match="b.tif cannot be read as a TIFF"):
        read_image(str(tmp_path / "b.tif"), Bands((4, 3, 2)))


@pytest.mark.parametrize("bands, values", [([4, 3], []), ([0, 1, 2], []), ([4, 3, 2], [5, 5]), ([], [0, 1])])
def test_wrong_bands_are_one_sentence(bands, values):
    cfg = get_hiervl_cfg()
    cfg.DATASET.BANDS, cfg.DATASET.BAND_RANGE = bands, values
    with pytest.raises(UserError, match="DATASET.BAND"):
        Bands.from_config(cfg)


def test_own_dataset_of_many_bands(own):
    for path in sorted((own.root / "labelled/images").iterdir()):
        path.unlink()
        values = own.rng.integers(0, 3000, (12, 64, 64)).astype(np.uint16)
        write_tiff(path.with_suffix(".tif"), values)
    layout = own.layout("UNLABELED: \nBANDS: [4, 3, 2]\nBAND_RANGE: [0, 3000]")
    assert check(layout).is_sound
    report = check(own.layout("UNLABELED: "))
    assert "10 images cannot be read" in report.findings[0].sentence
    assert "set DATASET.BANDS" in report.findings[0].sentence
