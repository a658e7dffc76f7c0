"""Masks of one class each, from files or from the maps of an array, combined into one label map."""

from collections.abc import Iterable

import numpy as np

from hiervl.data.classes.class_maps import IGNORED, ClassMap
from hiervl.utils.errors import UserError

OVERLAPS = "pixels belong to several classes: the last of them in the class file counts"
IN_ORDER = "arrays hold a map per class, which are read in the order of the class file: look at the overlays"
MAPS, UNCOVERED = "maps of an array", "pixels are in none of the maps of an array"
SAVE_NUMBERS = "save one map (height, width) with the number of the class per pixel"
COLOR_CHANNELS = (3, 4)


def paint_layers(layers: Iterable[tuple[str, np.ndarray]], class_map: ClassMap) -> tuple[np.ndarray, int]:
    """Combine masks of one class each. Later ones lie on top.

    Pixels without a class are background, if there is such a class; else they do not count.

    Args:
        layers: at least one name of an entry in the class file with its mask (H, W) bool.

    Returns:
        labels (H, W) uint8, and the number of pixels with several classes.
    """
    background = class_map.background
    labels = claimed = np.zeros((0, 0), dtype=np.uint8)
    for index, (name, mask) in enumerate(layers):
        if index == 0:
            labels = np.full(mask.shape, IGNORED if background is None else background, dtype=np.uint8)
            claimed = np.zeros(mask.shape, dtype=np.uint8)
        label = class_map.names[name]
        labels[mask] = label
        if label not in (IGNORED, background):
            claimed += mask
    return labels, int((claimed > 1).sum())


def unstack_layers(stack: np.ndarray, class_map: ClassMap, name: str) -> list[tuple[str, np.ndarray]]:
    """The maps of an array as masks of one class each, in the order of the class file.

    There is a map for every entry, or for every entry but the background.

    Args:
        stack: (C, H, W) or (H, W, C) of 0 and one other value.
        name: of the file, for messages.

    Raises:
        UserError: another reading of the array is possible, or none.
    """
    entries = list(class_map.names)
    background = [entry for entry in entries if class_map.names[entry] == class_map.background][:1]
    objects = [entry for entry in entries if entry not in background]
    of_length = {len(objects): objects, len(entries): entries}
    what = f"{name} holds an array of {'×'.join(map(str, stack.shape))} with the values 0 and {_other(stack)}"
    axes = [axis for axis in (0, 2) if stack.shape[axis] in of_length]
    if not axes:
        raise UserError(
            f"{what}, which is no mask per class: {class_map.path} has {len(entries)} entries; write one for each map, "
            "in their order, and one with `background: true` if pixels of none are the background, or "
            f"{SAVE_NUMBERS}."
        )
    if len(axes) > 1:
        raise UserError(f"{what}, whose first or last axis may be the classes: {SAVE_NUMBERS}.")
    maps = np.moveaxis(stack != 0, axes[0], 0)
    if len(maps) in COLOR_CHANNELS and _other(stack) != 1:
        raise UserError(f"{what}, which may be colours or a mask per class: {SAVE_NUMBERS}.")
    chosen = of_length[len(maps)]
    bare = int((~maps.any(axis=0)).sum())
    if bare and background and chosen is entries:
        raise UserError(
            f"{what}, a mask per class, but {bare} pixels are in none of them, not even in that of '{background[0]}': "
            f"set every pixel in one of them, or {SAVE_NUMBERS} (255 where it does not count)."
        )
    return list(zip(chosen, maps))


def unstack_numbers(stack: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of the map that each pixel is set in, as long as the classes are unknown. The shorter one of the first
    and the last axis counts the maps.

    Returns:
        numbers (H, W) int32: from 0, or from 1 where pixels are in none, which are 0; and how many are in none.
    """
    maps = np.moveaxis(stack != 0, 0 if stack.shape[0] <= stack.shape[2] else 2, 0)
    numbers = maps.argmax(axis=0).astype(np.int32)
    covered = maps.any(axis=0)
    bare = int((~covered).sum())
    return (np.where(covered, numbers + 1, 0).astype(np.int32) if bare else numbers), bare


def _other(stack: np.ndarray) -> int:
    """The value beside 0."""
    return int(stack.max()) or 1
