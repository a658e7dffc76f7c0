"""Checkpoints that hold everything a run needs to go on, written atomically and read without running code."""

import logging
import os
import random
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from hiervl.errors import UserError

from .resume_check import check_resumed_config

logger = logging.getLogger(__name__)

BEST = "model_best.pth"
TEMPORARY = ".tmp"
# How the names begin that a training writes, first as temporary files.
WRITTEN = ("model_", "last_checkpoint", "results.json", "health.json", "run.json", "report", "predictions_")
PERIODIC = re.compile(r"model_\d{7}\.pth")


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
        self.resumed_run: Optional[str] = None  # identity of the run of the checkpoint that was resumed
        self._is_resuming, self._config = False, ""

    def save(self, name: str, is_latest: bool = True, **kwargs: Any) -> None:
        """Write ``{name}.pth`` under ``save_dir``; ``is_latest``: and remember it as the one to resume from.

        Raises:
            OSError: it cannot be written, for example because the disk is full; older checkpoints are untouched.
        """
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
        """Remember which file was saved last; for people and Detectron2, :meth:`resume` looks for itself."""
        name = last_filename_basename.encode()
        _write_atomically(Path(self.save_dir) / "last_checkpoint", lambda file: file.write(name))

    def resume(self, run: Optional[str], config: str) -> bool:
        """Load the newest whole checkpoint of a run from ``save_dir``; broken ones are named and passed over.

        Args:
            run: the run's identity; checkpoints of another run are passed over. None: any run's will do.
            config: of the run that goes on, as YAML; compared with the one of the checkpoint.

        Returns:
            False if there is none.

        Raises:
            UserError: the checkpoint was written with settings that cannot be changed on the way.
        """
        chosen = comm.all_gather(self._newest_whole(run) if comm.is_main_process() else None)[0]
        if chosen is None:
            return False
        logger.info("Resuming from %s", chosen)
        self._is_resuming, self._config = True, config
        try:
            self.load(chosen)
        finally:
            self._is_resuming = False
        return True

    def _newest_whole(self, run: Optional[str]) -> Optional[str]:
        for path in checkpoints_by_age(self.save_dir):
            try:
                checkpoint = read_checkpoint(str(path))
            except UserError as error:
                logger.warning("Passing over a broken checkpoint: %s", error)
                continue
            if "trainer" not in checkpoint or (run is not None and checkpoint.get("run") not in (run, None)):
                continue
            return str(path)
        return None

    def load(self, path: str, checkpointables: List[str] = None) -> Dict[str, Any]:
        """As fvcore's, with errors in one sentence."""
        if path and not os.path.isfile(path):
            raise UserError(f"there is no checkpoint at '{path}' (MODEL.WEIGHTS).")
        try:
            return super().load(path, checkpointables)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"'{path}' was written with other settings than the config has ({' '.join(str(error).split())[:200]}); "
                "resume with the config.yaml that lies beside it."
            ) from error

    def _load_file(self, f: str) -> Dict[str, Any]:
        checkpoint = read_checkpoint(f)
        _check_classes(checkpoint, self.model.class_names, f, must_be_equal=self._is_resuming)
        if self._is_resuming:
            self.resumed_run = checkpoint.get("run")
            check_resumed_config(checkpoint.get("config", ""), self._config, f)
        return checkpoint

    def _load_model(self, checkpoint: Dict[str, Any]):
        """As fvcore's, but a resumed run takes all weights or none."""
        incompatible = super()._load_model(checkpoint)
        odd = [*incompatible.missing_keys, *incompatible.unexpected_keys]
        odd += [name for name, *_ in incompatible.incorrect_shapes]
        if self._is_resuming and odd:
            raise ValueError(f"{len(odd)} weights do not fit, among them {odd[0]}")
        return incompatible


def read_checkpoint(path: str) -> Dict[str, Any]:
    """Contents of a checkpoint, tensors on the CPU.

    Raises:
        UserError: the file is missing, broken, holds more than tensors and plain values, or is no HierVL checkpoint.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no checkpoint at '{path}'.")
    try:
        _check_sums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError … for broken or unsafe files
        raise UserError(
            f"'{path}' is not a readable checkpoint of tensors and plain values: it is damaged, of another program, "
            "or carries code, which is not run."
        ) from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise UserError(f"'{path}' is not a HierVL checkpoint: it has no entry 'model'.")
    return checkpoint


def checkpoints_by_age(folder: str) -> List[Path]:
    """The files of a folder that a run may go on from, newest first."""
    found = [path for path in Path(folder).glob("model_*.pth") if path.name != BEST]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _check_sums(path: str) -> None:
    """PyTorch writes checkpoints as zip archives with a sum over every tensor, but does not look at it on reading."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its part {damaged} is damaged")


def load_network(network: nn.Module, path: str, which: str) -> None:
    """Load the weights of the "teacher" or the "student" of a checkpoint into a network for evaluation.

    Raises:
        UserError: as :func:`read_checkpoint`; the classes or the architecture differ.
    """
    load_weights(network, read_checkpoint(path), path, which)


def load_weights(network: nn.Module, checkpoint: Dict[str, Any], path: str, which: str) -> None:
    """As :func:`load_network`, from what :func:`read_checkpoint` gave."""
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


def _check_classes(
    checkpoint: Dict[str, Any], class_names: List[str], path: str, must_be_equal: bool = False
) -> None:
    saved = checkpoint.get("class_names")
    if saved is None:
        return
    if len(saved) != len(class_names):
        raise UserError(
            f"'{path}' was trained on {len(saved)} classes ({', '.join(saved[:4])}, …) but the config has "
            f"{len(class_names)} ({', '.join(class_names[:4])}, …): use the config and dataset it was trained with."
        )
    if list(saved) != list(class_names):
        if must_be_equal:
            other = next(pair for pair in zip(saved, class_names) if pair[0] != pair[1])
            raise UserError(
                f"'{path}' was trained on a class '{other[0]}' where the config has '{other[1]}': resume with the "
                "classes it was trained with, or start anew with it as MODEL.WEIGHTS."
            )
        logger.warning("%s was trained with other class names: %s.", path, ", ".join(saved))


def _write_atomically(path: Path, write) -> None:
    """Write beside the file, flush to the disk, then rename: a reader never sees half a file.

    Raises:
        OSError: whatever kept it from being written; nothing is left behind.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # PyTorch's, when its writer could not write
            raise OSError(getattr(error, "errno", None), str(error)) from error
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """The new name reaches the disk, too. Some network drives do not offer it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        pass


def remove_unfinished(folder: str) -> None:
    """Remove what a killed run was writing."""
    for path in Path(folder).glob("*" + TEMPORARY):
        if path.name.startswith(WRITTEN):
            path.unlink(missing_ok=True)


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
        # Not is_available(): a run on the CPU would take memory of a GPU that it does not use.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def _restore_random_state(state: Dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
