import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hiervl.data.classes.definitions import distinct_color
from hiervl.visualization import pictures
from hiervl.visualization.pictures import colorize, comparison_sheet, draw_comparisons, overlay

COLORS = [(10, 20, 30), (200, 0, 0), (0, 200, 0)]
NAMES = ["background", "cat", "dog"]


def shows(sheet, color):
    return bool((sheet == np.array(color)).all(axis=-1).any())


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_colorize_by_hand():
    colored = colorize(np.array([[0, 1], [2, 255]], dtype=np.uint8), COLORS)
    assert colored.dtype == np.uint8
    assert colored.tolist() == [[[10, 20, 30], [200, 0, 0]], [[0, 200, 0], list(pictures.IGNORED_COLOR)]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_colorize_takes_any_integers(dtype):
    assert colorize(np.array([[2]], dtype=dtype), np.array(COLORS)).tolist() == [[[0, 200, 0]]]


def test_labels_that_are_no_class_are_ignored_not_wrapped():
    ignored = list(pictures.IGNORED_COLOR)
    assert colorize(np.array([[-1, 3]]), COLORS).tolist() == [[ignored, ignored]]


def test_overlay_by_hand():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    tinted = overlay(image, np.array([[1, 2, 255]]), COLORS, alpha=0.25)
    assert tinted.dtype == np.uint8
    # 0.75 * 100 + 0.25 * 200 = 125, 0.75 * 100 = 75; the ignored pixel keeps the image.
    assert tinted.tolist() == [[[125, 75, 75], [75, 125, 75], [100, 100, 100]]]


def test_overlay_extremes_and_errors():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    labels = np.array([[0, 1], [2, 0]])
    assert (overlay(image, labels, COLORS, 0) == image).all()
    assert (overlay(image, labels, COLORS, 1) == colorize(labels, COLORS)).all()
    with pytest.raises(ValueError, match="size"):
        overlay(image, labels[:1], COLORS)
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, labels, COLORS, 1.5)


@pytest.mark.parametrize(
    "size, expected",
    [
        ((64, 64), (256, 256)),  # the first whole factor that reaches 200
        ((96, 96), (288, 288)),
        ((200, 10), (200, 10)),
        ((375, 480), (375, 480)),
        ((1024, 2048), (240, 480)),
        ((1, 10000), (1, 480)),
    ],
)
def test_display_size(size, expected):
    assert pictures._display_size(*size) == expected


def test_sheet_enlarges_tiny_pictures_by_repeating_pixels(tmp_path):
    labels = np.zeros((64, 64), dtype=np.int64)
    labels[:32] = 1
    path = tmp_path / "deep" / "sheet.png"
    comparison_sheet([("one", [("labels", labels)])], NAMES, COLORS, str(path))
    sheet = read(path)
    rows, columns = np.nonzero((sheet[:, : pictures.MARGIN + 300] == COLORS[1]).all(axis=-1))
    panel = rows < rows.min() + 128  # the rest is the legend's swatch
    assert panel.sum() == 128 * 256
    assert columns[panel].max() - columns[panel].min() == 255
    assert os.listdir(path.parent) == ["sheet.png"]


def test_legend_lists_what_occurs(tmp_path):
    labels = np.array([[0, 2], [2, 0]])
    assert pictures._legend_entries([("", [("", labels)])], NAMES, COLORS) == [
        ("background", COLORS[0]),
        ("dog", COLORS[2]),
    ]
    with_ignored = np.array([[2, 255]])
    assert pictures._legend_entries([("", [("", with_ignored)])], NAMES, COLORS) == [
        ("dog", COLORS[2]),
        (pictures.IGNORED_NAME, pictures.IGNORED_COLOR),
    ]
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    assert pictures._legend_entries([("", [("", image)])], NAMES, COLORS) == []


def test_reduced_label_maps_show_no_colors_between_classes(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (900, 1200))
    drawn = pictures._draw_picture(labels, pictures._display_size(900, 1200), COLORS)
    assert {tuple(color) for color in drawn.reshape(-1, 3).tolist()} == set(COLORS)


