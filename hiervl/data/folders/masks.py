"""Read mask files as label maps: index and palette files, RGB files.

:class:`MaskFolder` has the interface of all mask sources (``formats/source.py``): ``keys`` (for matching with images),
``raw`` (the unchecked content of a mask) and ``labels`` (its classes).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from hiervl.data.classes.class_maps import IGNORED, ClassMap, Color
from hiervl.data.folders.files import MASK_SUFFIXES, find_files
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES, read_array, whole_numbers
from hiervl.data.folders.formats.class_layers import (
    IN_ORDER,
    MAPS,
    OVERLAPS,
    UNCOVERED,
    paint_layers,
    unstack_layers,
    unstack_numbers,
)
from hiervl.data.loading import readers
from hiervl.data.loading.turns import UPRIGHT
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

INDEX, COLOR, LABEL, AUTO = "index", "color", "label", "auto"
FORMS = (AUTO, INDEX, COLOR)
BYTE_MODES = ("1", "L", "P")
MAX_LISTED = 5
RIMS = "masks have rims of another class, as if they had been resized smoothly: resize them by nearest neighbour"
# Pixels of a mask, and beside them places where numbers meet without a rim. Masks of CamVid and cwfid have at most 0.08
# as many rims as other places, resized smoothly at least 1.2.
FEW_RIMS, MOSTLY_RIMS = 20, 0.5
MANY_LINES = 256  # rows and columns that are looked at
NEAR, MOSTLY_NEAR = 40, 0.9  # values of blurred masks beside 0 and 255, and their share of all pixels


@dataclass(frozen=True)
class RawMask:
    """The content of a mask.

    Attributes:
        form: "index", "color", or "label" if the codes are already class labels.
        codes: (H, W) the value of every pixel; a colour is red · 65536 + green · 256 + blue.
        palette: colour of every index, if the file has a palette.
        unknown_names: label names in an annotation file that are not a class, each with its number of objects.
        remarks: problems of objects, in the plural ("lines have no area"), each with its number of objects.
    """

    form: str
    codes: np.ndarray
    palette: dict[int, Color] | None = None
    unknown_names: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    def counts(self) -> dict[int, int]:
        """Pixels of each code."""
        flat = self.codes.ravel()
        # Masks consist of long runs; sorting the runs is much faster than sorting all pixels.
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])[: flat.size]
        lengths = np.diff(np.append(starts, flat.size))
        codes, owner = np.unique(flat[starts], return_inverse=True)
        return dict(zip(codes.tolist(), np.bincount(owner, lengths, len(codes)).astype(np.int64).tolist()))


def has_rims(codes: np.ndarray) -> bool:
    """Whether numbers (H, W) seem to be resized smoothly: at many places where numbers meet, the pixel between them has
    a number between theirs, which is another class."""
    rims = clean = 0
    for lines in (codes, codes.T):
        some = lines[:: max(1, len(lines) // MANY_LINES)]
        step = np.diff(some.astype(np.int32), axis=1)
        between = np.sign(step[:, :-1]) * np.sign(step[:, 1:]) > 0
        near = np.zeros(step.shape, dtype=bool)
        near[:, :-1] |= between
        near[:, 1:] |= between
        rims += int(between.sum())
        clean += int(((np.abs(step) > 1) & ~near).sum())
    return rims >= FEW_RIMS and rims > MOSTLY_RIMS * clean


def encode_color(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def decode_color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


class MaskFolder:
    """One mask file per image, in a folder and its subfolders."""

    has_instances = False

    def __init__(self, folder: Path, class_map: ClassMap, form: str = AUTO, variable: str = ""):
        """
        Args:
            form: "index": a pixel's number counts (also in palette files); "color": its colour; "auto": by the file.
            variable: name of the map in a NumPy or MATLAB file with several.
        """
        self.folder, self.class_map, self.form, self.variable = folder, class_map, form, variable
        self.keys = find_files(folder, MASK_SUFFIXES)

    def name(self, key: str) -> str:
        return str(self.keys[key])

    def stamp(self, key: str) -> tuple:
        """Changes when the mask or the meaning of its values changes."""
        status = self.keys[key].stat()
        meaning: tuple = (
            self.form,
            self.variable,
            sorted(self.class_map.values.items()),
            sorted(self.class_map.colors.items()),
        )
        if self.keys[key].suffix.lower() in ARRAY_SUFFIXES:  # which may have a map per class
            meaning = (*meaning, list(self.class_map.names.items()), self.class_map.background)
        return str(self.keys[key].absolute()), status.st_mtime_ns, status.st_size, meaning

    def frame(self, key: str, image: readers.Frame) -> readers.Frame | None:
        """
        Raises:
            UserError: an array cannot be read.
        """
        if self.keys[key].suffix.lower() not in ARRAY_SUFFIXES:
            return readers.frame_or_none(self.keys[key])
        if image.orientation in (None, UPRIGHT):
            return None
        height, width = self.raw(key).codes.shape
        return readers.Frame((height, width), None)

    def as_it_is(self, key: str) -> bool:
        """Whether the file itself is a label map that training can read."""
        if self.form == COLOR or not self.class_map.is_identity:
            return False
        try:
            with readers.image_header(self.keys[key]) as image:
                return image.mode in readers.INDEX_MODES
        except UserError:
            return False  # reading it reports the problem

    def is_rgb(self, key: str) -> bool:
        """Whether the file has colours, even if all of them are grey."""
        if self.keys[key].suffix.lower() in ARRAY_SUFFIXES:
            return False
        with readers.image_header(self.keys[key]) as image:
            return image.mode not in (*readers.INDEX_MODES, "F")

    def raw(self, key: str) -> RawMask:
        """
        Raises:
            UserError: the file is broken or not a mask.
        """
        path = self.keys[key]
        if path.suffix.lower() in ARRAY_SUFFIXES:
            return self._raw_array(path)
        image = readers.open_mask(str(path))
        if image.mode == "F":
            return RawMask(INDEX, whole_numbers(np.array(image), str(path)))
        palette = _palette(image) if image.mode == "P" else None
        if image.mode in readers.INDEX_MODES and not (self.form == COLOR and palette):
            return RawMask(INDEX, np.array(image, dtype=np.uint8 if image.mode in BYTE_MODES else np.int32), palette)
        if image.mode in ("LAB", "HSV"):
            raise UserError(f"{path} holds {image.mode} pixels: save it with a class index or an RGB colour per pixel.")
        rgb = np.array(image.convert("RGB")).astype(np.int32)
        is_gray = (rgb == rgb[:, :, :1]).all()
        if self.form == INDEX and not is_gray:
            raise UserError(f"{path} holds colours, but DATASET.MASK_VALUES is 'index': set it to 'color' or 'auto'.")
        if is_gray and (self.form == INDEX or not self.class_map.colors):
            return RawMask(INDEX, rgb[:, :, 0])  # indices that were saved as grey colours
        return RawMask(COLOR, rgb[:, :, 0] << 16 | rgb[:, :, 1] << 8 | rgb[:, :, 2])

    def _raw_array(self, path: Path) -> RawMask:
        values = read_array(path, self.variable)
        if values.ndim == 2:
            return RawMask(INDEX, values)
        if not self.class_map.names:
            numbers, bare = unstack_numbers(values)
            return RawMask(INDEX, numbers, remarks={MAPS: min(values.shape[0], values.shape[2]), UNCOVERED: bare})
        labels, overlapping = paint_layers(unstack_layers(values, self.class_map, str(path)), self.class_map)
        return RawMask(LABEL, labels, remarks={IN_ORDER: 1, **({OVERLAPS: overlapping} if overlapping else {})})

    def labels(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Label map (H, W) uint8, 255 where pixels do not count; no instances.

        Raises:
            UserError: the mask is broken, has another size (height, width) than ``size``, or holds a value that is not
                a class.
        """
        raw = self.raw(key)
        if raw.codes.shape != tuple(size):
            raise UserError(
                f"{self.name(key)} is {raw.codes.shape[1]}×{raw.codes.shape[0]} pixels, but its image is "
                f"{size[1]}×{size[0]}: the two must have the same size."
            )
        meaning = label_of_code(raw, self.class_map)
        codes = list(raw.counts())
        unknown = [code for code in codes if code not in meaning]
        if unknown:
            raise UserError(
                f"{self.name(key)} holds {describe_codes(raw.form, unknown)}, which {self.class_map.path} does not "
                "name; the command check-data says more."
            )
        table = np.zeros(max(codes) + 1, dtype=np.uint8)
        table[codes] = [meaning[code] for code in codes]
        return table[raw.codes], None


