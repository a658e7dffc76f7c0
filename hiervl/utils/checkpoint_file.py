"""Write checkpoints completely, read them without running code, load their weights into a network. Needs no trainer."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from hiervl.utils.errors import UserError
from hiervl.utils.files import whole_file
from hiervl.utils.placeholder import NOT_READABLE, refuse_placeholder
from hiervl.utils.text import listed

logger = logging.getLogger(__name__)

BEST = "model_best.pth"


def read_checkpoint(path: str) -> dict[str, Any]:
    """Contents of a checkpoint, tensors on the CPU.

    Raises:
        UserError: the file is missing, broken, holds more than tensors and plain values, or is not a HierVL checkpoint.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no checkpoint at '{path}'.")
    try:
        _check_sums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError … for broken or unsafe files
        refuse_placeholder(path, "a checkpoint")
        if _is_text(path):
            raise UserError(
                f"'{path}' is a text file, not a checkpoint: name the checkpoint, such as model_final.pth."
            ) from None
        raise UserError(
            f"'{path}' is not a readable checkpoint of tensors and plain values: it is {NOT_READABLE}."
        ) from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise UserError(f"'{path}' is not a HierVL checkpoint: it has no entry 'model'.")
    return checkpoint


def _is_text(path: str) -> bool:
    """Whether a file begins as a text, such as a config does."""
    with open(path, "rb") as file:
        start = file.read(256).decode("utf-8", "ignore")
    return bool(start) and "".join(start.split()).isprintable()


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values. A reader never sees half a file, and the file is on disk when this returns.

    Raises:
        OSError: it cannot be written, for example because the disk is full; an older file is untouched.
    """
    with whole_file(path, durable=True) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # PyTorch's error if its writer could not write
            raise OSError(getattr(error, "errno", None), str(error)) from error


def checkpoints_by_age(folder: str) -> list[Path]:
    """The files in a folder from which a run may continue, newest first."""
    found = [path for path in Path(folder).glob("model_*.pth") if path.name != BEST]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _check_sums(path: str) -> None:
    """Check the checksums: PyTorch writes checkpoints as zip archives with one per tensor, but does not check them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its part {damaged} is damaged")


def load_network(network: Any, path: str, which: str) -> None:
    """Load the weights of the "teacher" or the "student" of a checkpoint into a network for evaluation.

    Raises:
        UserError: as :func:`read_checkpoint`, or the classes or the architecture differ.
    """
    load_weights(network, read_checkpoint(path), path, which)


def load_weights(network: Any, checkpoint: dict[str, Any], path: str, which: str) -> None:
    """As :func:`load_network`, from the result of :func:`read_checkpoint`."""
    check_classes(checkpoint, network.class_names, path)
    has_teacher = which == "teacher" and bool(checkpoint.get("teacher"))  # empty: the student was its own teacher
    weights = checkpoint["teacher"] if has_teacher else checkpoint.get("student", checkpoint["model"])
    weights = {key.removeprefix("network."): value for key, value in weights.items()} if has_teacher else weights
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        example = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"'{path}' holds another architecture than the config describes ({example}); use the config.yaml that "
            "lies beside the checkpoint."
        ) from error


def check_classes(checkpoint: dict[str, Any], class_names: list[str], path: str, must_be_equal: bool = False) -> None:
    saved = checkpoint.get("class_names")
    if saved is None:
        return
    if len(saved) != len(class_names):
        raise UserError(
            f"'{path}' was trained on {len(saved)} classes ({listed(saved)}) but the config has "
            f"{len(class_names)} ({listed(class_names)}): use the config and dataset it was trained with."
        )
    if list(saved) != list(class_names):
        if must_be_equal:
            other = next(pair for pair in zip(saved, class_names) if pair[0] != pair[1])
            raise UserError(
                f"'{path}' was trained on a class '{other[0]}' where the config has '{other[1]}': resume with the "
                "classes it was trained with, or start anew with it as MODEL.WEIGHTS."
            )
        logger.warning("%s was trained with other class names: %s.", path, ", ".join(saved))