@pytest.mark.parametrize("size", [(64, 64), (375, 500), (30, 1000), (1000, 30), (1, 1)])
def test_sheet_of_any_size_with_long_texts(tmp_path, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, size)
    path = str(tmp_path / "sheet.png")
    names = ["background", "cat " * 60, "dog"]
    rows = [
        ("title " * 100, [("caption " * 40, image), ("Beschriftung für ein Bild", labels)]),
        ("", [("", labels)]),
    ]
    comparison_sheet(rows, names, COLORS, path)
    assert read(path).ndim == 3


def test_pictures_of_a_row_may_differ_in_size(tmp_path):
    path = str(tmp_path / "sheet.png")
    image = np.zeros((50, 100, 3), dtype=np.uint8)
    comparison_sheet([("", [("image", image), ("truth", np.ones((100, 200), dtype=int))])], NAMES, COLORS, path)
    sheet = read(path)
    assert (sheet == 0).all(axis=-1).sum() == (sheet == COLORS[1]).all(axis=-1).sum() - 14 * 14  # the swatch


def test_sheet_needs_pictures(tmp_path):
    for rows in ([], [("title", [])]):
        with pytest.raises(ValueError):
            comparison_sheet(rows, NAMES, COLORS, str(tmp_path / "sheet.png"))
    assert os.listdir(tmp_path) == []


class Constant(nn.Module):
    """Predicts one class everywhere, and notes the mode it was called in."""

    def __init__(self, label):
        super().__init__()
        self.label = label
        self.calls = []

    def forward(self, batched_inputs):
        self.calls.append((len(batched_inputs), self.training, torch.is_grad_enabled()))
        return [{"labels": np.full((64, 64), self.label, np.uint8)} for _ in batched_inputs]


def unlabeled_batches(batches, batch_size):
    for batch in range(batches):
        yield [
            {"image": torch.full((3, 64, 64), 77, dtype=torch.uint8), "file_name": f"data/{batch}_{i}.jpg"}
            for i in range(batch_size)
        ]


METADATA = SimpleNamespace(stuff_classes=NAMES, stuff_colors=COLORS, ignore_label=255)


def test_draw_comparisons_shows_every_model(tmp_path):
    models = {"cats": Constant(1), "dogs": Constant(2)}
    path = str(tmp_path / "sheet.png")
    draw_comparisons(models, unlabeled_batches(5, 2), METADATA, path, count=3)
    sheet = read(path)
    for color in (COLORS[1], COLORS[2], (77, 77, 77)):
        assert shows(sheet, color)
    for model in models.values():
        assert model.calls == [(1, False, False)] * 3  # three images, evaluation mode, no gradients
        assert model.training  # restored


def test_draw_comparisons_takes_one_model_and_short_loaders(tmp_path):
    path = str(tmp_path / "sheet.png")
    metadata = SimpleNamespace(stuff_classes=NAMES)
    draw_comparisons(Constant(2), unlabeled_batches(2, 1), metadata, path, count=8)
    assert shows(read(path), distinct_color(2))


def test_draw_comparisons_of_nothing_draws_nothing(tmp_path):
    draw_comparisons(Constant(1), unlabeled_batches(2, 1), METADATA, str(tmp_path / "sheet.png"), count=0)
    assert os.listdir(tmp_path) == []


def test_draw_comparisons_shows_the_truth(tmp_path):
    label_path = tmp_path / "label.png"
    Image.fromarray(np.full((64, 64), 2, dtype=np.uint8)).save(label_path)
    (batch,) = unlabeled_batches(1, 1)
    batch[0]["sem_seg_file_name"] = str(label_path)
    draw_comparisons(Constant(1), [batch], METADATA, str(tmp_path / "sheet.png"), count=1)
    assert shows(read(tmp_path / "sheet.png"), COLORS[2])