class HasForm(Protocol):
    """A mask, or the facts about one."""

    @property
    def form(self) -> str:
        """As in :class:`RawMask`."""


def label_of_code(raw: HasForm, class_map: ClassMap) -> dict[int, int]:
    """Label of every value or colour in the class file, in the form of ``raw``."""
    return label_of_form(raw.form, class_map)


def label_of_form(form: str, class_map: ClassMap) -> dict[int, int]:
    """As :func:`label_of_code`, for one of the forms "index", "color" and "label"."""
    if form == LABEL:
        return {label: label for label in [*range(len(class_map.classes)), IGNORED]}
    if form == INDEX:
        return class_map.known_values()
    return {encode_color(color): label for color, label in class_map.colors.items()}


def describe_codes(form: str, codes: list[int]) -> str:
    """For a sentence: "the values 3, 7 and 4 more" or "the colours [1, 2, 3], [4, 5, 6]"."""
    shown = [list(decode_color(code)) if form == COLOR else code for code in codes]
    noun = "colour" if form == COLOR else "value"
    return f"the {noun}{'s' if len(codes) > 1 else ''} {listed(shown, MAX_LISTED)}"


def describe_names(counts: Mapping[str, int]) -> str:
    """For a sentence: "the labels 'cup' (12), 'mug' (3), …", the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"'{name}' ({count})" for name, count in ordered[:MAX_LISTED])
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return f"the label{'s' if len(ordered) > 1 else ''} {shown}{more}"


def _palette(image: Image.Image) -> dict[int, Color]:
    flat = image.getpalette("RGB") or []
    return {index: (flat[3 * index], flat[3 * index + 1], flat[3 * index + 2]) for index in range(len(flat) // 3)}
