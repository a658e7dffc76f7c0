"""From an uploaded file and a table to pictures, with a small network."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.inference.predictor import HierVLPredictor
from hiervl.serving import segmenter as segmenter_module
from hiervl.serving.class_rows import ChosenClasses, read_rows, rows_of
from hiervl.serving.segmenter import PageSegmenter, UploadLimits
from hiervl.utils.errors import UserError


@pytest.fixture
def predictor(save_run):
    return HierVLPredictor.from_checkpoint(save_run()[1], device="cpu")


@pytest.fixture
def segmenter(predictor):
    return PageSegmenter(predictor, UploadLimits(bytes=20_000, pixels=64 * 64))


def count_calls(monkeypatch):
    calls = []
    ask = HierVLPredictor.__call__

    def counted(self, *arguments, **options):
        calls.append(1)
        return ask(self, *arguments, **options)

    monkeypatch.setattr(HierVLPredictor, "__call__", counted)
    return calls


def test_the_pictures_are_those_of_the_prediction(segmenter, predictor, photo):
    chosen = read_rows(rows_of(predictor.classes))
    expected = predictor(photo)
    drawing = segmenter(photo, chosen)
    colors = np.array([definition.color for definition in predictor.classes], np.uint8)
    np.testing.assert_array_equal(drawing.mask, colors[expected.semantic])
    assert np.abs(drawing.confidence / 255 - expected.confidence).max() < 0.003
    for found_class in drawing.found:
        is_class = expected.semantic == chosen.classes.index(found_class.definition)
        assert found_class.share == pytest.approx(is_class.mean())
        assert found_class.confidence == pytest.approx(expected.confidence[is_class].mean(), abs=1e-5)
    assert sum(found_class.share for found_class in drawing.found) == pytest.approx(1)
    assert drawing.size == (40, 60)


def test_hiding_a_class_or_changing_its_color_only_draws_again(segmenter, predictor, photo, monkeypatch):
    calls = count_calls(monkeypatch)
    rows = rows_of(predictor.classes)
    first = segmenter(photo, read_rows(rows))
    index = predictor.classes.index(first.found[0].definition)
    found_class = (first.mask == predictor.classes[index].color).all(-1)
    rows[index]["show"] = False
    hidden = segmenter(photo, read_rows(rows))
    image = np.asarray(Image.open(photo))
    np.testing.assert_array_equal(hidden.overlay[found_class], image[found_class])
    assert (hidden.overlay[~found_class] != image[~found_class]).any()
    rows[index] = {**rows[index], "show": True, "color": "#0a0b0c"}
    assert (segmenter(photo, read_rows(rows)).mask[found_class] == (10, 11, 12)).all()
    assert len(calls) == 1


def test_new_names_run_the_network_again_with_their_phrases(segmenter, predictor, photo, monkeypatch):
    calls = count_calls(monkeypatch)
    trained = read_rows(rows_of(predictor.classes))
    before = segmenter(photo, trained)
    new = ClassDefinition("zebra", ("a striped animal", "a horse in pyjamas"), (9, 9, 9))
    drawing = segmenter(photo, ChosenClasses((*trained.classes[:2], new), (True,) * 3))
    assert predictor.network.class_names[-1] == "zebra" and len(calls) == 2
    assert set(found_class.definition.name for found_class in drawing.found) <= {"background", "cat", "zebra"}
    segmenter._answers.clear()  # so that the network itself has to come back
    np.testing.assert_array_equal(segmenter(photo, trained).mask, before.mask)
    np.testing.assert_array_equal(segmenter(photo, trained).confidence, before.confidence)


def test_a_phrase_that_clip_cannot_take_leaves_the_network_as_it_was(segmenter, predictor, photo):
    trained = read_rows(rows_of(predictor.classes))
    before = segmenter(photo, trained)
    endless = ClassDefinition("endless", (" ".join(["word"] * 38),), (9, 9, 9))
    with pytest.raises(UserError, match="shorten it"):
        segmenter(photo, ChosenClasses((endless,), (True,)))
    segmenter._answers.clear()
    np.testing.assert_array_equal(segmenter(photo, trained).mask, before.mask)


def bomb(width, height):
    """A PNG of few bytes that claims any size and holds it, as zeros."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * min(height, 500)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content, words",
    [
        (bomb(65, 64), "more than 4096 pixels"),
        (bomb(30_000, 30_000), "more than 4096 pixels"),
        (b"x" * 20_001, "more than 20000 bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "cannot be read as an image"),
        (b"GIF89a<html><script>alert(1)</script>", "cannot be read as an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
        (b"", "cannot be read as an image"),
    ],
)
def test_files_that_are_not_images_of_limited_size_are_refused_without_the_path(tmp_path, monkeypatch, content, words):
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: decoded.append(image.size))
    path = tmp_path / "upload"
    path.write_bytes(content)
    segmenter = PageSegmenter(None, UploadLimits(bytes=20_000, pixels=64 * 64))
    chosen = ChosenClasses((ClassDefinition("cat", ("cat",), (1, 2, 3)),), (True,))
    with pytest.raises(UserError, match=words) as caught:
        segmenter(path, chosen)
    assert str(tmp_path) not in str(caught.value)
    assert not decoded  # refused by the header alone


def test_a_file_that_is_gone_is_a_sentence(segmenter, predictor, tmp_path):
    with pytest.raises(UserError, match="drop it again"):
        segmenter(tmp_path / "gone.png", read_rows(rows_of(predictor.classes)))


def test_answers_and_pictures_are_bounded(segmenter, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter_module, "PICTURE_SIDE", 20)
    chosen = read_rows(rows_of(predictor.classes))
    for shade in range(segmenter_module.KEPT_ANSWERS + 2):
        path = tmp_path / f"{shade}.png"
        Image.new("RGB", (40, 32), (40 * shade,) * 3).save(path)
        drawing = segmenter(path, chosen)
        assert drawing.overlay.shape == drawing.mask.shape == (16, 20, 3)
        assert drawing.size == (32, 40)
    assert len(segmenter._answers) == segmenter_module.KEPT_ANSWERS
