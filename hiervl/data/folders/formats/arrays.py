"""Read masks that are saved as arrays: NumPy's ``.npy`` and ``.npz``, MATLAB's ``.mat``."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hiervl.data.loading.readers import MAX_PIXELS
from hiervl.utils.errors import UserError

ARRAY_SUFFIXES = (".npy", ".npz", ".mat")
DEPTH = 4  # how deep structures in a .mat file are searched


def read_array(path: Path, variable: str = "") -> np.ndarray:
    """The map of whole numbers (H, W) in a file: int32. NaN becomes 255, which is ignored. If there is none, the only
    array of three axes, if it holds two values, 0 and another one.

    Args:
        variable: name of the map, such as ``LabelMap`` or ``GTcls.Segmentation``; "": the only one.

    Raises:
        UserError: the file cannot be read, or has no map of whole numbers, or several.
    """
    try:
        content = _load(path)
        arrays = dict(_arrays(content))
    except UserError:
        raise
    except Exception as error:  # NumPy and SciPy raise many kinds of errors
        if _is_of_objects(error):
            raise UserError(
                f"{path} holds Python objects, which are not read because they could run code: save the mask alone, as "
                "an array of whole numbers."
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as an array ({reason}): save it again.") from None
    if variable:
        arrays = {name: values for name, values in arrays.items() if name == variable}
    found = {name: values for name, values in arrays.items() if values.ndim == 2}
    stacks = {name: values for name, values in arrays.items() if values.ndim == 3}
    if not found and len(stacks) == 1 and _has_two_values(next(iter(stacks.values()))):
        found = stacks
    if len(found) != 1:
        names = ", ".join(f"{name} {values.shape[0]}×{values.shape[1]}" for name, values in found.items())
        what = f"several maps of numbers ({names}): name one in DATASET.MASK_VARIABLE" if found else (
            f"no map of numbers (height, width){f' of the name {variable}' if variable else ''}{_deeper(stacks)}"
        )  # fmt: skip
        raise UserError(f"{path} holds {what}.")
    return whole_numbers(next(iter(found.values())), str(path))


def whole_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers of any type as int32.

    Raises:
        UserError: some are not whole numbers, or are too large.
    """
    if values.dtype.kind == "f":
        unknown = np.isnan(values)
        values = np.where(unknown, 255, values)
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            wrong = values[values != np.round(values)]
            raise UserError(
                f"{name} holds numbers that are not classes, such as {wrong.flat[0] if wrong.size else 'infinity'}: "
                "save it with one whole number per pixel."
            )
    if values.size and (values.max() > np.iinfo(np.int32).max or values.min() < np.iinfo(np.int32).min):
        raise UserError(f"{name} holds numbers that are too large for classes.")
    return values.astype(np.int32)


def _load(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"array": np.load(path, allow_pickle=False, mmap_mode="r")}
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return _numbers_in(archive)
    from scipy.io import loadmat  # a slow import that few need

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loadmat(path, squeeze_me=False, struct_as_record=True)
    except NotImplementedError:
        raise UserError(f"{path} is a MATLAB file of version 7.3: save it in MATLAB with '-v7'.") from None


def _numbers_in(archive: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    """The arrays of an archive, without those of Python objects, unless there are no others."""
    found: dict[str, np.ndarray] = {}
    refused: ValueError | None = None
    for name in archive.files:
        try:
            found[name] = archive[name]
        except ValueError as error:
            if not _is_of_objects(error):
                raise
            refused = error
    if refused and not found:
        raise refused
    return found


def _is_of_objects(error: Exception) -> bool:
    """Whether NumPy refuses to read an array of Python objects."""
    return isinstance(error, ValueError) and ("allow_pickle" in str(error) or "Python objects" in str(error))


def _has_two_values(values: np.ndarray) -> bool:
    """Whether an array holds 0 and one other value at most, above 0."""
    highest = values.max()
    return bool(highest >= 0 and ((values == 0) | (values == highest)).all())


def _deeper(stacks: dict[str, np.ndarray]) -> str:
    """For a sentence that says that there is no map: an array of three axes, which it holds instead."""
    for name, value in stacks.items():
        axis = int(np.argmin(value.shape))
        size = "×".join(map(str, value.shape))
        return (
            f", but '{name}' of {size} with values from {value.min():g} to {value.max():g}: if that is a channel per "
            f"class, save the class of each pixel, argmax({axis}); if it is a picture, save it as PNG"
        )
    return ""


def _arrays(content: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in content.items():
        if not name.startswith("__"):
            yield from _arrays_in(name, value, DEPTH)


def _arrays_in(name: str, value: Any, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of numbers of two or three axes in an array, or in the fields of a structure."""
    if not isinstance(value, np.ndarray) or depth == 0:
        return
    if value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            yield from _arrays_in(f"{name}.{field}", value.flat[0][field], depth - 1)
    elif value.dtype.kind in "biuf":
        if value.ndim == 3 and 1 in (value.shape[0], value.shape[2]):
            value = value.reshape([length for place, length in enumerate(value.shape) if length > 1 or place == 1])
        if value.ndim in (2, 3) and min(value.shape) > 1 and value.size <= MAX_PIXELS:
            yield name, value
