"""What the trainer does around its iterations, as Detectron2 hooks."""

import logging
import math
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from .checkpoint import RandomState, SegmentationCheckpointer

logger = logging.getLogger(__name__)


class PeriodicCheckpoints(HookBase):
    """Save every ``period`` iterations and at the end, keep the newest two."""

    keep = 2

    def __init__(self, checkpointer: SegmentationCheckpointer, random_state: RandomState, period: int):
        self.checkpointer = checkpointer
        self.random_state = random_state
        self.period = period
        self._saved: List[Path] = []

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        is_last = next_iter == self.trainer.max_iter
        if not is_last and (self.period <= 0 or next_iter % self.period):
            return
        self.random_state.collect()
        name = "model_final" if is_last else f"model_{self.trainer.iter:07d}"
        self.checkpointer.save(name)
        if comm.is_main_process() and not is_last:
            self._saved.append(Path(self.checkpointer.save_dir) / f"{name}.pth")
            for path in self._saved[: -self.keep]:
                path.unlink(missing_ok=True)
            self._saved = self._saved[-self.keep :]


class PeriodicEvaluation(HookBase):
    """Evaluate every ``period`` iterations and after the last one, before that iteration's checkpoint is written.

    Detectron2's ``EvalHook`` runs its last evaluation after the last checkpoint, which then lacks what it calibrated.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict]):
        self.period = period
        self.evaluate = evaluate

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter != self.trainer.max_iter and (self.period <= 0 or next_iter % self.period):
            return
        results = self.evaluate()
        if results:
            self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        comm.synchronize()  # evaluation may take longer in one process than in another


def best_metric(test_datasets: Sequence[str]) -> str:
    """The scalar by which the best checkpoint is chosen: mIoU on the first of the test datasets."""
    return "sem_seg/mIoU" if len(test_datasets) < 2 else f"{test_datasets[0]}/sem_seg/mIoU"


class BestCheckpoint(HookBase):
    """Keep the weights of the best evaluation as ``model_best.pth``; runs after :class:`PeriodicEvaluation`."""

    def __init__(self, checkpointer: SegmentationCheckpointer, metric: str = "sem_seg/mIoU"):
        self.checkpointer = checkpointer
        self.metric = metric
        self.best: Optional[float] = None

    def after_step(self) -> None:
        latest = self.trainer.storage.latest().get(self.metric)
        if latest is None:
            return
        value, iteration = latest
        if iteration != self.trainer.iter or math.isnan(value):
            return
        if self.best is None or value > self.best:
            self.best = float(value)
            self.checkpointer.save("model_best", is_latest=False, **{self.metric: self.best})
            logger.info("Best %s so far: %.2f", self.metric, value)

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.best = state["best"]
