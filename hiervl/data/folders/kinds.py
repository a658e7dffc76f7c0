"""Kinds of annotation files, recognised by their content.

``kind_of_file`` is for one file, ``unused_files`` for all files of a folder that are not images.
"""

import itertools
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hiervl.data.loading.file_types import IMAGE, IMAGE_SUFFIXES, suffix_of, type_of_file
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text, text_encoding

LEFT_BEHIND = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "@eadir")
LOOKED_AT = 3  # how many files of one suffix are read to find the kind of all of them
MIN_BYTES = 3  # smaller files tell nothing of their kind, such as YOLO's empty ones of images without objects
TEXT_LINES = 20  # how many lines of a text file are read
# Files by which a folder that HierVL has written is recognised.
RUN_FILES, PREDICTIONS = ("run.json", "config.yaml"), "predict.json"
CHECK_FILES = {"check_data": "report.txt", "prompts": "classes_1.png"}  # by the folder's name
OWN_FILES = {*RUN_FILES, PREDICTIONS, *CHECK_FILES.values()}


class Kind(NamedTuple):
    """A kind of annotation file.

    Attributes:
        key: short and unique, for programs.
        name: what people call it.
        advice: how to use its annotations, as the end of a sentence.
    """

    key: str
    name: str
    advice: str


FILE, FOLDER = "name the file itself as MASKS", "name the folder of these files as MASKS"
CLASS_LIST = "it lists classes: it can be named as CLASSES"

COCO = Kind("coco", "COCO JSON", FILE)
COCO_PANOPTIC = Kind("coco_panoptic", "COCO panoptic JSON", "export instances, or name the folder of its PNG masks")
LABELME = Kind("labelme", "labelme JSON", FOLDER)
CVAT_IMAGES = Kind("cvat_images", "CVAT for images XML", FILE)
CVAT_VIDEO = Kind("cvat_video", "CVAT for video XML", "export the task from CVAT as CVAT for images 1.1")
LABEL_STUDIO = Kind("label_studio", "Label Studio JSON", FILE)
LABEL_STUDIO_TASKS = Kind(
    "label_studio_tasks",
    "Label Studio tasks with predictions",
    "import them into Label Studio, and export what you save",
)
LABEL_STUDIO_MIN = Kind("label_studio_min", "Label Studio JSON-MIN", LABEL_STUDIO.advice)
LABEL_STUDIO_CSV = Kind("label_studio_csv", "Label Studio CSV", LABEL_STUDIO.advice)
LABEL_STUDIO_COLUMNS = {"annotation_id", "annotator", "lead_time"}  # in every CSV export
VIA = Kind("via", "VGG Image Annotator (VIA) JSON", FILE)
VIA3 = Kind("via3", "VGG Image Annotator 3 JSON", "export the annotations in COCO format")
VIA_CSV = Kind("via_csv", "VGG Image Annotator (VIA) CSV", "export it from VIA as JSON")
SUPERVISELY = Kind("supervisely", "Supervisely JSON", FOLDER)
SUPERVISELY_META = Kind("supervisely_meta", "Supervisely meta.json", CLASS_LIST)
CITYSCAPES = Kind("cityscapes", "Cityscapes polygons JSON", "draw PNG masks of it with cityscapesscripts")
DATUMARO = Kind("datumaro", "Datumaro JSON", "convert it: `datum convert -f coco_instances`")
DARWIN = Kind("darwin", "V7 Darwin JSON", "export it from V7 as COCO or as semantic masks")
LABELBOX = Kind("labelbox", "Labelbox JSON", "convert it to COCO JSON or PNG masks")
CREATE_ML = Kind("create_ml", "CreateML JSON", "it holds boxes only; export polygons or masks")
GEOJSON = Kind("geojson", "GeoJSON", "draw PNG masks of it (QGIS: Rasterize; QuPath: export labels)")
VOC_BOXES = Kind("voc_boxes", "Pascal VOC XML", "it holds boxes only; export polygons or masks")
YOLO_POLYGONS = Kind("yolo_polygons", "YOLO segmentation text", FOLDER)
YOLO_BOXES = Kind("yolo_boxes", "YOLO box text", "it holds boxes only; export polygons or masks")
YOLO_DATA = Kind("yolo_data", "YOLO data.yaml", CLASS_LIST)
LABELMAP = Kind("labelmap", "labelmap.txt of VOC masks", CLASS_LIST)
CLASSES_CSV = Kind("classes_csv", "Roboflow _classes.csv", CLASS_LIST)
CLASS_LISTS = (LABELMAP, CLASSES_CSV, YOLO_DATA, SUPERVISELY_META)
JSON = Kind("json", "JSON of an unknown kind", "export COCO JSON or PNG masks from your tool")
XML = Kind("xml", "XML of an unknown kind", "export COCO JSON or PNG masks from your tool")


