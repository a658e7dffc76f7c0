"""Find the format of a dataset's annotations, and open the source that reads it."""

from collections.abc import Mapping
from pathlib import Path

from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders import kinds
from hiervl.data.folders.files import MASK_SUFFIXES, find_files
from hiervl.data.folders.formats.coco import CocoFile
from hiervl.data.folders.formats.cvat import CvatFile
from hiervl.data.folders.formats.label_studio import LabelStudioFile
from hiervl.data.folders.formats.labelme import LabelmeFiles
from hiervl.data.folders.formats.per_class import ClassMasks, find_class_masks
from hiervl.data.folders.formats.several import SeveralFiles
from hiervl.data.folders.formats.source import MaskSource
from hiervl.data.folders.formats.supervisely import SuperviselyFiles
from hiervl.data.folders.formats.via import ViaFile
from hiervl.data.folders.formats.yolo import YoloFiles
from hiervl.data.folders.kinds import Kind
from hiervl.data.folders.pairing import LABEL_STUDIO_PNG
from hiervl.utils.errors import UserError

AUTO, MASKS, PER_CLASS = "auto", "masks", "per_class"
# Formats with one file for all images, and formats with a file per image: value of DATASET.FORMAT → source.
IN_ONE_FILE = {"coco": CocoFile, "cvat": CvatFile, "label_studio": LabelStudioFile, "via": ViaFile}
FOR_SOME_IMAGES = ("cvat", "label_studio", "via")  # several files for one folder of images are read together
PER_IMAGE = {"labelme": LabelmeFiles, "yolo": YoloFiles, "supervisely": SuperviselyFiles}
FORMATS = (AUTO, MASKS, PER_CLASS, *IN_ONE_FILE, *PER_IMAGE)
OF_KIND: dict[Kind, str] = {
    kinds.COCO: "coco",
    kinds.CVAT_IMAGES: "cvat",
    kinds.CVAT_VIDEO: "cvat",  # its reader says how to export it
    kinds.LABEL_STUDIO: "label_studio",
    kinds.LABEL_STUDIO_MIN: "label_studio",
    kinds.LABEL_STUDIO_CSV: "label_studio",
    kinds.VIA: "via",
    kinds.LABELME: "labelme",
    kinds.SUPERVISELY: "supervisely",
    kinds.YOLO_POLYGONS: "yolo",
    kinds.YOLO_BOXES: "yolo",
}


def open_annotations(
    path: Path, images: Mapping[str, Path], class_map: ClassMap, form: str = AUTO, beside: bool = False
) -> MaskSource | None:
    """The source of the annotations at ``path``; None if they are mask files with all classes in each.

    Args:
        path: DATASET.LABELED.MASKS, a file or a folder.
        images: the image files of LABELED.IMAGES by relative path without suffix, including masks among them.
        form: one of :data:`FORMATS`; "auto": decided by the content of the files.
        beside: ``path`` is the folder of the images.

    Raises:
        UserError: the annotations cannot be read, or could have two formats.
    """
    if form == MASKS or not path.exists():
        return None
    found = find_annotations(path, beside) if form == AUTO else (form, path)
    if found is None or found[0] == PER_CLASS:
        is_meant = found is not None
        class_masks = None
        if path.is_dir():
            class_masks = find_class_masks(find_files(path, MASK_SUFFIXES), images, class_map, beside)
        if class_masks is None:
            if is_meant:
                raise UserError(
                    f"DATASET.FORMAT is {PER_CLASS}, but {path} holds no masks that belong to one class each."
                )
            return None
        return ClassMasks(class_masks, class_map, images)
    form, place = found
    if form in IN_ONE_FILE and place.is_dir():
        files = files_in(place, form)
        if len(files) > 1:
            parts = [IN_ONE_FILE[form](file, class_map, images) for file in files]
            return SeveralFiles(parts, place, class_map, images)
        place = files[0]
    if form in PER_IMAGE and place.is_file():
        raise UserError(f"{place} is the {PER_IMAGE[form].kind} of one image: name the folder of these files as MASKS.")
    return {**IN_ONE_FILE, **PER_IMAGE}[form](place, class_map, images)


def find_annotations(path: Path, beside: bool) -> tuple[str, Path] | None:
    """Format and place (file or folder) of the annotation files at ``path``; None if there are none of a known kind.

    Raises:
        UserError: a folder holds annotations of several formats, or also mask files.
    """
    if path.is_file():
        kind = kinds.kind_of_file(path)
        return (OF_KIND[kind], path) if kind in OF_KIND else None
    found: dict[str, list[str]] = {}
    for unused in kinds.unused_files(path, MASK_SUFFIXES):
        if unused.kind in OF_KIND:
            found.setdefault(OF_KIND[unused.kind], []).extend(unused.files)
    if not found:
        return None
    mask_files = {} if beside else find_files(path, MASK_SUFFIXES)
    if set(found) == {"label_studio"} and any(LABEL_STUDIO_PNG.fullmatch(file.stem) for file in mask_files.values()):
        return None  # one mask per class: the JSON beside them says which image a task has
    has_masks = bool(mask_files)
    if len(found) > 1 or has_masks:
        what = [*sorted(found), *(["masks"] if has_masks else [])]
        raise UserError(
            f"{path} holds annotations of several formats ({', '.join(what)}): name the one that counts as "
            f"DATASET.FORMAT, or move the others."
        )
    form, files = next(iter(found.items()))
    return form, Path(files[0]) if form in IN_ONE_FILE and len(files) == 1 else path


def files_in(folder: Path, form: str) -> list[Path]:
    """The annotation files in a folder, for formats with one file for all images.

    Raises:
        UserError: there is none; or there are several of a format that has one for each part of a dataset.
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".json", ".xml", ".csv", ".tsv") and OF_KIND.get(kinds.kind_of_file(path)) == form  # type: ignore[arg-type]
    ]
    if not files or (len(files) > 1 and form not in FOR_SOME_IMAGES):
        names = ", ".join(path.name for path in files)
        raise UserError(
            f"{folder} holds {len(files)} annotation files of the format {form}{f' ({names})' if names else ''}: name "
            "the one that counts as MASKS."
        )
    return files
