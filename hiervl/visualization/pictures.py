"""Pictures of segmentations: label maps in colour, overlays, and sheets that compare models side by side."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.evaluation import inference_context
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from hiervl.data.classes.definitions import distinct_colors
from hiervl.data.loading.readers import read_label
from hiervl.utils.files import write_png

DEFAULT_IGNORE_LABEL = 255
IGNORED_COLOR = (225, 225, 225)  # colour of labels that are not a class
IGNORED_NAME = "ignored"

# All of the following are in pixels.
PANEL_MIN = 200  # smaller pictures are enlarged by a whole factor to at least this longer side
PANEL_MAX = 480  # larger ones are reduced to this longer side
CAPTION_ROOM = 120  # least width of a panel with its caption
SHEET_MIN = 480  # least width of a sheet, for the legend
MARGIN = 20
GAP = 10
TITLE_SIZE = 18
TEXT_SIZE = 15
SWATCH = 16
LINE_HEIGHT = 24
LEGEND_WIDTH = 640  # overlays that are twice as wide have a legend twice as large, and so on

PAPER = (255, 255, 255)
INK = (30, 30, 30)
PALE_INK = (95, 95, 95)
FRAME = (150, 150, 150)

Colors = Sequence[Sequence[int]]
Panel = tuple[str, np.ndarray]
Row = tuple[str, list[Panel]]


def colorize(labels: np.ndarray, colors: Colors) -> np.ndarray:
    """RGB picture (H, W, 3), uint8, of integer labels (H, W). Labels without a class get ``IGNORED_COLOR``."""
    labels = np.asarray(labels)
    palette = np.array([*colors, IGNORED_COLOR], dtype=np.uint8)
    return palette[np.where(_is_class(labels, colors), labels, len(colors))]


def overlay(image: np.ndarray, labels: np.ndarray, colors: Colors, alpha: float = 0.5) -> np.ndarray:
    """``image`` (H, W, 3), uint8 RGB, tinted with the colours of ``labels`` (H, W).

    ``alpha`` is the share of the colour, 0…1. Pixels without a class keep the image.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image of size {image.shape[:2]}, labels of size {labels.shape}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0…1, got {alpha}")
    tinted = cv2.addWeighted(np.ascontiguousarray(image), 1 - alpha, colorize(labels, colors), alpha, 0)
    return np.where(_is_class(labels, colors)[..., None], tinted, image)


