"""Which of several folders with masks of the same images counts: the one that is named, or any if all say the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiervl.data.classes.class_lists import read_class_names
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES, read_array
from hiervl.data.loading.readers import open_image
from hiervl.data.preparation.survey_contents import Contents, count_values, share_of_masks
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

COMPARED = 6  # masks of a folder
MIN_COMMON = 0.5  # least share of names that two folders of masks of the same images have in common


def keep_mask_folder(contents: Contents, root: Path, mask_folder: str) -> None:
    """Remove all masks outside ``mask_folder``, a path below ``root`` or as the user sees it, and all annotations.

    Raises:
        UserError: there are no images in it.
    """
    place = next(
        (
            path.resolve().relative_to(root.resolve()).as_posix().removeprefix(".")
            for path in (root / mask_folder, Path(mask_folder))
            if path.is_dir() and path.resolve().is_relative_to(root.resolve())
        ),
        None,
    )
    kept = {
        folder for folder in contents.files if place is not None and (folder == place or folder.startswith(f"{place}/"))
    }
    if not kept:
        raise UserError(f"--mask-folder: there is no folder '{mask_folder}' with masks in {root}.")
    for folder, files in list(contents.files.items()):
        if folder not in kept and share_of_masks(files) == 1:
            del contents.files[folder], contents.images[folder]
    contents.annotations.clear()


def keep_one_of_equal_masks(
    contents: Contents, pairs: Sequence[tuple[str, str]], variable: str = ""
) -> tuple[list[tuple[str, str]], list[str]]:
    """Where several folders hold a mask of each image, keep one if all divide the images alike.

    Args:
        pairs: folder of images, folder of masks.
        variable: the map in NumPy or MATLAB files with several.

    Returns:
        The pairs that are left, and sentences that name the others.

    Raises:
        UserError: they differ, and do not show one class each.
    """
    kept, notes = list(pairs), []
    for images in dict.fromkeys(images for images, _ in pairs):
        folders = [masks for of_images, masks in pairs if of_images == images and masks in contents.files]
        common = _common_names(contents, folders)
        if len(folders) < 2 or not common or all(_has_two_values(path) for stem in common for path in common[stem]):
            continue
        if not all(_divide_alike(paths, variable) for paths in common.values()):
            raise UserError(
                f"the images in {images or '.'} have masks in {listed(folders)}, which differ and do not show one "
                "class each: name the folder that counts by --mask-folder."
            )
        best = max(folders, key=lambda folder: _rank(contents, folder, _list_has_colors(contents)))
        others = [folder for folder in folders if folder != best]
        kept = [pair for pair in kept if pair[0] != images or pair[1] not in others]
        notes.append(f"the masks in {listed(others)} show the same as those in {best}, and are not used")
    return kept, notes


def _common_names(contents: Contents, folders: Sequence[str]) -> dict[str, list[Path]]:
    """Some names of masks that all folders have, with their files; {}: they have few in common."""
    by_stem = [{path.stem: path for path in contents.files[folder]} for folder in folders]
    if not by_stem:
        return {}
    common = set(by_stem[0]).intersection(*by_stem[1:])
    if len(common) < MIN_COMMON * min(map(len, by_stem)):
        return {}
    return {stem: [files[stem] for files in by_stem] for stem in sorted(common)[:COMPARED]}


def _has_two_values(path: Path) -> bool:
    return path.suffix.lower() not in ARRAY_SUFFIXES and count_values(path) <= 2


def _divide_alike(paths: Sequence[Path], variable: str) -> bool:
    """Whether each value of one mask stands for one value of every other."""
    first, *others = (np.unique(_values(path, variable), return_inverse=True)[1].ravel() for path in paths)
    if any(other.shape != first.shape for other in others):
        return False
    number = first.max() + 1
    return all(len(np.unique(other * number + first)) == number == other.max() + 1 for other in others)


def _values(path: Path, variable: str) -> np.ndarray:
    """(H, W), a number per value or color."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return read_array(path, variable)
    image = open_image(str(path))
    if image.mode in ("1", "L", "P", "I", "I;16", "F"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB")).astype(np.int64) @ np.array([65536, 256, 1])


def _rank(contents: Contents, folder: str, by_color: bool) -> tuple[bool, bool]:
    """Images before arrays, and numbers before colors, unless a list gives classes their colors."""
    path = contents.files[folder][0]
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return False, False
    has_colors = open_image(str(path)).mode not in ("1", "L", "I", "I;16", "F")
    return True, has_colors == by_color


def _list_has_colors(contents: Contents) -> bool:
    for path in contents.class_lists:
        try:
            if any("color" in entry for entry in read_class_names(path)):
                return True
        except UserError:
            continue
    return False
