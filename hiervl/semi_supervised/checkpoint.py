"""Checkpoints that hold everything a run needs to go on, written atomically and read without running code."""

import logging
import os
import random
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from hiervl.errors import UserError

logger = logging.getLogger(__name__)


class SegmentationCheckpointer(Checkpointer):
    """fvcore's checkpointer with three differences: a file appears under its name only when it is whole; loading
    admits tensors and plain values alone, never pickled code; and the class names travel along and are checked."""

    def __init__(self, model: nn.Module, save_dir: str = "", *, extra: Dict[str, Any] = None, **checkpointables: Any):
        """
        Args:
            model: the student; its ``class_names`` are saved and compared.
            extra: plain values that are saved with every checkpoint.
            checkpointables: objects with ``state_dict()`` and ``load_state_dict()``.
        """
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.extra = {"class_names": list(model.class_names), **(extra or {})}

    def save(self, name: str, is_latest: bool = True, **kwargs: Any) -> None:
        """Write ``{name}.pth`` under ``save_dir``; ``is_latest``: and remember it as the one to resume from."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **self.extra, **kwargs}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        _write_atomically(path, lambda file: torch.save(data, file))
        if is_latest:
            self.tag_last_checkpoint(path.name)
        logger.info("Saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Remember which file ``--resume`` takes."""
        name = last_filename_basename.encode()
        _write_atomically(Path(self.save_dir) / "last_checkpoint", lambda file: file.write(name))

    def load(self, path: str, checkpointables: List[str] = None) -> Dict[str, Any]:
        """As fvcore's, with errors in one sentence."""
        if path and not os.path.isfile(path):
            raise UserError(f"there is no checkpoint at '{path}' (MODEL.WEIGHTS, or the run's last_checkpoint).")
        try:
            return super().load(path, checkpointables)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"'{path}' was written with other settings than the config has ({' '.join(str(error).split())[:200]}); "
                "resume with the config.yaml that lies beside it."
            ) from error

    def _load_file(self, f: str) -> Dict[str, Any]:
        checkpoint = read_checkpoint(f)
        _check_classes(checkpoint, self.model.class_names, f)
        return checkpoint


def read_checkpoint(path: str) -> Dict[str, Any]:
    """Contents of a checkpoint, tensors on the CPU.

    Raises:
        UserError: the file is missing, broken, holds more than tensors and plain values, or is no HierVL checkpoint.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no checkpoint at '{path}'.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError … for broken or unsafe files
        raise UserError(
            f"'{path}' is not a readable checkpoint of tensors and plain values: it is damaged, of another program, "
            "or carries code, which is not run."
        ) from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise UserError(f"'{path}' is not a HierVL checkpoint: it has no entry 'model'.")
    return checkpoint


def load_network(network: nn.Module, path: str, which: str) -> None:
    """Load the weights of the "teacher" or the "student" of a checkpoint into a network for evaluation.

    Raises:
        UserError: as :func:`read_checkpoint`; the classes or the architecture differ.
    """
    checkpoint = read_checkpoint(path)
    _check_classes(checkpoint, network.class_names, path)
    has_teacher = which == "teacher" and bool(checkpoint.get("teacher"))  # empty: the student taught itself
    weights = checkpoint["teacher"] if has_teacher else checkpoint["model"]
    weights = {key.removeprefix("network."): value for key, value in weights.items()} if has_teacher else weights
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        example = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"'{path}' holds another architecture than the config describes ({example}); use the config.yaml that "
            "lies beside the checkpoint."
        ) from error


def _check_classes(checkpoint: Dict[str, Any], class_names: List[str], path: str) -> None:
    saved = checkpoint.get("class_names")
    if saved is None:
        return
    if len(saved) != len(class_names):
        raise UserError(
            f"'{path}' was trained on {len(saved)} classes ({', '.join(saved[:4])}, …) but the config has "
            f"{len(class_names)} ({', '.join(class_names[:4])}, …): use the config and dataset it was trained with."
        )
    if list(saved) != list(class_names):
        logger.warning("%s was trained with other class names: %s.", path, ", ".join(saved))


def _write_atomically(path: Path, write) -> None:
    """Write beside the file, flush to the disk, then rename: a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class RandomState:
    """The random generators of all processes, as something that can be checkpointed."""

    def __init__(self) -> None:
        self._of_processes: List[Dict[str, Any]] = []

    def collect(self) -> None:
        """Gather the states; to be called by all processes before the main one saves."""
        self._of_processes = comm.all_gather(_random_state())

    def state_dict(self) -> Dict[str, Any]:
        return {"processes": self._of_processes}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Restore this process's generators; a process that the saved run did not have keeps its own."""
        if comm.get_rank() < len(state["processes"]):
            _restore_random_state(state["processes"][comm.get_rank()])


def _random_state() -> Dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def _restore_random_state(state: Dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
