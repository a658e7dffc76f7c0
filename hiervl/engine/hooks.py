"""Detectron2 hooks: what the trainer does around its iterations."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from fvcore.common.history_buffer import HistoryBuffer

from hiervl.utils.checkpoint_file import checkpoints_by_age
from hiervl.utils.errors import UserError
from hiervl.utils.program import shell_command
from hiervl.visualization.report import write_report

from .checkpoint import PERIODIC, RandomState, SegmentationCheckpointer, remove_unfinished
from .interruption import StopRequest

logger = logging.getLogger(__name__)


class PeriodicCheckpoints(HookBase):
    """Save every ``period`` iterations and at the end. Keep the newest two files.

    If a checkpoint cannot be written, training goes on and the next one is tried at the next interval. Only the last
    one must succeed.
    """

    keep = 2

    def __init__(self, checkpointer: SegmentationCheckpointer, random_state: RandomState, period: int):
        self.checkpointer = checkpointer
        self.random_state = random_state
        self.period = period
        self._saved: list[Path] = []

    def before_train(self) -> None:
        """Take over the files that this run saved before it was interrupted."""
        if not comm.is_main_process():
            return
        folder = self.checkpointer.save_dir
        remove_unfinished(folder)
        if self.trainer.start_iter:
            found = [path for path in checkpoints_by_age(folder) if PERIODIC.fullmatch(path.name)]
            self._saved = found[::-1]

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        is_last = next_iter == self.trainer.max_iter
        if is_last or (self.period > 0 and next_iter % self.period == 0):
            self.save("model_final" if is_last else "", must_succeed=is_last)

    def save_alone(self) -> None:
        """Save without waiting for other processes, which may be at another point. Only the main process saves."""
        if comm.get_world_size() == 1:
            self.save()
        elif comm.is_main_process():
            with contextlib.suppress(OSError):
                self.checkpointer.save(f"model_{self.trainer.iter:07d}")

    def save_before_failing(self) -> Path | None:
        """Save what the iterations before this one have made, which fails; to be called when it left no trace.

        Returns:
            The checkpoint to go on from; None: there is nothing to save yet, this is not the main process, or the disk
            is full.
        """
        iteration = self.trainer.iter
        if not comm.is_main_process() or iteration <= self.trainer.start_iter:
            return None
        self.trainer.iter = iteration - 1  # the last one that is whole: a resumed run begins with this one
        try:
            path = Path(self.checkpointer.save_dir) / f"model_{self.trainer.iter:07d}.pth"
            if path not in self._saved:
                self.save_alone()
            return path if path.is_file() else None
        finally:
            self.trainer.iter = iteration

    def save(self, name: str = "", must_succeed: bool = False) -> None:
        """Save the state after this iteration. All processes must call it.

        Raises:
            UserError: ``must_succeed`` is set, but it fails.
        """
        self.random_state.collect()
        is_periodic = not name
        name = name or f"model_{self.trainer.iter:07d}"
        try:
            self.checkpointer.save(name)
        except OSError as error:
            last = next(iter(checkpoints_by_age(self.checkpointer.save_dir)), None)
            problem = (
                f"the checkpoint after iteration {self.trainer.iter} could not be written to "
                f"{self.checkpointer.save_dir} ({error.strerror or error}); the last good one is {last or 'none'}"
            )
            if must_succeed:
                raise UserError(f"{problem}: free some disk space and continue with --resume.") from error
            logger.error("%s. Training goes on and tries again at the next interval.", problem)
            return
        if comm.is_main_process() and is_periodic:
            path = Path(self.checkpointer.save_dir) / f"{name}.pth"
            self._saved = [*(other for other in self._saved if other != path), path]
            for stale in self._saved[: -self.keep]:
                stale.unlink(missing_ok=True)
            self._saved = self._saved[-self.keep :]


class StopOnRequest(HookBase):
    """Save and end the loop after the iteration in which a signal arrived. Runs after all other hooks."""

    def __init__(self, request: StopRequest, checkpoints: PeriodicCheckpoints):
        self.request = request
        self.checkpoints = checkpoints

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter or not self.request.is_made():
            return
        self.checkpoints.save(must_succeed=True)
        raise Stopped(self.trainer.iter)


class Stopped(BaseException):
    """The training was asked to stop and has saved. Not an Exception, because Detectron2 would log it as an error."""

    def __init__(self, iteration: int):
        super().__init__(f"stopped after iteration {iteration}")
        self.iteration = iteration


class ShortHistory(HookBase):
    """Keeps only the last values of every logged figure. Detectron2 keeps a million, which costs kilobytes per
    iteration."""

    length = 1000  # Detectron2 estimates the remaining time from this many

    def before_train(self) -> None:
        self.trainer.storage.histories().default_factory = functools.partial(HistoryBuffer, self.length)


class TolerantWriter(PeriodicWriter):
    """Writes the log. If the disk is full, training goes on without it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._complained = False

    def after_step(self) -> None:
        with self._tolerance():
            super().after_step()

    def after_train(self) -> None:
        with self._tolerance():
            super().after_train()

    @contextlib.contextmanager
    def _tolerance(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._complained:
                logger.error("The log cannot be written (%s); training goes on without it.", error.strerror or error)
            self._complained = True


class PeriodicEvaluation(HookBase):
    """Evaluate every ``period`` iterations and after the last one, before that iteration's checkpoint is written.

    Detectron2's ``EvalHook`` runs its last evaluation after the last checkpoint, which would then lack calibrated
    values. If an evaluation fails, the trained state is saved first.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict], checkpoints: "PeriodicCheckpoints"):
        self.period = period
        self.evaluate = evaluate
        self.checkpoints = checkpoints

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter != self.trainer.max_iter and (self.period <= 0 or next_iter % self.period):
            return
        try:
            results = self.evaluate()
        except Exception:
            logger.error("The evaluation after iteration %d failed; the trained state is saved.", self.trainer.iter)
            self.checkpoints.save_alone()
            raise
        if results:
            self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        comm.synchronize()  # evaluation may take longer in some processes


def best_metric(test_datasets: Sequence[str]) -> str:
    """Name of the scalar that chooses the best checkpoint: mIoU on the first test dataset."""
    return "sem_seg/mIoU" if len(test_datasets) < 2 else f"{test_datasets[0]}/sem_seg/mIoU"


class RunReport(HookBase):
    """Write the run's ``report.html`` after evaluations and after the log is written. A failure does not end
    training."""

    def __init__(self, folder: str, period: int):
        self.folder = folder
        self.period = period

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter != self.trainer.max_iter and (self.period <= 0 or next_iter % self.period):
            return
        try:
            logger.info("Report: %s", write_report(self.folder))
        except UserError as error:  # a full disk
            logger.error("The report is left out: %s", error)
        except Exception:
            logger.exception("The report could not be written; `%s` tries again.", shell_command("report", self.folder))


class BestCheckpoint(HookBase):
    """Keep the weights of the best evaluation as ``model_best.pth``. Runs after :class:`PeriodicEvaluation`."""

    def __init__(self, checkpointer: SegmentationCheckpointer, metric: str = "sem_seg/mIoU"):
        self.checkpointer = checkpointer
        self.metric = metric
        self.best: float | None = None

    def after_step(self) -> None:
        latest = self.trainer.storage.latest().get(self.metric)
        if latest is None:
            return
        value, iteration = latest
        if iteration != self.trainer.iter or math.isnan(value):
            return
        if self.best is None or value > self.best:
            try:
                self.checkpointer.save("model_best", is_latest=False, **{self.metric: float(value)})
            except OSError as error:
                logger.error("model_best.pth could not be written (%s).", error.strerror or error)
                return
            self.best = float(value)
            logger.info("Best %s so far: %.2f", self.metric, value)

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.best = state["best"]
