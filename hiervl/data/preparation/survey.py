"""Surveys a folder of images and annotations without any description, and finds what is where (``init``).

Only words for training, validation and test are expected in folder names. Everything else follows from the content of
files and from matching names.
"""

import itertools
import os
from pathlib import Path

from hiervl.data.folders import kinds
from hiervl.data.folders.files import MASK_SUFFIXES, or_similar
from hiervl.data.folders.formats.opening import FOR_SOME_IMAGES, IN_ONE_FILE, MASKS, find_annotations
from hiervl.data.folders.pairing import NamePattern
from hiervl.data.loading.file_types import IMAGE_SUFFIXES, type_of_file
from hiervl.data.preparation.survey_contents import (
    Contents,
    Place,
    Survey,
    keep_image_folder,
    keep_masks,
    lies_in,
    looks_like_a_blurred_mask,
    scan,
    share_of_masks,
    split_of,
)
from hiervl.data.preparation.survey_masks import keep_mask_folder
from hiervl.data.preparation.survey_nearness import is_named_as_other_pictures
from hiervl.data.preparation.survey_overlays import bear_names_of, drop_overlays, is_named_as_overlays
from hiervl.data.preparation.survey_places import annotated, count_masked, labeled_stems, masked, pairs_in
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text


def survey(
    folder: Path, mask_suffix: str = "", mask_variable: str = "", mask_folder: str = "", image_folder: str = ""
) -> Survey:
    """
    Args:
        mask_variable: name of the map in NumPy or MATLAB files with several.
        mask_suffix: end of the names of the masks to use, if an image has several; "": it has one.
        mask_folder: the folder of the masks to use, if several have masks of the same images; "": all.
        image_folder: the folder of the labelled images, if several hold images of the same names; "": all.

    Raises:
        UserError: it is no folder; it has no images or no known annotations; an image has several masks and neither
            ``mask_suffix`` nor ``mask_folder`` is given; or annotations fit the images of several folders and
            ``image_folder`` is not given.
    """
    if not folder.is_dir():
        raise _no_folder(folder)
    contents = scan(folder)
    if mask_suffix:
        keep_masks(contents, mask_suffix)
    if mask_folder:
        keep_mask_folder(contents, folder, mask_folder)
    if image_folder:
        keep_image_folder(contents, folder, image_folder)
    about_overlays = drop_overlays(contents)
    if not contents.images:
        others = kinds.describe_unused(kinds.unused_files(folder))
        raise UserError(f"{folder} holds no images{f', but {others}' if others else ''}.")
    result = Survey(folder, class_lists=contents.class_lists, notes=about_overlays, mask_variable=mask_variable)
    found = _annotated_or_masked(contents, result, only_masks=bool(mask_folder))
    if not found and image_folder:
        raise UserError(
            f"--image-folder: by their names and places no annotations are of the images in '{image_folder}': if some "
            "are, leave the option out and correct IMAGES and MASKS in the file that is written."
        )
    if not found:
        counts = ", ".join(f"{len(stems)} in {place or '.'}" for place, stems in list(contents.images.items())[:5])
        reason = f" ({'; '.join(result.notes)})" if result.notes else ""
        others = kinds.describe_unused(unused for unused in kinds.unused_files(folder, MASK_SUFFIXES) if unused.advice)
        reason += f"; not read: {others}" if others else ""
        blurred = [place for place, files in contents.files.items() if all(map(looks_like_a_blurred_mask, files[:3]))]
        if blurred:
            reason += (
                f"; the JPEG files in {', '.join(blurred)} look like masks, whose values JPEG blurs: export them as PNG"
            )
        raise UserError(
            f"{folder} holds images ({counts}), but neither masks nor annotations of a kind that is known belong to "
            f"them{reason}: docs/data.md lists the formats."
        )
    _settle_places(contents, result, found)
    result.mask_suffix = result.mask_suffix or (mask_suffix if result.form == MASKS else "")
    _find_lists(contents, result)
    _find_unlabeled(contents, result)
    return result


