import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from hiervl.data.loading.readers import image_header, open_mask, read_image, read_instances, read_label
from hiervl.utils.errors import UserError

GRAY = np.array([[0, 100], [200, 255]], dtype=np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return str(path)


def assert_one_sentence(error, *parts):
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    for part in parts:
        assert part in message


class TestReadImage:
    def test_gray_becomes_three_equal_channels(self, tmp_path):
        image = read_image(save(tmp_path / "a.png", GRAY))
        assert image.dtype == np.uint8 and image.shape == (2, 2, 3)
        assert (image == GRAY[:, :, None]).all()

    def test_16_bit_keeps_the_high_byte(self, tmp_path):
        image = read_image(save(tmp_path / "a.png", GRAY.astype(np.uint16) * 256 + 7))
        assert (image == GRAY[:, :, None]).all()

    def test_transparency_is_dropped(self, tmp_path):
        rgba = np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])
        assert (read_image(save(tmp_path / "a.png", rgba)) == GRAY[:, :, None]).all()

    def test_palette_becomes_its_colors(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode=None)
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.save(tmp_path / "a.png")
        assert read_image(str(tmp_path / "a.png")).tolist() == [[[10, 20, 30], [40, 50, 60]]]

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
    def test_exif_orientation_is_applied(self, tmp_path, suffix):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter clockwise
        wide = np.zeros((16, 32, 3), dtype=np.uint8)
        wide[:, :16] = 255  # its left half ends up on top
        image = read_image(save(tmp_path / f"a{suffix}", wide, exif=exif))
        assert image.shape == (32, 16, 3)
        assert image[:14].min() > 200 and image[18:].max() < 50


class TestBadFiles:
    def test_a_missing_file_is_one_sentence(self, tmp_path):
        for read in (read_image, read_instances, lambda path: read_label(path, 11)):
            with pytest.raises(UserError) as error:
                read(str(tmp_path / "none.png"))
            assert_one_sentence(error, "none.png", "missing")

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_a_truncated_image_is_one_sentence(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
        path.write_bytes(path.read_bytes()[:1500])
        with pytest.raises(UserError) as error:
            read_image(str(path))
        assert_one_sentence(error, str(path), "cannot be read")

    @pytest.mark.parametrize("content", [b"", b"no image at all"])
    def test_a_file_that_is_not_an_image_is_one_sentence(self, tmp_path, content):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_image(str(path))
        assert_one_sentence(error, str(path), "cannot be read")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"<!DOCTYPE html><html><body>404</body></html>", "it is an HTML page"),
            (b"\x00\x00\x00\x18ftypheic" + bytes(40), "it is a HEIC photograph"),
            (b"PK\x03\x04" + bytes(40), "it is an archive"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
            (b"", "it is an empty file"),
        ],
    )
    def test_a_file_of_another_kind_is_named(self, tmp_path, content, words):
        path = tmp_path / "a.jpg"
        path.write_bytes(content)
        for read in (read_image, lambda path: image_header(path).__enter__()):
            with pytest.raises(UserError) as error:
                read(str(path))
            assert_one_sentence(error, str(path), words)

    def test_a_tiff_of_many_bands(self, tmp_path):
        path = tmp_path / "a.tif"
        tags = {256: 2, 257: 2, 258: (16,) * 12, 259: 1, 262: 1, 273: 8, 277: 12, 278: 2, 279: 96}
        directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        for tag, value in tags.items():
            directory[tag] = value
        with open(path, "wb") as file:
            file.write(b"II*\x00\x08\x00\x00\x00")
            directory.save(file)
        with pytest.raises(UserError) as error:
            read_image(str(path))
        assert_one_sentence(error, "12 bands of 16 bits", "set DATASET.BANDS", "[4, 3, 2]")
        with pytest.raises(UserError) as error:
            open_mask(str(path))
        assert_one_sentence(error, "a mask has one: save the class of every pixel")
        assert "BANDS" not in str(error.value)


class TestReadLabel:
    def test_values_and_ignore(self, tmp_path):
        label = np.array([[0, 10, 255]], dtype=np.uint8)
        read = read_label(save(tmp_path / "a.png", label), 11, 255, (1, 3))
        assert read.dtype == np.uint8 and (read == label).all()

    def test_palette_counts_as_indices(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8))
        image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / "a.png")
        assert read_label(str(tmp_path / "a.png"), 2).tolist() == [[0, 1, 255]]

    def test_value_outside_the_classes(self, tmp_path):
        path = save(tmp_path / "a.png", np.array([[0, 11, 254, 255]], dtype=np.uint8))
        with pytest.raises(UserError) as error:
            read_label(path, 11)
        assert_one_sentence(error, path, "11, 254", "0 to 10")

    def test_maps_of_another_size_than_the_image_are_refused(self, tmp_path):
        path = save(tmp_path / "a.png", np.zeros((4, 6), dtype=np.uint8))
        for read in (lambda: read_label(path, 11, 255, (6, 4)), lambda: read_instances(path, (6, 4))):
            with pytest.raises(UserError) as error:
                read()
            assert_one_sentence(error, path, "6×4", "4×6")

    def test_a_label_file_with_colors_is_refused(self, tmp_path):
        path = save(tmp_path / "a.png", np.zeros((4, 6, 3), dtype=np.uint8))
        with pytest.raises(UserError) as error:
            read_label(path, 11)
        assert_one_sentence(error, path, "RGB")

    def test_16_bit_instances(self, tmp_path):
        path = save(tmp_path / "a.png", np.array([[0, 300]], dtype=np.uint16))
        assert read_instances(path).tolist() == [[0, 300]]
