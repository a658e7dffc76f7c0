"""Which of several folders with masks of the same images counts: the one that is named, or any if all say the same."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiervl.data.classes.class_lists import read_class_names
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES
from hiervl.data.folders.masks import MaskFolder
from hiervl.data.preparation.survey_contents import (
    NO_CLASSES,
    Contents,
    looks_like_a_mask,
    named_folders,
    share_of_masks,
    shown,
)
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

COMPARED = 6  # masks of a folder
LOOKED_AT = 40  # of which some may be empty
MAX_SIDE = 1000  # pixels; of larger masks every n-th is compared
MIN_COMMON = 0.5  # least share of names that two folders of masks of the same images have in common


def keep_mask_folder(contents: Contents, root: Path, mask_folder: str) -> None:
    """Remove all masks outside ``mask_folder``, as in :func:`named_folders`.

    Raises:
        UserError: there are no masks in it.
    """
    shares = {folder: share_of_masks(files) for folder, files in contents.files.items()}
    kept = named_folders(shares, root, mask_folder)
    if not any(shares[folder] > 0 for folder in kept):
        others = listed(shown(folder for folder, share in shares.items() if share > 0)) or "none at all"
        raise UserError(f"--mask-folder: there is no folder '{mask_folder}' with masks, but {others}.")
    for folder, files in list(contents.files.items()):
        if shares[folder] == 0 or folder in kept:
            continue
        contents.files[folder] = [path for path in files if not looks_like_a_mask(path)]
        contents.images[folder] = [path.stem for path in contents.files[folder]]
        if not contents.files[folder]:
            del contents.files[folder], contents.images[folder]


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
        compared = _regions(contents, folders, variable) if len(folders) > 1 else []
        if not compared:
            continue
        if not all(_divide_alike(regions) for regions in compared):
            if all(region.max() <= 1 for regions in compared for region in regions):
                continue  # one class each
            raise UserError(
                f"the images in {images or '.'} have masks in {listed(folders)}, which differ and do not show one "
                "class each: name the folder that counts by --mask-folder."
            )
        best = max(folders, key=lambda folder: _rank(contents, folder, _list_has_colors(contents)))
        others = [folder for folder in folders if folder != best]
        kept = [pair for pair in kept if pair[0] != images or pair[1] not in others]
        notes.append(f"the masks in {listed(others)} show the same as those in {best}, and are not used")
    return kept, notes


def _regions(contents: Contents, folders: Sequence[str], variable: str) -> list[list[np.ndarray]]:
    """Some masks that all folders have: the same number for the same value. []: they have few names in common. Masks
    of one value, and those that cannot be read, are passed over."""
    by_stem = [{path.stem: path for path in contents.files[folder]} for folder in folders]
    common = set(by_stem[0]).intersection(*by_stem[1:]) if by_stem else set()
    if not common or len(common) < MIN_COMMON * min(map(len, by_stem)):
        return []
    masks = [_masks_in(contents, folder, variable) for folder in folders]
    found: list[list[np.ndarray]] = []
    for stem in random.Random(0).sample(sorted(common), min(LOOKED_AT, len(common))):
        try:
            codes = [folder.raw(stem).codes for folder in masks]
        except UserError:
            continue
        step = max(1, max(codes[0].shape) // MAX_SIDE)
        regions = [np.unique(each[::step, ::step], return_inverse=True)[1].ravel() for each in codes]
        if max(region.max() for region in regions) > 0:
            found.append(regions)
        if len(found) == COMPARED:
            break
    return found


def _divide_alike(regions: Sequence[np.ndarray]) -> bool:
    """Whether each value of one mask stands for one value of every other. Of two values, the lower for the lower: what
    one class leaves is another class."""
    first, *others = regions
    if any(other.shape != first.shape for other in others):
        return False
    number = first.max() + 1
    if number <= 2:
        return all(np.array_equal(first, other) for other in others)
    return all(len(np.unique(other * number + first)) == number == other.max() + 1 for other in others)


def _masks_in(contents: Contents, folder: str, variable: str) -> MaskFolder:
    return MaskFolder(contents.files[folder][0].parent, NO_CLASSES, variable=variable)


def _rank(contents: Contents, folder: str, by_color: bool) -> tuple[bool, bool]:
    """Images before arrays, and numbers before colors, unless a list gives classes their colors."""
    path = contents.files[folder][0]
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return False, False
    try:
        return True, _masks_in(contents, folder, "").is_rgb(path.stem) == by_color
    except UserError:
        return True, False


def _list_has_colors(contents: Contents) -> bool:
    for path in contents.class_lists:
        try:
            if any("color" in entry for entry in read_class_names(path)):
                return True
        except UserError:
            continue
    return False