def _annotated_or_masked(contents: Contents, result: Survey, only_masks: bool) -> dict[str, list[Place]]:
    """Places by split, of the annotation files or of the masks: of those that belong to more images. A note names the
    others.

    Raises:
        UserError: an image has several masks, and nothing else belongs to images.
    """
    files: dict[str, list[Place]] = {}
    count = 0
    undecided: UserError | None = None
    try:
        files, count = ({}, 0) if only_masks else annotated(contents, result)
    except UserError as error:
        undecided = error
    of_masks = Survey(result.folder, mask_variable=result.mask_variable)
    try:
        masks = masked(contents, of_masks)
    except UserError:
        if not files:
            raise
        return files
    if undecided and not masks:
        raise undecided
    result.notes += [str(undecided).rstrip(".")] if undecided else []
    covered = count_masked(contents, of_masks, masks) if files and masks else 0
    where = _masks_of(masks)
    if files and covered <= count:
        if covered:
            result.notes.append(
                f"masks for {covered} images were found in {where}, too, and are not used: to use them, name their "
                f"folder as MASKS, with `FORMAT: {of_masks.form}`"
            )
        return files
    if files:
        result.notes.append(
            f"annotations of the format {result.form} for {count} images were found in {_masks_of(files)}, too, and "
            f"are not used, because the masks in {where} are of {covered} images"
        )
    result.notes += of_masks.notes
    result.form, result.image_suffix, result.mask_suffix = of_masks.form, of_masks.image_suffix, of_masks.mask_suffix
    annotations = {folder for folders in contents.annotations.values() for folder in folders}
    result.has_both = any(
        lies_in(folder, place.masks)
        for places in masks.values() for place in places for folder in annotations
    )  # fmt: skip
    return masks


def _masks_of(found: dict[str, list[Place]]) -> str:
    return ", ".join(place.masks for places in found.values() for place in places)


def _no_folder(path: Path) -> UserError:
    """The error for a file, or for nothing, where a folder is expected."""
    if not path.exists():
        return UserError(f"there is no folder {path}{or_similar(path)}")
    what = kinds.name_of_file(path)[0] or "a file"
    file_type = type_of_file(path)
    advice = file_type.advice if file_type is not None and file_type.advice else (
        f"name the folder that holds your images and annotations, such as {path.absolute().parent}"
    )  # fmt: skip
    return UserError(f"{path} is {what}, not a folder: {advice}.")


# ---------------------------------------------------------------------------- parts


def _settle_places(contents: Contents, result: Survey, found: dict[str, list[Place]]) -> None:
    """Choose one place per split: the common folder above if there are several, else the one with most images."""
    if "train" not in found:
        first = next(iter(found))
        found = {"train": found[first], **{split: places for split, places in found.items() if split != first}}
    for split, places in found.items():
        images, masks = {place.images for place in places}, {place.masks for place in places}
        place = places[0]
        if len(places) > 1 and not (result.form in IN_ONE_FILE and len(masks) > 1):
            place = Place(_above(images), _above(masks))
        elif (folder := _common_folder(result, places)) is not None:
            place = Place(_above(images), folder)
        elif len(places) > 1:
            result.notes += [f"{other.masks} is a further annotation file and not used" for other in places[1:]]
        result.places[split] = place
    in_one_folder = any(
        len(places) > 1 and result.places[split].images == result.places[split].masks for split, places in found.items()
    )
    if result.form == MASKS and in_one_folder and not _pair_as_found(contents, result, found):
        _settle_folder_names(result, found)
    if result.form == MASKS and not _pair_as_found(contents, result, found):
        raise _scattered(list(itertools.chain.from_iterable(found.values())))
    result.places = {split: result.places[split] for split in ("train", "val", "test") if split in result.places}


def _pair_as_found(contents: Contents, result: Survey, found: dict[str, list[Place]]) -> bool:
    """Whether in the chosen places the same masks belong to the same images as in those that were found."""
    return all(
        pairs_in(contents, result, [result.places[split]]).items() >= pairs_in(contents, result, places).items()
        for split, places in found.items()
    )


def _scattered(places: list[Place]) -> UserError:
    examples = " and ".join(f"{place.images} with {place.masks}" for place in places[:2])
    return UserError(
        f"images and masks lie in several folders, {examples}: give all folders of images one name and all folders of "
        "masks another one, as in scene_1/images and scene_1/masks, or put all images below one folder and all masks "
        "below another one."
    )


def _settle_folder_names(result: Survey, found: dict[str, list[Place]]) -> None:
    """Tell masks from images by the folders that they lie in, as in scene_1/images and scene_1/masks.

    Raises:
        UserError: these have other names elsewhere.
    """
    by_names: dict[tuple[str, str], Place] = {}
    for place in itertools.chain.from_iterable(found.values()):
        by_names.setdefault((os.path.basename(place.images), os.path.basename(place.masks)), place)
    images, masks = next(iter(by_names))
    parents = {
        split: {_parent(path) for place in places for path in (place.images, place.masks)}
        for split, places in found.items()
    }
    every_place = itertools.chain.from_iterable(found.values())
    beside_each_other = all(_parent(place.images) == _parent(place.masks) for place in every_place)
    if len(by_names) > 1 or images == masks or not beside_each_other:
        raise _scattered(list(by_names.values()))
    result.places = {split: Place(_above(folders), _above(folders)) for split, folders in parents.items()}
    result.image_suffix = str(NamePattern.parse(result.image_suffix, "").in_folder(images))
    result.mask_suffix = str(NamePattern.parse(result.mask_suffix, "").in_folder(masks))