def kind_of_file(path: str | Path) -> Kind | None:
    """The kind of an annotation file, by its content; None: it is not one, or its kind is unknown.

    A file that cannot be read or parsed has no kind. JSON files are read completely.
    """
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix in (".json", ".ndjson", ".geojson"):
            return kind_of_json(read_json(path))
        if suffix == ".xml":
            return _kind_of_xml(path)
        if suffix in (".txt", ".csv", ".tsv", ".yaml", ".yml"):
            with open(path, encoding=text_encoding(path)) as file:
                lines = [line.strip() for line, _ in zip(file, range(TEXT_LINES))]
            return _kind_of_text(lines, suffix)
    except (OSError, ValueError, ElementTree.ParseError):
        return None
    return None


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, or of the first line if every line is a JSON value.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if not str(path).lower().endswith(".ndjson"):
            raise
        return [json.loads(text.splitlines()[0])]


def kind_of_json(content: Any) -> Kind | None:
    """The kind of a parsed JSON file; :data:`JSON` if it is unknown."""
    if isinstance(content, list):
        return _kind_of_list(content)
    if not isinstance(content, dict):
        return JSON
    keys = content.keys()
    entries = next((value for value in content.values() if isinstance(value, dict)), {})
    tests = (
        (LABELME, {"shapes"} <= keys and bool({"imagePath", "imageHeight", "flags"} & keys)),
        (COCO_PANOPTIC, {"images", "annotations"} <= keys and _any_has(content["annotations"], "segments_info")),
        (COCO, {"images", "annotations"} <= keys),
        (VIA3, {"project", "config", "attribute", "file", "metadata"} <= keys),
        (VIA, "_via_img_metadata" in keys or {"filename", "regions"} <= entries.keys()),
        (CITYSCAPES, {"imgHeight", "imgWidth", "objects"} <= keys),
        (SUPERVISELY, {"objects", "size"} <= keys),
        (SUPERVISELY_META, {"classes", "tags"} <= keys),
        (DATUMARO, {"items", "categories"} <= keys),
        (DARWIN, {"item", "annotations"} <= keys),
        (GEOJSON, content.get("type") in ("FeatureCollection", "Feature")),
        (LABELBOX, {"data_row", "projects"} <= keys),
        (LABEL_STUDIO, {"data"} <= keys and bool({"annotations", "completions", "predictions"} & keys)),
    )  # fmt: skip
    return next((kind for kind, is_it in tests if is_it), JSON)


def _any_has(entries: Any, key: str) -> bool:
    return isinstance(entries, list) and any(isinstance(entry, dict) and key in entry for entry in entries[:LOOKED_AT])


def _kind_of_list(content: list) -> Kind:
    if _any_has(content, "data") and any(_any_has(content, key) for key in ("annotations", "completions")):
        return LABEL_STUDIO
    if _any_has(content, "data") and _any_has(content, "predictions"):
        return LABEL_STUDIO_TASKS
    if _any_has(content, "annotation_id") or _any_has(content, "annotator"):
        return LABEL_STUDIO_MIN
    if _any_has(content, "Labeled Data") or _any_has(content, "data_row"):
        return LABELBOX
    if _any_has(content, "image") and _any_has(content, "annotations"):
        return CREATE_ML
    return GEOJSON if _any_has(content, "geometry") else JSON


def _kind_of_xml(path: str | Path) -> Kind:
    """The kind by the root element and its first children. The rest of the file is not read."""
    seen: list[str] = []
    for _, element in ElementTree.iterparse(path, events=("start",)):
        seen.append(element.tag)
        if element.tag in ("image", "track", "object"):
            break
    if seen[0] == "annotations":
        return CVAT_VIDEO if "track" in seen else CVAT_IMAGES
    return VOC_BOXES if seen[0] == "annotation" else XML


