"""Bilinear resizing of class maps that are never in memory as a whole: a column of the image, strip by strip."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Limit in bytes for the resized rows that are yielded at once.
PIECE_BYTES = 2**27

Strips = Iterator[tuple[int, Tensor]]  # first row and class map (C, h, w), from the top to the bottom without gaps


class _Samples(NamedTuple):
    """The two source pixels of every new pixel along an axis, as in ``F.interpolate`` without aligned corners."""

    first: Tensor
    second: Tensor
    share: Tensor  # of the second, 0…1


def _samples(length: int, out_length: int) -> _Samples:
    place = (torch.arange(out_length, dtype=torch.float32) + 0.5) * (length / out_length) - 0.5
    place = place.clamp(min=0)
    first = place.long().clamp(max=length - 1)
    return _Samples(first, (first + 1).clamp(max=length - 1), (place - first).clamp(max=1))


def source_column(
    out_columns: tuple[int, int], image_size: tuple[int, int], out_size: tuple[int, int]
) -> tuple[int, int]:
    """First and last column + 1 of the image that the columns ``out_columns`` of the resized image need."""
    if image_size == out_size:
        return out_columns
    samples = _samples(image_size[1], out_size[1])
    return int(samples.first[out_columns[0]]), int(samples.second[out_columns[1] - 1]) + 1


def resized_column(
    strips: Strips, image_size: tuple[int, int], out_size: tuple[int, int], out_columns: tuple[int, int]
) -> Strips:
    """Resize a column of an image: strips of ``source_column(out_columns, …)`` → strips of ``out_columns``.

    Memory: the last row of a strip, and a few times PIECE_BYTES (or one row, if that is more).

    Args:
        strips: of the whole height of the image.
        image_size, out_size: height and width of the image before and after resizing.
        out_columns: first and last column + 1 of the resized image.
    """
    left, _ = source_column(out_columns, image_size, out_size)
    rows = _samples(image_size[0], out_size[0])
    columns = _Samples(*(part[slice(*out_columns)] for part in _samples(image_size[1], out_size[1])))
    columns = columns._replace(first=columns.first - left, second=columns.second - left)
    done = 0  # rows that are yielded
    above = None
    for top, class_map in strips:
        channels, height, width = class_map.shape
        at_once = max(1, PIECE_BYTES // (4 * channels * max(width, len(columns.share))))
        ready = int((rows.second < top + height).sum())
        for start in range(done, ready, at_once):
            piece = slice(start, min(ready, start + at_once))
            upper = _interpolated(_take_rows(class_map, above, rows.first[piece] - top), columns)
            lower = _interpolated(_take_rows(class_map, above, rows.second[piece] - top), columns)
            share = rows.share[piece, None].to(class_map.device)
            yield start, upper.mul_(1 - share).add_(lower.mul_(share))
        done = ready
        above = class_map[:, -1:].clone()


def _interpolated(class_map: Tensor, columns: _Samples) -> Tensor:
    first, second, share = (part.to(class_map.device) for part in columns)
    return class_map[..., first].mul_(1 - share).add_(class_map[..., second].mul_(share))


def _take_rows(class_map: Tensor, above, index: Tensor) -> Tensor:
    """Rows (C, n, w) of a strip; the index −1 is the row ``above`` (C, 1, w)."""
    index = index.to(class_map.device)
    taken = class_map[:, index.clamp(min=0)]
    if above is not None:
        taken[:, index < 0] = above
    return taken
