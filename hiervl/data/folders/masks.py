"""Masks in the forms users have them, read as label maps: index and palette files, RGB files, COCO JSON.

Two sources offer the same: :class:`MaskFolder` (a file per image) and :class:`CocoFile`. Each has ``keys`` (what
images are matched with), ``raw`` (what a mask holds, judged by nobody yet) and ``labels`` (what it means).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from hiervl.data.classes.class_maps import IGNORED, ClassMap, Color
from hiervl.data.folders.files import MASK_SUFFIXES, find_files
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES, read_array, whole_numbers
from hiervl.data.loading import readers
from hiervl.utils.errors import UserError

INDEX, COLOR, LABEL, AUTO = "index", "color", "label", "auto"
FORMS = (AUTO, INDEX, COLOR)
MAX_LISTED = 5


@dataclass(frozen=True)
class RawMask:
    """What a mask holds.

    Attributes:
        form: "index", "color", or "label" where the codes are class labels already.
        codes: (H, W) the value of every pixel; a colour is red · 65536 + green · 256 + blue.
        palette: colour of every index, where the file has a palette.
        unknown_names: names of labels in an annotation file that are no class, and how many objects have each.
        remarks: what is wrong with objects, in the plural ("lines have no area"), and with how many.
    """

    form: str
    codes: np.ndarray
    palette: dict[int, Color] | None = None
    unknown_names: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    def counts(self) -> dict[int, int]:
        """Pixels of each code."""
        codes, counts = np.unique(self.codes, return_counts=True)
        return dict(zip(codes.tolist(), counts.tolist()))


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
            form: "index": a pixel's number counts (of palette files too); "color": its colour; "auto": by the file.
            variable: which map of a NumPy or MATLAB file that holds several.
        """
        self.folder, self.class_map, self.form, self.variable = folder, class_map, form, variable
        self.keys = find_files(folder, MASK_SUFFIXES)

    def name(self, key: str) -> str:
        return str(self.keys[key])

    def stamp(self, key: str) -> tuple:
        """Changes when the mask or what its values mean changes."""
        status = self.keys[key].stat()
        meaning = (
            self.form,
            self.variable,
            sorted(self.class_map.values.items()),
            sorted(self.class_map.colors.items()),
        )
        return str(self.keys[key].absolute()), status.st_mtime_ns, status.st_size, meaning

    def as_it_is(self, key: str) -> bool:
        """The file itself is a label map, as training reads it."""
        if self.form == COLOR or not self.class_map.is_identity:
            return False
        try:
            with readers.image_header(self.keys[key]) as image:
                return image.mode in readers.INDEX_MODES
        except UserError:
            return False  # whoever reads it will say so

    def raw(self, key: str) -> RawMask:
        """
        Raises:
            UserError: the file is broken or holds no kind of mask.
        """
        path = self.keys[key]
        if path.suffix.lower() in ARRAY_SUFFIXES:
            return RawMask(INDEX, read_array(path, self.variable))
        image = readers.open_image(str(path))
        if image.mode == "F":
            return RawMask(INDEX, whole_numbers(np.array(image), str(path)))
        palette = _palette(image) if image.mode == "P" else None
        if image.mode in readers.INDEX_MODES and not (self.form == COLOR and palette):
            return RawMask(INDEX, np.array(image).astype(np.int32), palette)
        if image.mode in ("LAB", "HSV"):
            raise UserError(f"{path} holds {image.mode} pixels: save it with a class index or an RGB colour per pixel.")
        rgb = np.array(image.convert("RGB")).astype(np.int32)
        is_grey = (rgb == rgb[:, :, :1]).all()
        if self.form == INDEX and not is_grey:
            raise UserError(f"{path} holds colours, but DATASET.MASK_VALUES is 'index': set it to 'color' or 'auto'.")
        if is_grey and (self.form == INDEX or not self.class_map.colors):
            return RawMask(INDEX, rgb[:, :, 0])  # indices that were saved as grey colours
        return RawMask(COLOR, rgb[:, :, 0] << 16 | rgb[:, :, 1] << 8 | rgb[:, :, 2])

    def labels(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Label map (H, W) uint8 with 255 where nothing counts; no instances.

        Raises:
            UserError: the mask is broken, of another size (height, width) than ``size``, or holds what is no class.
        """
        raw = self.raw(key)
        if raw.codes.shape != tuple(size):
            raise UserError(
                f"{self.name(key)} is {raw.codes.shape[1]}×{raw.codes.shape[0]} pixels, but its image is "
                f"{size[1]}×{size[0]}: the two must have the same size."
            )
        meaning = label_of_code(raw, self.class_map)
        codes, inverse = np.unique(raw.codes, return_inverse=True)
        unknown = [code for code in codes.tolist() if code not in meaning]
        if unknown:
            raise UserError(
                f"{self.name(key)} holds {describe_codes(raw.form, unknown)}, which {self.class_map.path} does not "
                "name; `python -m hiervl check-data` says more."
            )
        table = np.array([meaning[code] for code in codes.tolist()], dtype=np.uint8)
        return table[inverse.reshape(raw.codes.shape)], None


class CocoFile:
    """Instances of all images in one JSON file of COCO's format; its categories are classes of the same name."""

    has_instances = True

    def __init__(self, path: Path, class_map: ClassMap):
        """
        Raises:
            UserError: the file is missing or no COCO JSON, or a category is no class.
        """
        self.path, self.class_map = path, class_map
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows puts a mark in front
            self.images = {image["id"]: image for image in content["images"]}
            self.annotations: dict[int, list[dict]] = {}
            for annotation in content["annotations"]:
                self.annotations.setdefault(annotation["image_id"], []).append(annotation)
            categories = {category["id"]: category["name"] for category in content["categories"]}
        except OSError as error:
            raise UserError(f"the masks {path} cannot be read ({error.strerror}).") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no COCO file of instances, with images, annotations and categories ({error!r})."
            ) from None
        self.category_labels = {number: class_map.names.get(name) for number, name in categories.items()}
        # Roboflow lists a category above the others that no annotation has.
        used = {item.get("category_id") for items in self.annotations.values() for item in items}
        unknown = [
            categories[number] for number, label in self.category_labels.items() if label is None and number in used
        ]
        if unknown:
            raise UserError(
                f"{path} has the categories {', '.join(unknown[:MAX_LISTED])}, which {class_map.path} does not name: "
                "add them, with `ignore: true` or `merge_into` where they are no class of their own."
            )
        self.keys = {
            Path(image["file_name"]).with_suffix("").as_posix(): number for number, image in self.images.items()
        }

    def name(self, key: str) -> str:
        return f"{self.path} (image {self.images[self.keys[key]]['file_name']})"

    def stamp(self, key: str) -> tuple:
        """Changes when the file or what its categories mean changes."""
        status = self.path.stat()
        meaning = (sorted(self.category_labels.items()), self.class_map.background)
        return str(self.path.absolute()), status.st_mtime_ns, status.st_size, key, meaning

    def as_it_is(self, key: str) -> bool:
        return False

    def raw(self, key: str) -> RawMask:
        image = self.images[self.keys[key]]
        return RawMask(LABEL, self.labels(key, (image["height"], image["width"]))[0].astype(np.int32))

    def labels(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Label map (H, W) uint8 and numbers of instances (H, W) int32, 0 outside; small objects lie on large ones.

        Pixels of no object are background where there is such a class; else they do not count.

        Raises:
            UserError: the image has another size than the file says, or a segmentation cannot be read.
        """
        image = self.images[self.keys[key]]
        if (image.get("height", size[0]), image.get("width", size[1])) != tuple(size):
            raise UserError(
                f"{self.name(key)} is {image['width']}×{image['height']} pixels there, but the image is "
                f"{size[1]}×{size[0]}: export the annotations for this size."
            )
        background = self.class_map.background
        labels = np.full(size, IGNORED if background is None else background, dtype=np.uint8)
        instances = np.zeros(size, dtype=np.int32)
        drawn = [(self._mask(item, key, size), item) for item in self.annotations.get(self.keys[key], [])]
        drawn.sort(key=lambda pair: -int(pair[0].sum()))
        for number, (mask, item) in enumerate(drawn, start=1):
            labels[mask] = self.category_labels[item["category_id"]]
            instances[mask] = 0 if item.get("iscrowd") or labels[mask].max(initial=0) == IGNORED else number
        return labels, instances

    def _mask(self, annotation: dict, key: str, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool of polygons or of run lengths."""
        shape = annotation.get("segmentation")
        try:
            if isinstance(shape, list):
                encoded = coco_mask.merge(coco_mask.frPyObjects(shape, *size))
            elif isinstance(shape["counts"], list):
                encoded = coco_mask.frPyObjects(shape, *size)
            else:
                encoded = shape
            mask = coco_mask.decode(encoded).astype(bool)
            if mask.shape != tuple(size) or annotation["category_id"] not in self.category_labels:
                raise ValueError(f"size {mask.shape}, category {annotation['category_id']}")
            return mask
        except Exception as error:  # pycocotools raises what its C code raises
            raise UserError(
                f"{self.name(key)}: the annotation {annotation.get('id')} has no outline that can be drawn ({error})."
            ) from None


def label_of_code(raw: RawMask, class_map: ClassMap) -> dict[int, int]:
    """Label of every value or colour that the class file names, in the form of ``raw``."""
    if raw.form == LABEL:
        return {label: label for label in [*range(len(class_map.classes)), IGNORED]}
    if raw.form == INDEX:
        return class_map.known_values()
    return {encode_color(color): label for color, label in class_map.colors.items()}


def describe_codes(form: str, codes: list[int]) -> str:
    """For a sentence: "the values 3, 7, …" or "the colours [1, 2, 3], …"."""
    shown = [str(list(decode_color(code)) if form == COLOR else code) for code in codes[:MAX_LISTED]]
    noun = "colour" if form == COLOR else "value"
    more = ", …" if len(codes) > MAX_LISTED else ""
    return f"the {noun}{'s' if len(codes) > 1 else ''} {', '.join(shown)}{more}"


def describe_names(counts: Mapping[str, int]) -> str:
    """For a sentence: "the labels 'cup' (12), 'mug' (3), …", the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"'{name}' ({count})" for name, count in ordered[:MAX_LISTED])
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return f"the label{'s' if len(ordered) > 1 else ''} {shown}{more}"


def _palette(image: Image.Image) -> dict[int, Color]:
    flat = image.getpalette("RGB") or []
    return {index: tuple(flat[3 * index : 3 * index + 3]) for index in range(len(flat) // 3)}
