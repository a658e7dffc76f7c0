"""Checkpoints with everything that a run needs to continue, written atomically and read without running code."""

import logging
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer

from hiervl.utils.checkpoint_file import check_classes, checkpoints_by_age, read_checkpoint, write_checkpoint
from hiervl.utils.errors import UserError
from hiervl.utils.files import TEMPORARY, write_text

from .resume_check import check_resumed_config
from .start_weights import carry_over_classes, describe_change

logger = logging.getLogger(__name__)

# How the names of files begin that a training first writes as temporary files.
WRITTEN = (
    "model_", "last_checkpoint", "config.yaml", "results.json", "health.json", "run.json", "metrics.csv", "report",
    "predictions_", "broken_step_",
)  # fmt: skip
MOST_NAMED = 5  # how many weights a sentence names
PERIODIC = re.compile(r"model_\d{7}\.pth")


class SegmentationCheckpointer(Checkpointer):
    """fvcore's checkpointer with three differences: a file gets its name only when it is complete; loading accepts only
    tensors and plain values, never pickled code; class names are saved and checked.

    In the file, "model" is the evaluated network, as Detectron2's ``DetectionCheckpointer`` and ``DefaultPredictor``
    expect. If that is the teacher, "student" is the trained network. In files without "student", "model" is also the
    trained network.
    """

    def __init__(
        self,
        model: Any,
        save_dir: str = "",
        *,
        evaluated: Any = None,
        extra: dict[str, Any] | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: the student, which is loaded; its ``class_names`` are saved and compared.
            evaluated: the network that is evaluated, of the same architecture; None: the student.
            extra: plain values that are saved with every checkpoint.
            checkpointables: objects with ``state_dict()`` and ``load_state_dict()``.
        """
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.evaluated = model if evaluated is None else evaluated
        self.extra = {"class_names": list(model.class_names), **(extra or {})}
        self.resumed_run: str | None = None  # identity of the run of the checkpoint that was resumed
        self._is_resuming, self._config = False, ""

    def save(self, name: str, is_latest: bool = True, **kwargs: Any) -> None:
        """Write ``{name}.pth`` into ``save_dir``. ``is_latest``: note it as the checkpoint to resume from.

        Raises:
            OSError: it cannot be written, for example because the disk is full; older checkpoints are untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.evaluated.state_dict(), **self.extra, **kwargs}
        if self.evaluated is not self.model:  # tensors shared with "model" are written once
            data["student"] = self.model.state_dict()
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        write_checkpoint(path, data)
        if is_latest:
            self.tag_last_checkpoint(path.name)
        logger.info("Saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file was saved last, for people and Detectron2. :meth:`resume` searches by itself."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename, durable=True)

    def resume(self, run: str | None, config: str) -> bool:
        """Load the newest intact checkpoint of a run from ``save_dir``. Broken ones are logged and skipped.

        Args:
            run: the run's identity; checkpoints of other runs are skipped. None: any run.
            config: of the continued run, as YAML; it is compared with the checkpoint's.

        Returns:
            False if there is none.

        Raises:
            UserError: the checkpoint was written with settings that cannot change during a run.
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

    def _newest_whole(self, run: str | None) -> str | None:
        for path in checkpoints_by_age(self.save_dir):
            try:
                checkpoint = read_checkpoint(str(path))
            except UserError as error:
                logger.warning("Skipping a broken checkpoint: %s", error)
                continue
            if "trainer" not in checkpoint or (run is not None and checkpoint.get("run") not in (run, None)):
                continue
            return str(path)
        return None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As in fvcore, with errors in one sentence."""
        if path and not os.path.isfile(path):
            raise UserError(f"there is no checkpoint at '{path}' (MODEL.WEIGHTS).")
        try:
            return super().load(path, checkpointables)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"'{path}' was written with other settings than the config has ({' '.join(str(error).split())[:200]}); "
                "resume with the config.yaml that lies beside it."
            ) from error

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(f)
        checkpoint["model"] = checkpoint.pop("student", checkpoint["model"])
        if self._is_resuming:
            check_classes(checkpoint, self.model.class_names, f, must_be_equal=True)
            self.resumed_run = checkpoint.get("run")
            check_resumed_config(checkpoint.get("config", ""), self._config, f)
        elif list(checkpoint.get("class_names", self.model.class_names)) != self.model.class_names:
            self._adapt_classes(checkpoint, f)
        return checkpoint

    def _adapt_classes(self, checkpoint: dict[str, Any], path: str) -> None:
        """Adapt weights to other classes. Queries come from text, so only the linear head needs new rows."""
        saved, names = checkpoint["class_names"], self.model.class_names
        carry_over_classes(checkpoint["model"], self.model.state_dict(), self.model.class_rows, saved, names)
        logger.warning(
            "Starting from %s, which was trained on other classes (%s).", path, describe_change(saved, names)
        )

    def _load_model(self, checkpoint: dict[str, Any]):
        """As in fvcore, but a resumed run loads all weights or none."""
        incompatible = super()._load_model(checkpoint)
        # weights of another shape are missing ones, too
        missing = list(dict.fromkeys([
            *(name for name, *_ in incompatible.incorrect_shapes), *incompatible.missing_keys
        ]))  # fmt: skip
        unused = incompatible.unexpected_keys
        odd = [*missing, *unused]
        if self._is_resuming and odd:
            raise ValueError(f"{len(odd)} weights do not fit, among them {odd[0]}")
        if missing:
            logger.warning(
                "%d of the network's %d weights are not in the checkpoint, or have another shape there, and start "
                "anew, among them %s.",
                len(missing), len(self.model.state_dict()), ", ".join(missing[:MOST_NAMED]),
            )  # fmt: skip
        if unused:
            logger.warning(
                "%d weights of the checkpoint are not in the network and are not used, among them %s.",
                len(unused), ", ".join(unused[:MOST_NAMED]),
            )  # fmt: skip
        return incompatible


def remove_unfinished(folder: str) -> None:
    """Remove unfinished files of a killed run."""
    for path in Path(folder).glob("*" + TEMPORARY):
        if path.name.startswith(WRITTEN):
            path.unlink(missing_ok=True)


class RandomState:
    """The random generators of all processes, for checkpoints."""

    def __init__(self) -> None:
        self._process_states: list[dict[str, Any]] = []

    def collect(self) -> None:
        """Gather the states. All processes must call it before the main one saves."""
        self._process_states = comm.all_gather(_random_state())

    def state_dict(self) -> dict[str, Any]:
        return {"processes": self._process_states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this process's generators. A process that the saved run did not have keeps its own."""
        if comm.get_rank() < len(state["processes"]):
            _restore_random_state(state["processes"][comm.get_rank()])


def _random_state() -> dict[str, Any]:
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    return {
        "torch": torch.get_rng_state(),
        # Not is_available(): a run on the CPU would take memory on a GPU that it does not use.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
