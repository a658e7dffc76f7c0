"""Export: graph, file, comparison with the network, and a description beside the file."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from hiervl import __version__
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.classes.records import to_records
from hiervl.modeling.segmenter import ClipSegmenter
from hiervl.utils.errors import UserError
from hiervl.utils.files import whole_file, write_json

from .formats import FORMATS
from .graph import FixedClassSegmenter, export_graph
from .parity import Parity, check_parity, shapes_to_check

MIN_AGREEMENT = 0.999  # share of the pixels with the same label


class Exported(NamedTuple):
    """A written file and its comparison with the network."""

    path: Path
    description: Path  # JSON
    parity: list[Parity]
    metadata: dict

    def lines(self) -> list[str]:
        """The message for the user."""
        size = self.path.stat().st_size / 1e6
        side = self.metadata["smallest_side"]
        return [
            *parity_lines(self.path.name, self.parity),
            f"{self.path} ({size:.1f} MB): {len(self.metadata['classes'])} classes, any batch, any size from "
            f"{side} × {side} pixels; {self.description.name} describes it.",
        ]


def export_network(
    network: ClipSegmenter,
    classes: Sequence[ClassDefinition],
    format_name: str,
    path: Path,
    *,
    cfg,
    tolerance: float = 1e-3,
) -> Exported:
    """Write ``network`` as one file, with ``FILE.json`` beside it, and compare it with the original.

    Args:
        network: in evaluation mode, predicting ``classes``.
        format_name: one of :data:`FORMATS`.
        cfg: the run's config, for the window size of training.
        tolerance: largest difference of the scores S on random images.

    Raises:
        UserError: a package is missing, the suffix belongs to another format, the file cannot be written, the scores
            differ by more than ``tolerance``, or the labels differ at more than 0.1 % of the pixels. Then no file is
            left.
    """
    form = FORMATS[format_name]
    _check_request(format_name, path)
    segmenter = FixedClassSegmenter(network)
    metadata = describe(segmenter, classes, format_name, cfg)
    program = export_graph(segmenter)
    description = path.with_name(f"{path.name}.json")
    try:
        with whole_file(path, ending=form.suffix) as temporary:
            form.write(program, temporary, metadata)
            shapes = shapes_to_check(cfg.INPUT.CROP_SIZE, segmenter.smallest_side)
            parity = check_parity(network, form.read(temporary), shapes)
            _check(path, parity, tolerance)
            metadata["parity"] = [batch_parity._asdict() for batch_parity in parity]
            write_json(description, metadata, indent=1)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error.strerror or error}).") from error
    return Exported(path, description, parity, metadata)


def describe(segmenter: FixedClassSegmenter, classes: Sequence[ClassDefinition], format_name: str, cfg) -> dict:
    """What a program needs to know to run the file, as plain values."""
    return {
        "hiervl": __version__,
        "torch": torch.__version__,
        "format": format_name,
        "input": "images: float32 (batch, 3, height, width), RGB in 0…255; normalisation and padding are inside",
        "output": "scores: float32 (batch, classes, height, width); the class of a pixel is the largest, its "
        "confidence that score's share of their sum",
        "classes": to_records(classes),
        "crop_size": cfg.INPUT.CROP_SIZE,
        "short_side": cfg.INPUT.SHORT_SIDE,
        "overlap": cfg.TEST.OVERLAP,
        "pixel_mean": segmenter.pixel_mean.flatten().tolist(),
        "pixel_std": segmenter.pixel_std.flatten().tolist(),
        "stride": segmenter.stride,
        "smallest_side": segmenter.smallest_side,
    }


def parity_lines(name: str, parity: Sequence[Parity]) -> list[str]:
    """A line per batch."""
    lines = [f"{name} against the network, on random images:"]
    for batch_parity in parity:
        batch, height, width = batch_parity.shape
        lines.append(
            f"  {batch} × {height} × {width}: max |difference| {batch_parity.difference:.1e} (scores up to "
            f"{batch_parity.largest:.2f}), same label at {100 * batch_parity.agreement:.2f} % of the pixels"
        )
    return lines


def _check_request(format_name: str, path: Path) -> None:
    form = FORMATS[format_name]
    if path.suffix != form.suffix:
        raise UserError(f"--output '{path}': the format {format_name} is written to files ending in {form.suffix}.")
    missing = [package for package in form.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"the format {format_name} needs more packages: pip install {' '.join(missing)}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--output '{path}' cannot be written: name a file in a folder that you may write to.")


def _check(path: Path, parity: Sequence[Parity], tolerance: float) -> None:
    # NaN must not count as agreement.
    is_same = all(
        batch_parity.difference <= tolerance and batch_parity.agreement >= MIN_AGREEMENT for batch_parity in parity
    )
    if not is_same:
        details = "\n".join(parity_lines(path.name, parity))
        raise UserError(
            f"'{path}' is not written: it would differ from the network by more than {tolerance:g}, or at more than "
            f"{100 * (1 - MIN_AGREEMENT):.1f} % of the pixels.\n{details}"
        )
