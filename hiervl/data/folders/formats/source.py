"""The contract of mask sources, and the common base of annotation readers, which draws shapes as label maps."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from hiervl.data.classes.class_maps import IGNORED, ClassMap
from hiervl.data.folders.files import image_frame
from hiervl.data.folders.formats.image_names import ImageNames
from hiervl.data.folders.formats.shapes import NO_AREA, Shape
from hiervl.data.folders.masks import LABEL, RawMask, describe_names
from hiervl.data.loading.readers import MAX_PIXELS, Frame
from hiervl.data.loading.turns import UPRIGHT, Size, turned_size
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text

logger = logging.getLogger(__name__)

NO_OBJECTS = "images are listed without any object"
EXCHANGED = "annotations exchange width and height, as their coordinates show, and are read so"
BEYOND = "objects reach beyond their image, whose size the annotations do not give"
FAR_BEYOND = 1.05  # of an image's height or width: no rounding, and no outline drawn a little over the border
DRAWING = 7  # raise it if shapes are drawn or matched differently, so that masks are converted again
MAX_ANNOTATION_BYTES = 2 << 30


class MaskSource(Protocol):
    """Masks of many images, in any form."""

    has_instances: bool

    @property
    def keys(self) -> Mapping[str, Any]:
        """Relative path of the image without suffix → the source's key for its mask."""

    def name(self, key: str) -> str:
        """The mask's name in messages."""

    def stamp(self, key: str) -> tuple:
        """Changes when the mask or its meaning changes."""

    def frame(self, key: str, image: Frame) -> Frame | None:
        """Size of the stored pixels and the orientation that their file carries, for an image of that frame; None:
        nothing says how they lie, or nobody needs it, since the image is stored upright."""

    def as_it_is(self, key: str) -> bool:
        """Whether ``name`` is a file that training can read as a label map."""

    def raw(self, key: str) -> RawMask:
        """The unchecked content of the mask."""

    def labels(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Label map (H, W) uint8, 255 where pixels do not count, and instance numbers (H, W), 0 outside, or None."""


class Annotation(NamedTuple):
    """The annotation of one image.

    Attributes:
        shapes: the objects; later ones lie on top.
        size: height and width of the image, where the file gives them; they tell whether the photograph was upright or
            as the camera stored it when it was annotated.
        remarks: problems of objects that cannot become shapes, as :attr:`Shape.problem`, each with a count.
    """

    shapes: Sequence[Shape]
    size: tuple[int, int] | None = None
    remarks: Mapping[str, int] = {}


class AnnotationSource:
    """Base of the sources that draw shapes. A subclass sets ``keys`` and gives the :class:`Annotation` of each.

    Pixels without a shape are background, if there is such a class; else they do not count.

    Attributes:
        kind: name of the format.
        keys: stem of the image → the annotation file, or the key of an entry in it.
        notes: sentences about problems of the file as a whole that do not stop training.
        empty_is_meant: images without objects are background by the user's own word, so that nothing is said of them.
    """

    kind = ""
    has_instances = True
    empty_is_meant = False

    def __init__(self, path: Path, class_map: ClassMap, images: Mapping[str, Path]):
        """
        Args:
            path: the annotation file, or the folder of the annotation files.
            images: the image files by their relative paths without suffix.
        """
        self.path, self.class_map, self.images = path, class_map, images
        self.image_names = ImageNames(images)
        self.keys: dict[str, Any] = {}
        self.notes: list[str] = []
        self._warned: set[str] = set()

    def add_images(self, images: Mapping[str, Path]) -> None:
        """Add images by the keys of their annotations, where these differ from the images' own names."""
        self.images = {**images, **self.images}

    # ---- a subclass's part --------------------------------------------------------------------------------------

    def annotation(self, key: str) -> Annotation:
        """
        Raises:
            UserError: the file or the entry cannot be read.
        """
        raise NotImplementedError

    def file(self, key: str) -> Path:
        """The file with the annotation."""
        return self.path

    def files(self) -> set[Path]:
        """All files that are read."""
        return {self.path, *map(self.file, self.keys)}

    def label_of(self, name: str) -> int | None:
        """The label of a name in the file; None: it is not a class."""
        return self.class_map.names.get(name)

    # ---- the contract -------------------------------------------------------------------------------------------

    def name(self, key: str) -> str:
        file = self.file(key)
        return str(file) if file != self.path else f"{file} (image {key})"

    def stamp(self, key: str) -> tuple:
        status = [
            (path.stat().st_mtime_ns, path.stat().st_size) for path in (self.file(key), self.images.get(key)) if path
        ]
        meaning = (sorted(self.class_map.names.items()), self.class_map.background, DRAWING, self.empty_is_meant)
        return self.kind, str(self.file(key).absolute()), key, status, meaning

    def as_it_is(self, key: str) -> bool:
        return False

    def frame(self, key: str, image: Frame) -> Frame | None:
        """By the size that the annotation gives, else by the coordinates, where they reach beyond the photograph in one
        of the two ways to see it.

        Raises:
            UserError: the annotation cannot be read.
        """
        if image.orientation in (None, UPRIGHT):
            return None
        annotation = self.read(key)
        if annotation.size is not None:
            return Frame(annotation.size, None)
        upright = turned_size(*image)
        fitting = [size for size in (upright, image.size) if _is_within(annotation.shapes, size)]
        return Frame((fitting[0][0], fitting[0][1]), None) if len(fitting) == 1 else None

    def raw(self, key: str) -> RawMask:
        """The label map at the size in the annotation, else at the image's size.

        Raises:
            UserError: the annotation, or the image if its size is needed, cannot be read.
        """
        annotation = self.read(key)
        with reading(self.name(key), self.kind):
            size = annotation.size or self._size_of_image(key)
            labels, _, unknown, left = self._paint(annotation, size, instances_too=False)
        return RawMask(LABEL, labels, unknown_names=unknown, remarks=left)

    def labels(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """
        Raises:
            UserError: the annotation cannot be read, has another size (height, width), or a label that is not a class.
        """
        annotation = self.read(key)
        if annotation.size is not None and tuple(annotation.size) != tuple(size):
            raise UserError(
                f"{self.name(key)} is for an image of {annotation.size[1]}×{annotation.size[0]} pixels, but the image "
                f"has {size[1]}×{size[0]}: export the annotations for this size."
            )
        with reading(self.name(key), self.kind):
            labels, instances, unknown, left = self._paint(annotation, size)
        if unknown:
            raise UserError(
                f"{self.name(key)} has {describe_names(unknown)}, which {self.class_map.path} does not name; "
                "the command check-data says more."
            )
        for problem in left.keys() - self._warned:
            self._warned.add(problem)
            logger.warning("%s: %d %s.", self.name(key), left[problem], problem)
        return labels, instances

    def _size_of_image(self, key: str) -> tuple[int, int]:
        """Height and width of the photograph, seen as it was when it was annotated."""
        image = image_frame(self.images[key])
        frame = self.frame(key, image)
        height, width = turned_size(*image) if frame is None else frame.size
        return height, width

    def is_empty(self, key: str) -> bool:
        """Whether the annotation has no object at all. One that cannot be read is not empty."""
        try:
            return _is_empty(self.read(key))
        except UserError:
            return False

    def read(self, key: str) -> Annotation:
        """
        Raises:
            UserError: the annotation cannot be read.
        """
        with reading(self.name(key), self.kind):
            annotation = self.annotation(key)
        return self._with_exchanged_size(key, annotation)

    def _with_exchanged_size(self, key: str, annotation: Annotation) -> Annotation:
        """Width and height exchanged, if the outlines fit the image only so. Tools take them from a photograph's file,
        whatever its EXIF rotation says."""
        size, image = annotation.size, self.images.get(key)
        if size is None or image is None or not _is_far_beyond(annotation.shapes, size):
            return annotation
        frame, other = image_frame(image), (size[1], size[0])
        if other not in (tuple(frame.size), tuple(turned_size(*frame))) or not _is_within(annotation.shapes, other):
            return annotation
        return annotation._replace(size=other, remarks={**annotation.remarks, EXCHANGED: 1})

    def _paint(self, annotation: Annotation, size: tuple[int, int], instances_too: bool = True) -> tuple:
        """→ labels (H, W) uint8, instances (H, W) int32 (or None), counts of names that are not a class, counts of
        remarks."""
        height, width = map(int, size)
        if not 0 < height * width <= MAX_PIXELS:
            raise UserError(f"{self.path} has an image of {width}×{height} pixels, which cannot be read.")
        background = self.class_map.background
        labels = np.full((height, width), IGNORED if background is None else background, dtype=np.uint8)
        instances = np.zeros((height, width), dtype=np.int32) if instances_too else None
        unknown: Counter = Counter()
        left = Counter(annotation.remarks)
        if _is_empty(annotation) and not self.empty_is_meant:
            left[NO_OBJECTS] += 1
        beyond = sum(_is_far_beyond([shape], size) for shape in annotation.shapes) if annotation.size is None else 0
        if beyond:
            left[BEYOND] = beyond
        numbers: dict[Any, int] = {}
        for number, shape in enumerate(annotation.shapes, start=1):
            label = self.label_of(shape.name)
            if label is None:
                unknown[shape.name] += 1
            if shape.problem:
                left[shape.problem] += 1
            if shape.draw is None:
                continue
            patch = shape.draw(height, width)
            if not patch.pixels.any():
                left[NO_AREA] += 1
                continue
            counts = label is not None and label != IGNORED and not shape.problem
            patch.of(labels)[patch.pixels] = label if counts else IGNORED
            if instances is None:
                continue
            if shape.group is not None:
                number = numbers.setdefault((shape.name, shape.group), number)
            is_object = counts and label != background and not shape.is_crowd
            patch.of(instances)[patch.pixels] = number if is_object else 0
        return labels, instances, dict(unknown), dict(left)


class AnnotationFiles(AnnotationSource):
    """Base of the sources with one annotation file per image. ``keys`` are the files."""

    def file(self, key: str) -> Path:
        return self.keys[key]

    def add_file(self, key: str, path: Path) -> None:
        """
        Raises:
            UserError: there are two files for one image.
        """
        if key in self.keys:
            raise UserError(f"{self.keys[key]} and {path} are both for the image {key}: keep one of them.")
        self.keys[key] = path


class AnnotationList(AnnotationSource):
    """Base of the sources with all images in one file, which is read once. ``keys`` are its entries."""

    def add_entry(self, written: str, entry: Any) -> None:
        """Add the entry of the image that the file calls ``written``.

        Raises:
            UserError: another entry is for the same image.
        """
        key = self.image_names.find(written) or self.image_names.clean(written)
        if key in self.keys:
            raise UserError(
                f"{self.path} has two entries for the image {key} (the second calls it {written}): if they are images "
                "of different folders, name the folder above them as IMAGES; else give the objects of one to the other "
                "and delete it."
            )
        self.keys[key] = entry


def _is_empty(annotation: Annotation) -> bool:
    return not annotation.shapes and not annotation.remarks


def _is_within(shapes: Sequence[Shape], size: Size) -> bool:
    """Whether shapes lie in an image of that height and width, but for a pixel that tools round up."""
    reaches = [shape.reach for shape in shapes if shape.reach is not None]
    return all(bottom <= size[0] + 1 and right <= size[1] + 1 for bottom, right in reaches)


def _is_far_beyond(shapes: Sequence[Shape], size: Size) -> bool:
    reaches = [shape.reach for shape in shapes if shape.reach is not None]
    return any(bottom > FAR_BEYOND * size[0] + 1 or right > FAR_BEYOND * size[1] + 1 for bottom, right in reaches)


@contextlib.contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Errors inside become one sentence: ``name`` is not valid ``kind``.

    Raises:
        UserError: for every error of a missing or damaged file.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot be read as {kind} ({reason}): export or save it again.") from None


def load_json(path: Path) -> Any:
    """
    Raises:
        OSError, ValueError: it cannot be read or is not JSON.
    """
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise ValueError("it has more than 2 GiB")
    try:
        return json.loads(read_text(path))
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