def overlay_with_legend(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    colors: Colors,
    shown: Sequence[int] | None = None,
) -> np.ndarray:
    """:func:`overlay` above a legend of the classes ``shown`` (None: those that occur): RGB (H', W', 3), uint8."""
    if shown is None:
        shown = [label for label in np.unique(labels).tolist() if 0 <= label < len(colors)]
    entries = [(class_names[label], tuple(int(part) for part in colors[label])) for label in shown]
    tinted = overlay(image, labels, colors)
    factor = max(1, tinted.shape[1] // LEGEND_WIDTH)  # in large pictures the legend is larger, too
    legend = _draw_legend(entries, tinted.shape[1] // factor)
    if legend is None:
        return tinted
    legend = np.repeat(np.repeat(np.concatenate([_blank(GAP, legend.shape[1]), legend]), factor, 0), factor, 1)
    width = max(tinted.shape[1], legend.shape[1])
    return np.concatenate([_widen(tinted, width), _widen(legend, width)])


def comparison_sheet(rows: Sequence[Row], class_names: Sequence[str], colors: Colors, path: str) -> None:
    """Draw rows of pictures with titles, captions and a legend of the classes that occur, as a PNG file.

    Args:
        rows: ``(title, [(caption, picture), …])``; a picture is an RGB image (H, W, 3) uint8 or a label map
            (H, W) of integers. All pictures of a row are drawn in the size of its first.
        class_names, colors: name and RGB colour of each label.
        path: the file, which is written completely or not at all. Its folder is created.
    """
    if not rows:
        raise ValueError("a comparison sheet needs at least one row")
    strips = [_draw_row(title, panels, colors) for title, panels in rows]
    width = max(SHEET_MIN, *(strip.shape[1] for strip in strips))
    legend = _draw_legend(_legend_entries(rows, class_names, colors), width)
    if legend is not None:
        strips.append(legend)
        width = max(width, legend.shape[1])  # of a single long class name
    strips = [_widen(strip, width) for strip in strips]
    spacer = _blank(MARGIN, width)
    sheet = np.concatenate([part for strip in strips for part in (strip, spacer)][:-1])
    sheet = cv2.copyMakeBorder(sheet, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=PAPER)
    write_png(path, Image.fromarray(sheet))


@torch.no_grad()
def draw_comparisons(
    models: Callable | Mapping[str, Callable],
    data_loader: Iterable[list[dict]],
    metadata: Any,
    path: str,
    count: int,
) -> None:
    """Draw the first ``count`` images as image | truth | prediction of each model; ``count`` 0 draws nothing.

    Args:
        models: a model in Detectron2's sense, from a list of dicts to a list of dicts with "labels"
            (height, width), such as ``hiervl.evaluation.SlidingWindowSegmenter``; or several by name.
            Modules are in evaluation mode during this.
        data_loader: yields the lists of dicts, with "image" (3, H, W) uint8 RGB, "file_name" and, where there
            is a truth, "sem_seg_file_name".
        metadata: ``stuff_classes``, optionally ``stuff_colors`` and ``ignore_label``, as in Detectron2.
        path: the PNG file. With several processes, call this in one of them only.
    """
    if not isinstance(models, Mapping):
        models = {"prediction": models}
    class_names = list(metadata.stuff_classes)
    colors = getattr(metadata, "stuff_colors", None)
    if colors is None:
        colors = distinct_colors(len(class_names))
    ignore_label = getattr(metadata, "ignore_label", DEFAULT_IGNORE_LABEL)

    rows = []
    with ExitStack() as stack:
        for model in models.values():
            if isinstance(model, nn.Module):
                stack.enter_context(inference_context(model))
        for inputs in islice(_single_images(data_loader), count):
            predictions = {name: _predict(model, inputs) for name, model in models.items()}
            rows.append(_comparison_row(inputs, predictions, len(class_names), ignore_label))
    if rows:
        comparison_sheet(rows, class_names, colors, path)


def _single_images(data_loader: Iterable[list[dict]]) -> Iterator[dict]:
    for batch in data_loader:
        yield from batch


def _predict(model: Callable, inputs: dict) -> np.ndarray:
    """Label map (H, W)."""
    return model([inputs])[0]["labels"]


def _comparison_row(inputs: dict, predictions: dict[str, np.ndarray], num_classes: int, ignore_label: int) -> Row:
    panels = [("image", inputs["image"].permute(1, 2, 0).cpu().numpy())]
    if "sem_seg_file_name" in inputs:
        size = next(iter(predictions.values())).shape
        truth = read_label(inputs["sem_seg_file_name"], num_classes, ignore_label, size, inputs["file_name"])
        panels.append(("truth", truth))
    panels.extend(predictions.items())
    return Path(inputs["file_name"]).stem, panels


def _is_class(labels: np.ndarray, colors: Colors) -> np.ndarray:
    return (labels >= 0) & (labels < len(colors))


def _draw_row(title: str, panels: Sequence[Panel], colors: Colors) -> np.ndarray:
    """The row's title above its panels, each with its caption."""
    if not panels:
        raise ValueError(f"row {title!r} has no pictures")
    size = _display_size(*panels[0][1].shape[:2])
    parts = []
    for caption, picture in panels:
        drawn = _widen(_frame(_draw_picture(picture, size, colors)), CAPTION_ROOM)
        parts.append(np.concatenate([_text_line(caption, drawn.shape[1], TEXT_SIZE, PALE_INK), drawn]))
    gap = _blank(parts[0].shape[0], GAP)
    pictures = np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)
    return np.concatenate([_text_line(title, pictures.shape[1], TITLE_SIZE, INK), pictures])


def _display_size(height: int, width: int) -> tuple[int, int]:
    longest = max(height, width)
    if longest > PANEL_MAX:
        return max(1, round(height * PANEL_MAX / longest)), max(1, round(width * PANEL_MAX / longest))
    factor = -(-PANEL_MIN // longest)  # rounded up; 1 from PANEL_MIN on
    return height * factor, width * factor


def _draw_picture(picture: np.ndarray, size: tuple[int, int], colors: Colors) -> np.ndarray:
    """An image or a label map in ``size``. Enlarging repeats pixels; reducing does not mix labels."""
    if picture.ndim == 2:
        picture = colorize(picture, colors)
        interpolation = cv2.INTER_NEAREST
    else:
        interpolation = cv2.INTER_AREA if picture.shape[0] > size[0] else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(picture), size[::-1], interpolation=interpolation)


def _legend_entries(rows: Sequence[Row], class_names: Sequence[str], colors: Colors) -> list[tuple[str, Sequence[int]]]:
    """Name and colour of the labels in the rows' label maps, in their order, with the ignored label last."""
    label_maps = [picture for _, panels in rows for _, picture in panels if picture.ndim == 2]
    labels = sorted({int(label) for label_map in label_maps for label in np.unique(label_map)})
    known = [label for label in labels if 0 <= label < len(colors)]
    entries: list[tuple[str, Sequence[int]]] = [
        (class_names[label], tuple(int(part) for part in colors[label])) for label in known
    ]
    return entries + ([(IGNORED_NAME, IGNORED_COLOR)] if len(known) < len(labels) else [])


def _draw_legend(entries: Sequence[tuple[str, Sequence[int]]], width: int) -> np.ndarray | None:
    """Swatches with names in columns of equal width; None without entries."""
    if not entries:
        return None
    font = ImageFont.load_default(TEXT_SIZE)
    widest = SWATCH + GAP + int(max(font.getlength(name) for name, _ in entries)) + 2 * GAP
    columns = min(len(entries), max(1, width // widest))
    lines = -(-len(entries) // columns)
    canvas = Image.fromarray(_blank(lines * LINE_HEIGHT, max(width, widest)))
    draw = ImageDraw.Draw(canvas)
    for index, (name, color) in enumerate(entries):
        left, middle = index % columns * widest, index // columns * LINE_HEIGHT + LINE_HEIGHT // 2
        box = (left, middle - SWATCH // 2, left + SWATCH - 1, middle + SWATCH // 2 - 1)
        draw.rectangle(box, fill=tuple(color), outline=FRAME)
        draw.text((left + SWATCH + GAP, middle), name, font=font, fill=INK, anchor="lm")
    return np.asarray(canvas)


def _text_line(text: str, width: int, size: int, color: Sequence[int]) -> np.ndarray:
    """One line of text, shortened to ``width`` pixels."""
    font = ImageFont.load_default(size)
    canvas = Image.fromarray(_blank(LINE_HEIGHT + 4, width))
    shortened = text
    while text and font.getlength(shortened) > width:
        text = text[:-1]
        shortened = text + "…"
    ImageDraw.Draw(canvas).text((0, LINE_HEIGHT // 2), shortened, font=font, fill=tuple(color), anchor="lm")
    return np.asarray(canvas)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


def _frame(picture: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=FRAME)


def _widen(picture: np.ndarray, width: int) -> np.ndarray:
    """Add blank space on the right up to ``width``."""
    missing = max(0, width - picture.shape[1])
    return np.concatenate([picture, _blank(picture.shape[0], missing)], axis=1)
