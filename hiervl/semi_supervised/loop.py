"""What happens in one iteration: micro-batches, mixed precision, clipping, the optimiser's step, the teacher's."""

import contextlib
import time
from typing import Any, Dict, Iterable, Iterator

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiervl.errors import UserError

from .step import SemiSupervisedStep

AMP_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class OptimisationLoop:
    """Runs the step on micro-batches and the optimiser on their summed gradients.

    It stands where Detectron2's ``DefaultTrainer`` has its ``SimpleTrainer``, as ``trainer._trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        accumulation: int = 1,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        max_gradient_norm: float = 0.0,
    ):
        """
        Args:
            model: the :class:`SemiSupervisedStep`, bare or inside ``DistributedDataParallel``.
            accumulation: micro-batches per optimiser step.
            amp, amp_dtype: mixed precision, and its number type ("bfloat16" or "float16").
            max_gradient_norm: over all parameters; 0: gradients are not clipped.
        """
        if amp_dtype not in AMP_TYPES:
            raise UserError(f"SOLVER.AMP.DTYPE is one of {', '.join(AMP_TYPES)}, not '{amp_dtype}'.")
        self.model = model
        self.step: SemiSupervisedStep = getattr(model, "module", model)
        self.optimizer = optimizer
        self.accumulation = accumulation
        self.max_gradient_norm = max_gradient_norm
        self.amp, self.amp_dtype = amp, AMP_TYPES[amp_dtype]
        self.device_type = self.step.student.device.type
        needs_scaling = amp and self.amp_dtype == torch.float16 and self.device_type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=needs_scaling)
        self.iter = 0
        self._batches: Iterator[Dict[str, Any]] = iter(())

    @classmethod
    def from_config(cls, cfg, model: nn.Module, optimizer: torch.optim.Optimizer) -> "OptimisationLoop":
        """``SOLVER.ACCUMULATION``, ``SOLVER.AMP`` and ``SOLVER.CLIP_GRADIENTS`` of the config."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if clip.ENABLED and clip.CLIP_TYPE != "full_model":
            raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is 'full_model' in HierVL, not '{clip.CLIP_TYPE}'.")
        return cls(
            model,
            optimizer,
            accumulation=cfg.SOLVER.ACCUMULATION,
            amp=cfg.SOLVER.AMP.ENABLED,
            amp_dtype=cfg.SOLVER.AMP.DTYPE,
            max_gradient_norm=clip.CLIP_VALUE if clip.ENABLED else 0.0,
        )

    def read_from(self, batches: Iterable[Dict[str, Any]]) -> None:
        """Take the micro-batches of the coming iterations from here."""
        self._batches = iter(batches)

    def run_step(self) -> None:
        """One optimiser step."""
        self.step.iteration = self.iter
        data_time, logged = 0.0, []
        for micro_batch in range(self.accumulation):
            start = time.perf_counter()
            batch = next(self._batches)
            data_time += time.perf_counter() - start
            logged.append(self._forward_backward(batch, is_last=micro_batch + 1 == self.accumulation))
        self._update(batch)
        self._log({name: float(np.mean([losses[name] for losses in logged])) for name in logged[0]}, data_time)

    def _forward_backward(self, batch: Dict[str, Any], is_last: bool) -> Dict[str, float]:
        """Add the gradients of a micro-batch; returns its losses."""
        holds_back = isinstance(self.model, DistributedDataParallel) and not is_last
        with self.model.no_sync() if holds_back else contextlib.nullcontext():
            with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp):
                losses = self.model(batch)
            values = read_losses(losses, batch, self.iter)
            self.scaler.scale(sum(losses.values()) / self.accumulation).backward()
        return values

    def _update(self, batch: Dict[str, Any]) -> None:
        """Clip, step, clear the gradients, let the teacher follow."""
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.max_gradient_norm or float("inf"))
        self.step.statistics["gradient_norm"] = norm
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the scaler itself skips such a step
            raise UserError(_not_finite("the gradient", batch, self.iter))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step.update_teacher()

    def _log(self, losses: Dict[str, float], data_time: float) -> None:
        """Losses and statistics, averaged over the processes, to Detectron2's storage."""
        values = {**losses, **{name: float(value) for name, value in self.step.statistics.items()}}
        gathered = comm.gather({**values, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(each["data_time"] for each in gathered))
        means = {name: float(np.mean([each[name] for each in gathered])) for name in values}
        storage.put_scalar("total_loss", sum(means[name] for name in losses))
        storage.put_scalars(**means)


def read_losses(losses: Dict[str, Tensor], batch: Dict[str, Any], iteration: int) -> Dict[str, float]:
    """The values of the losses, in one transfer from the device.

    Raises:
        UserError: one is not finite; names it, the iteration and the files of the batch.
    """
    values = dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist()))
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    if broken:
        raise UserError(_not_finite(", ".join(broken), batch, iteration))
    return values


def _not_finite(what: str, batch: Dict[str, Any], iteration: int) -> str:
    files = [item["file_name"] for items in batch.values() for item in items]
    return (
        f"training stopped at iteration {iteration}: {what} became infinite or NaN on the batch {', '.join(files)}; "
        "the last checkpoint is untouched. Lower SOLVER.BASE_LR, or switch SOLVER.AMP off."
    )
