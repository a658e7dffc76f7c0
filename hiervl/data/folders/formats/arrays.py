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
    """The map of whole numbers (H, W) in a file: int32. NaN becomes 255, which is ignored.

    Args:
        variable: name of the map, such as ``LabelMap`` or ``GTcls.Segmentation``; "": the only one.

    Raises:
        UserError: the file cannot be read, or has no map of whole numbers, or several.
    """
    try:
        content = _load(path)
        found = dict(_maps(content))
    except UserError:
        raise
    except Exception as error:  # NumPy and SciPy raise many kinds of errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as an array ({reason}): save it again.") from None
    if variable:
        found = {name: values for name, values in found.items() if name == variable}
    if len(found) != 1:
        names = ", ".join(f"{name} {values.shape[0]}×{values.shape[1]}" for name, values in found.items())
        what = f"several maps of numbers ({names}): name one in DATASET.MASK_VARIABLE" if found else (
            f"no map of numbers (height, width){f' of the name {variable}' if variable else ''}{_deeper(content)}"
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
            return {name: archive[name] for name in archive.files}
    from scipy.io import loadmat  # a slow import that few need

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loadmat(path, squeeze_me=False, struct_as_record=True)
    except NotImplementedError:
        raise UserError(f"{path} is a MATLAB file of version 7.3: save it in MATLAB with '-v7'.") from None


def _deeper(content: dict[str, Any]) -> str:
    """For a sentence that says that there is no map: an array with a channel per class, which it holds instead."""
    deep = {name: value for name, value in content.items() if isinstance(value, np.ndarray) and value.ndim == 3}
    for name, value in deep.items():
        axis = int(np.argmin(value.shape))
        size = "×".join(map(str, value.shape))
        return f", but '{name}' of {size}: if that is a channel per class, save the class of each pixel, argmax({axis})"
    return ""


def _maps(content: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in content.items():
        if not name.startswith("__"):
            yield from _maps_in(name, value, DEPTH)


def _maps_in(name: str, value: Any, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """Maps in an array, or in the fields of a structure."""
    if not isinstance(value, np.ndarray) or depth == 0:
        return
    if value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            yield from _maps_in(f"{name}.{field}", value.flat[0][field], depth - 1)
    elif value.dtype.kind in "biuf":
        if value.ndim == 3 and 1 in (value.shape[0], value.shape[2]):
            value = value.reshape([length for place, length in enumerate(value.shape) if length > 1 or place == 1])
        if value.ndim == 2 and min(value.shape) > 1 and value.size <= MAX_PIXELS:
            yield name, value
