"""YOLO segmentation: a text file per image with a line ``CLASS x y x y …`` per object, in shares of the image's size.

The export says what the class numbers mean: ``data.yaml``, or ``classes.txt`` with a name per line. Small objects lie
on top of large ones, because the format has no order. A line of four numbers is a box; its area does not count.
Described in Ultralytics' documentation, "Instance Segmentation Datasets Overview".
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiervl.config.safe_yaml import load_yaml
from hiervl.data.classes.class_lists import list_lines
from hiervl.data.folders.files import image_size, list_files
from hiervl.data.folders.formats import shapes
from hiervl.data.folders.formats.shapes import Shape
from hiervl.data.folders.formats.source import Annotation, AnnotationFiles, reading
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text

KIND = "YOLO segmentation text"
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
LEVELS = 3  # how many folders above the labels are searched for names
NO_LABELS = (*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "labels.txt")


class YoloFiles(AnnotationFiles):
    """The annotations of YOLO's text files in a folder and its subfolders."""

    kind = KIND

    def __init__(self, path, class_map, images):
        """
        Raises:
            UserError: no file says what the numbers of the classes mean.
        """
        super().__init__(path, class_map, images)
        self.names_file = find_names_file(path)
        if self.names_file is None:
            raise UserError(
                f"{path} holds {KIND}, but no data.yaml or classes.txt in it or above it says which class each number "
                "is: copy the one of the export there."
            )
        self.names = read_names(self.names_file)
        for name in list_files(path, (".txt",)):
            file = Path(name)
            if file.name.lower() not in NO_LABELS:
                stem = file.relative_to(path).with_suffix("").as_posix()
                self.add_file(self.image_names.find(stem) or stem, file)

    def stamp(self, key: str) -> tuple:
        return *super().stamp(key), sorted(self.names.items())

    def files(self) -> set[Path]:
        return {*super().files(), *([self.names_file] if self.names_file else [])}

    def annotation(self, key: str) -> Annotation:
        lines = read_text(self.keys[key]).splitlines()
        size = image_size(self.images[key])
        found = [self._shape(line.split(), size) for line in lines if line.strip()]
        found.sort(key=lambda pair: -pair[0])
        return Annotation([shape for _, shape in found])

    def _shape(self, words: Sequence[str], size: tuple[int, int]) -> tuple[float, Shape]:
        """The object and its area in pixels."""
        number, values = int(float(words[0])), np.array(words[1:], dtype=np.float64)
        name = self.names.get(number, f"number {number}")
        if len(values) == 4:
            x, y, width, height = values * (size[1], size[0], size[1], size[0])
            left, top = x - width / 2, y - height / 2
            return width * height, shapes.box(name, left, top, left + width, top + height, problem=shapes.ONLY_BOXES)
        if len(values) % 2:
            raise ValueError(f"a line of {len(values)} coordinates")
        points = values.reshape(-1, 2) * (size[1], size[0])
        return _area(points), shapes.polygon(name, points)


def find_names_file(folder: Path) -> Path | None:
    """The nearest file with class names, in or above the folder of the labels."""
    folder = folder.resolve()
    for place in (folder, *folder.parents[:LEVELS]):
        for name in NAME_FILES:
            if (place / name).is_file():
                return place / name
    return None


def read_names(path: Path) -> dict[int, str]:
    """Name of every class number.

    Raises:
        UserError: the file cannot be read or holds no names.
    """
    with reading(str(path), "a list of classes"):
        text = read_text(path)
        if path.suffix.lower() in (".yaml", ".yml"):
            names = load_yaml(text, str(path))["names"]
            pairs = names.items() if isinstance(names, dict) else enumerate(names)
            return {int(number): str(name) for number, name in pairs}
        return dict(enumerate(list_lines(text)))


def _area(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