def _parent(place: str) -> str:
    return os.path.dirname(place) or "."


def _common_folder(result: Survey, places: list[Place]) -> str | None:
    """The folder of several files, where a format allows to read them together, and it holds no others."""
    folders = {Path(place.masks).parent.as_posix() for place in places}
    if len(places) < 2 or len(folders) > 1 or result.form not in FOR_SOME_IMAGES:
        return None
    folder = folders.pop()
    found = find_annotations(result.folder / folder, any(place.images == folder for place in places))
    return folder if found == (result.form, result.folder / folder) else None


def _above(places: set[str]) -> str:
    """The common folder of all."""
    return "." if "." in places else os.path.commonpath(places) or "."


def _find_lists(contents: Contents, result: Survey) -> None:
    """Lists of training and validation images that lie beside each other, as VOC's: those with the largest share of
    labelled images. VOC's lists for other tasks name images without masks."""
    if set(result.places) != {"train"}:
        return
    by_folder: dict[Path, dict[str, Path]] = {}
    for path in contents.lists:
        if path.stem.lower() in ("train", "val"):
            by_folder.setdefault(path.parent, {})[path.stem.lower()] = path
    labeled = labeled_stems(contents, result)
    every_stem = {stem for stems in contents.images.values() for stem in stems}
    best = 0.0
    for lists in by_folder.values():
        named = [_names_in(path, every_stem) for path in lists.values()]
        share = min((sum(name in labeled for name in names) / len(names) for names in named if names), default=0)
        if len(lists) == 2 and all(named) and share > best:
            best = share
            result.lists = {split: path.relative_to(result.folder).as_posix() for split, path in lists.items()}


def _names_in(path: Path, stems: set[str]) -> list[str]:
    """The images that a list names, without folders and suffixes; [] if it names something else."""
    try:
        lines = [os.path.basename(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
    names = [line if line in stems else os.path.splitext(line)[0] for line in lines]
    return names if all(name in stems for name in names) else []


def _find_unlabeled(contents: Contents, result: Survey) -> None:
    """Folders of photographs without annotations. Folders for testing are not used."""
    used = [path for place in result.places.values() for path in (place.images, place.masks)]
    labeled = result.places["train"].images
    annotated_stems = {stem for place, stems in contents.images.items() if lies_in(place, labeled) for stem in stems}
    names = [NamePattern.parse(text, "") for text in (result.image_suffix, result.mask_suffix)]
    has_folders = any("/" in pattern.head for pattern in names)
    left_out: list[str] = []
    for place, files in contents.files.items():
        if has_folders:
            is_used = any(pattern.core(f"{place}/{path.stem}") is not None for pattern in names for path in files)
        else:
            is_used = any(lies_in(place, path) for path in used)
        if is_used:
            continue
        if share_of_masks(files) > 0 or not any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
            continue
        what = "labels drawn over the photographs" if is_named_as_overlays(place) else (
            "the labelled images in another way"
            if is_named_as_other_pictures(place) and not is_named_as_other_pictures(labeled) else ""
        )  # fmt: skip
        if what and bear_names_of(files, annotated_stems):
            left_out.append(place)
            result.notes.append(
                f"{place} is not used: its name and those of its files say that it shows {what}; if these are other "
                "photographs, add it to UNLABELED"
            )
        elif contents.are_copies(place, labeled):
            left_out.append(place)
            result.notes.append(f"{place} is not used: it holds copies of images in {labeled}")
        elif split_of(place) == "test":
            left_out.append(place)
            result.notes.append(f"{place} holds {len(files)} images for testing without masks, which are not used")
        elif not any(lies_in(place, other) for other in result.unlabeled):
            result.unlabeled.append(place or ".")
    for place in [place for place in result.unlabeled if any(lies_in(other, place) for other in left_out)]:
        result.unlabeled.remove(place)
        result.notes.append(
            f"the images in {place} are not used, because others lie below it that are left out: move them into a "
            "folder of their own, and add it to UNLABELED"
        )
