"""Photographs that EXIF turns, and masks in either frame: every reader aligns the two in the same way."""

import itertools
import logging

import numpy as np
import pytest
from PIL import Image, ImageOps

from hiervl.data.checking.check import check
from hiervl.data.loading.loaders import build_semi_supervised_loader
from hiervl.data.loading.mappers import LabeledMapper, TestMapper
from hiervl.data.loading.readers import is_doubtful_mask, read_image, read_label
from hiervl.data.loading.turns import fitting_orientation, turned, turned_size
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.evaluation.semantic_evaluator import SemanticEvaluator
from hiervl.utils.errors import UserError

ORIENTATIONS = range(1, 9)


def exif_of(orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_equals_pillow(tmp_path, orientation):
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif_of(orientation))
    expected = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert np.array_equal(turned(stored, orientation), expected)
    assert turned_size((2, 3), orientation) == expected.shape


@pytest.mark.parametrize(
    "stored, mask_orientation, upright, image_orientation, expected",
    [
        ((2, 3), None, (2, 3), 3, None),  # nobody can tell
        ((2, 3), None, (3, 2), 6, 6),  # as the camera stored it
        ((3, 2), None, (3, 2), 6, None),  # drawn on the upright photograph
        ((2, 3), 6, (3, 2), 6, 6),
        ((2, 3), 3, (2, 3), 3, 3),
        ((2, 3), 3, (2, 3), None, 3),
        ((3, 2), 6, (3, 2), 6, 1),  # turned already by a program that kept the tag
        ((5, 5), None, (3, 2), 6, None),  # of another size: an error of whoever compares
    ],
)
def test_own_tag_then_size_decide(stored, mask_orientation, upright, image_orientation, expected):
    assert fitting_orientation(stored, mask_orientation, upright, image_orientation) == expected


class Pair:
    """An image whose pixels are its mask's labels, so that it shows how the mask lies."""

    def __init__(self, folder, size=(24, 40)):
        rng = np.random.default_rng(0)
        self.upright = np.repeat(np.repeat(rng.integers(0, 4, (size[0] // 8, size[1] // 8)), 8, 0), 8, 1).astype(
            np.uint8
        )
        self.image, self.mask = str(folder / "a.png"), str(folder / "a_mask.png")

    def save(self, image_orientation, mask_orientation, mask_is_stored):
        back = {6: 8, 8: 6}.get(image_orientation, image_orientation)  # every other orientation undoes itself
        stored = turned(self.upright, back)
        image = np.repeat(stored[:, :, None], 3, 2) * 60
        Image.fromarray(image).save(self.image, exif=exif_of(image_orientation))
        Image.fromarray(stored if mask_is_stored else self.upright).save(self.mask, exif=exif_of(mask_orientation))
        return {"file_name": self.image, "image_id": "a", "sem_seg_file_name": self.mask}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("frame", ["upright", "stored", "stored with its tag"])
def test_every_reader_agrees(tmp_path, orientation, frame):
    if frame == "stored" and orientation in (2, 3, 4):
        pytest.skip("the size does not tell")
    pair = Pair(tmp_path)
    entry = pair.save(orientation, orientation if "tag" in frame else None, frame != "upright")
    assert np.array_equal(read_image(pair.image)[:, :, 0] // 60, pair.upright)
    label = read_label(pair.mask, 4, 255, pair.upright.shape, pair.image)
    assert np.array_equal(label, pair.upright) and label.flags["C_CONTIGUOUS"]
    mapper = LabeledMapper(40, 0, (1.0, 1.0), 0.5, 4)
    sample = mapper(entry, np.random.default_rng(0))
    inside = sample["sem_seg"] != 255
    assert (sample["image"][0][inside] // 60 == sample["sem_seg"][inside]).all() and inside.sum() == label.size
    evaluator = SemanticEvaluator(list("abcd"), distributed=False)
    evaluator.process([TestMapper()(entry)], [{"labels": pair.upright.astype(np.int64)}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 100


def test_a_mask_of_another_size_is_still_refused(tmp_path):
    pair = Pair(tmp_path)
    pair.save(6, None, True)
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(pair.mask)
    with pytest.raises(UserError, match="is 9×7 pixels, but its image is 40×24"):
        read_label(pair.mask, 4, 255, (24, 40), pair.image)


@pytest.mark.parametrize(
    "size, image_orientation, mask_orientation, expected",
    [
        ((24, 40), 3, None, True), ((24, 40), 2, None, True), ((40, 40), 6, None, True), ((24, 40), 6, None, False),
        ((24, 40), 3, 3, False), ((24, 40), 3, 1, False), ((24, 40), 1, None, False), ((24, 40), None, None, False),
    ],
)  # fmt: skip
def test_a_turn_that_the_size_does_not_show_is_doubtful(tmp_path, size, image_orientation, mask_orientation, expected):
    pair = Pair(tmp_path, size)
    pair.save(image_orientation, mask_orientation, False)
    assert is_doubtful_mask(pair.image, pair.mask) == expected


def colors(labels):
    return np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], dtype=np.uint8)[labels]


@pytest.mark.parametrize("orientation, size", [(3, (64, 64)), (6, (32, 64))])
@pytest.mark.parametrize("kind", ["index", "colour"])
@pytest.mark.parametrize("tagged", [False, True])
def test_own_folders(own, caplog, orientation, size, kind, tagged):
    """Masks as they are and converted ones lie on their images; what stays in doubt is said when training starts."""
    stored = own.labels(size=size)
    image = own.root / "labelled/images/00.png"
    own.image("labelled/images/00.png", size)
    Image.open(image).save(image, exif=exif_of(orientation))
    for path in sorted((own.root / "labelled/masks").iterdir()):
        labels = stored if path.stem == "00" else np.array(Image.open(path))
        pixels = colors(labels) if kind == "colour" else labels
        Image.fromarray(pixels).save(path, exif=exif_of(orientation if tagged and path.stem == "00" else None))
    layout = own.layout()
    sample = layout.labeled.samples["00"]
    doubtful = orientation == 3 and not tagged
    expected = stored if doubtful else turned(stored, orientation)
    assert np.array_equal(layout.label(sample, expected.shape), expected)
    report = check(layout)
    assert report.is_sound and (str(image) in report.doubtful) == doubtful
    options = ["DATALOADER.NUM_WORKERS", "0", "DATASET.VAL", "0", "SEMI.ENABLED", "False", "SOLVER.PRESET", "none"]
    cfg = prepare_config(load_config(own.config(), [*options, "OUTPUT_DIR", str(own.root / "run")]))
    with caplog.at_level(logging.WARNING):
        batches = build_semi_supervised_loader(cfg)
    assert ("1 masks say nothing of the turn" in caplog.text) == doubtful
    assert len(list(itertools.islice(batches, 1))) == 1