def _kind_of_text(lines: Sequence[str], suffix: str) -> Kind | None:
    lines = [line for line in lines if line]
    if not lines:
        return None
    first = lines[0].lower()
    if suffix in (".yaml", ".yml"):
        keys = {line.partition(":")[0] for line in lines}
        return YOLO_DATA if "names" in keys and keys & {"nc", "train", "val", "path"} else None
    if first.startswith(("filename,file_size,", "#filename,file_size,")):
        return VIA_CSV
    if suffix in (".csv", ".tsv"):
        if LABEL_STUDIO_COLUMNS <= {column.strip('" ') for column in re.split("[,;\t]", first)}:
            return LABEL_STUDIO_CSV
        return CLASSES_CSV if first.startswith("pixel value") else None
    if first.startswith("# label:color_rgb"):
        return LABELMAP
    try:
        rows = [[float(word) for word in line.split()] for line in lines]
    except ValueError:
        return None
    are_polygons = all(len(row) >= 7 and len(row) % 2 and min(row) >= 0 for row in rows)  # perhaps in pixels
    are_shares = all(len(row) >= 5 and all(-1 <= value <= 2 for value in row[1:]) for row in rows)
    if not (are_polygons or are_shares) or any(row[0] != row[0] // 1 for row in rows):
        return None
    return YOLO_POLYGONS if any(len(row) >= 7 for row in rows) else YOLO_BOXES


# ---------------------------------------------------------------------------- what lies in a folder and is not used


class Unused(NamedTuple):
    """Files of one kind in a folder that are not used.

    Attributes:
        what: their suffix and kind.
        advice: what to do with them; "": there is nothing to do.
        files: their paths.
        kind: for annotation files.
    """

    what: str
    advice: str
    files: tuple[str, ...]
    kind: Kind | None = None


def unused_files(
    folder: str | Path, used: Sequence[str] = IMAGE_SUFFIXES, apart_from: Collection[str] = ()
) -> list[Unused]:
    """Files in a folder and its subfolders with a suffix that is not in ``used``, the most frequent first.

    Hidden files and folders, and linked folders, are left out. ``apart_from``: files and folders to leave out, too, by
    the real path of the folder that they are in.
    """
    by_suffix: dict[str, list[str]] = {}
    for path in _visible_files(folder, apart_from):
        suffix = suffix_of(path)
        if suffix not in used:
            by_suffix.setdefault(suffix, []).append(path)
    found = [_unused_files(suffix, files) for suffix, files in by_suffix.items()]
    return sorted(found, key=lambda unused: -len(unused.files))


def _visible_files(folder: str | Path, apart_from: Collection[str]) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        if place != str(folder) and is_own_output(place, names):
            folders.clear()
            continue
        real = os.path.realpath(place) if apart_from else ""
        folders[:] = sorted(
            name for name in folders if not is_hidden(name) and os.path.join(real, name) not in apart_from
        )
        for name in sorted(names):
            if not is_hidden(name) and os.path.join(real, name) not in apart_from:
                yield os.path.join(place, name)


def has_content(path: str | Path) -> bool:
    """Whether a file is long enough to tell its kind."""
    try:
        return os.path.getsize(path) >= MIN_BYTES
    except OSError:
        return False


def is_own_output(folder: str, names: Collection[str]) -> bool:
    """Whether HierVL has written a folder with these files: the pictures of a check, a run or predictions are none of
    the user's images, though they may lie among them."""
    is_run = all(name in names for name in RUN_FILES)
    return is_run or PREDICTIONS in names or CHECK_FILES.get(os.path.basename(folder)) in names


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def _unused_files(suffix: str, files: Sequence[str]) -> Unused:
    shown = suffix or "without a suffix"
    telling = list(itertools.islice(filter(has_content, files), LOOKED_AT)) or files[:1]
    kinds = Counter(kind for kind in map(kind_of_file, telling) if kind is not None)
    if kinds:
        kind = kinds.most_common(1)[0][0]
        return Unused(f"{shown} ({kind.name})", kind.advice, tuple(files), kind)
    file_type = type_of_file(telling[0])
    if file_type is IMAGE:
        return Unused(f"{shown} (images)", "give them the suffix of their format, such as .jpg", tuple(files))
    if file_type is None:
        return Unused(shown, "", tuple(files))
    return Unused(f"{shown} ({file_type.name.partition(' ')[2]})", file_type.advice, tuple(files))


def describe_unused(unused: Iterable[Unused]) -> str:
    """For a sentence: "12 .json (labelme JSON: convert it …), 2 .heic (HEIC photograph: …)"; "" if there are none."""
    parts = []
    for entry in unused:
        what = entry.what
        if entry.advice:
            what = f"{what[:-1]}: {entry.advice})" if what.endswith(")") else f"{what} ({entry.advice})"
        parts.append(f"{len(entry.files)} {what}")
    return ", ".join(parts)


def name_of_file(path: str | Path) -> tuple[str, str]:
    """What a file is, with its article, and advice for it. Two empty texts if unknown."""
    kind = kind_of_file(path)
    if kind is not None:
        return f"a file of {kind.name}", kind.advice
    file_type = type_of_file(path)
    return (file_type.name, file_type.advice) if file_type is not None else ("", "")


def refuse_file(path: Path, key: str) -> UserError:
    """The error for a file where a folder is expected."""
    what, advice = name_of_file(path)
    if not what:
        return UserError(f"{key}: {path} is a file, but a folder is expected: name the folder that holds the files.")
    return UserError(f"{key}: {path} is {what}, not a folder of files: {advice or 'name the folder'}.")
