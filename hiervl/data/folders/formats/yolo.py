"""YOLO segmentation: a text file per image with a line ``CLASS x y x y …`` per object, in shares of the image's size.

The export says what the class numbers mean: ``data.yaml``, or ``classes.txt`` with a name per line. Small objects lie
on top of large ones, because the format has no order. A line of four numbers is a box; its area does not count. Files
that some converters write have pixels instead of shares; they are read where nothing else is possible.
Described in Ultralytics' documentation, "Instance Segmentation Datasets Overview".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiervl.config.safe_yaml import load_yaml
from hiervl.data.classes.class_lists import list_lines
from hiervl.data.folders.files import image_size, list_files
from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationFiles, reading
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text
from hiervl.utils.text import listed

KIND = "YOLO segmentation text"
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
LARGEST_SHARE = 1.5  # what is beyond is no share that was rounded or drawn over the border
IN_PIXELS = "files have coordinates in pixels instead of shares of the size, and are read so"
BOX = 2  # pairs of numbers in a line
MAX_NAMES = 20  # in a message
LEVELS = 3  # how many folders above the labels are searched for names
NO_LABELS = (*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "labels.txt")


class YoloFiles(AnnotationFiles):
    """The annotations of YOLO's text files in a folder and its subfolders."""

    kind = KIND

    def __init__(self, path, class_map, images):
        """
        Raises:
            UserError: no file says what the numbers of the classes mean, or two say it differently.
        """
        super().__init__(path, class_map, images)
        self.names_file = find_names_file(path)
        if self.names_file is None:
            raise UserError(
                f"{path} holds {KIND}, but no data.yaml or classes.txt in it or above it says which class each number "
                "is: copy the one of the export there."
            )
        self.names = read_names(self.names_file)
        _refuse_other_order(self.names, self.names_file, path)
        for name in list_files(path, (".txt",)):
            file = Path(name)
            if file.name.lower() not in NO_LABELS:
                stem = file.relative_to(path).with_suffix("").as_posix()
                self.add_file(self.image_names.find_for_file(stem) or stem, file)

    def stamp(self, key: str) -> tuple:
        return *super().stamp(key), sorted(self.names.items())

    def files(self) -> set[Path]:
        return {*super().files(), *([self.names_file] if self.names_file else [])}

    def annotation(self, key: str) -> Annotation:
        lines = enumerate(read_text(self.keys[key]).splitlines(), start=1)
        objects = [_read_line(number, line.split()) for number, line in lines if line.strip()]
        self._refuse_unknown(objects, self.keys[key])
        size = image_size(self.images[key])
        in_pixels = are_pixels(objects, size)
        scale = (1, 1) if in_pixels else (size[1], size[0])
        found = [self._shape(item.label, item.pairs * scale) for item in objects]
        found.sort(key=lambda pair: -pair[0])
        return Annotation([shape for _, shape in found], remarks={IN_PIXELS: 1} if in_pixels else {})

    def _refuse_unknown(self, objects: Sequence["Line"], file: Path) -> None:
        """
        Raises:
            UserError: names the first line whose class has no name.
        """
        wrong = next((item for item in objects if item.label not in self.names), None)
        if wrong is not None:
            raise UserError(
                f"{file}: line {wrong.number} has the class {wrong.label}, but {self.names_file} names only "
                f"{_in_words(self.names)}: correct the line, or add the name to the list."
            )

    def _shape(self, number: int, pairs: np.ndarray) -> tuple[float, Shape]:
        """The object and its area in pixels."""
        name = self.names[number]
        if len(pairs) == BOX:
            (x, y), (width, height) = pairs
            left, top = x - width / 2, y - height / 2
            return width * height, shapes.box(name, left, top, left + width, top + height, problem=shapes.ONLY_BOXES)
        return _area(pairs), shapes.polygon(name, pairs)


class Line(NamedTuple):
    """A line of a file: the object's class and its points (N, 2), or the centre and size of its box (2, 2)."""

    number: int
    label: int
    pairs: np.ndarray


def _read_line(number: int, words: Sequence[str]) -> Line:
    values = np.array(words[1:], dtype=np.float64)
    if len(values) % 2:
        confidence = ", and the last may be a confidence: remove it, or save without it" if values[-1] <= 1 else ""
        raise ValueError(f"line {number} has {len(values)} numbers behind the class, which are no pairs{confidence}")
    label = float(words[0])
    if not label.is_integer():
        raise ValueError(f"line {number} has the class {words[0]}, which is no whole number")
    return Line(number, int(label), values.reshape(-1, 2))


def are_pixels(objects: Sequence[Line], size: tuple[int, int]) -> bool:
    """Whether the coordinates of a file are pixels: most of them are too large for shares, and all lie in the image.

    Args:
        size: height and width of the image.

    Raises:
        ValueError: they are neither shares nor pixels; names the line.
    """
    large = next((item for item in objects if item.pairs.max(initial=0) > LARGEST_SHARE), None)
    if large is None:
        return False
    pairs = np.concatenate([item.pairs for item in objects])
    is_within = (pairs >= 0).all() and (pairs <= (size[1], size[0])).all()
    if is_within and (np.median(pairs, axis=0) > LARGEST_SHARE).all():
        return True
    raise ValueError(
        f"line {large.number} has the coordinate {large.pairs.max():g}, which is no share of the image's size, and the "
        f"lines together are not pixels of its {size[1]}×{size[0]}"
    )


def find_names_file(folder: Path) -> Path | None:
    """The nearest file with class names, in or above the folder of the labels."""
    return next(_names_files(folder), None)


def _names_files(folder: Path) -> Iterator[Path]:
    """All files with class names, in or above the folder of the labels, the nearest first."""
    folder = folder.resolve()
    for place in (folder, *folder.parents[:LEVELS]):
        yield from (place / name for name in NAME_FILES if (place / name).is_file())


def _refuse_other_order(names: dict[int, str], file: Path, folder: Path) -> None:
    """Refuse lists that give the numbers other names. A list in a folder above may be of another dataset, if it has
    none of the names.

    Raises:
        UserError: names both files and both orders.
    """
    for other in _names_files(folder):
        if other == file:
            continue
        try:
            others = read_names(other)
        except UserError:  # a data.yaml without names
            continue
        is_related = other.parent == file.parent or not set(names.values()).isdisjoint(others.values())
        if is_related and any(others.get(number, name) != name for number, name in names.items()):
            raise UserError(
                f"{file} numbers the classes {_in_words(names)}, but {other} numbers them {_in_words(others)}: correct "
                "or delete the one that the labels do not follow."
            )


def _in_words(names: dict[int, str]) -> str:
    return listed([f"{number} {names[number]}" for number in sorted(names)], MAX_NAMES)


def read_names(path: Path) -> dict[int, str]:
    """Name of every class number.

    Raises:
        UserError: the file cannot be read or holds no names.
    """
    with reading(str(path), "a list of classes"):
        text = read_text(path)
        if path.suffix.lower() in (".yaml", ".yml"):
            content = load_yaml(text, str(path))
            names = content["names"]
            pairs = list(names.items() if isinstance(names, dict) else enumerate(names))
            if "nc" in content and int(content["nc"]) != len(pairs):
                raise ValueError(f"`nc` says {content['nc']} classes, and `names` has {len(pairs)}")
            empty = [number for number, name in pairs if name is None or not str(name).strip()]
            if empty:
                raise ValueError(f"class {empty[0]} has no name")
            return {int(number): str(name) for number, name in pairs}
        return dict(enumerate(list_lines(text)))


def _area(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
