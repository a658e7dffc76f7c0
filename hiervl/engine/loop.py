"""One iteration: micro-batches, mixed precision, clipping, step of the optimiser, update of the teacher."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiervl.data.loading.streams import LABELED, UNLABELED, mirrored_share_of, share_of
from hiervl.modeling.text_encoder import weights_changed
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.errors import UserError
from hiervl.utils.recompute import RECOMPUTABLE

from .gradient_norms import GradientNorms
from .replay import StateBefore

logger = logging.getLogger(__name__)

AMP_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# How many skipped steps are written to files; each file holds the network's weights.
MAX_DUMPS = 3

# For float16. The scale is halved with every gradient that overflows; if this one overflows too, it is not the cause.
SMALLEST_SCALE = 1.0

Batch = dict[str, list[dict]]


class MicroBatchLosses(NamedTuple):
    """The result of one micro-batch, or of a part of one."""

    values: dict[str, float]
    files: list[str]

    @property
    def broken(self) -> list[str]:
        """Losses that are infinite or NaN."""
        return [name for name, value in self.values.items() if not np.isfinite(value)]


def amp_type(name: str) -> torch.dtype:
    """The number type that ``SOLVER.AMP.DTYPE`` names."""
    if name not in AMP_TYPES:
        raise UserError(f"SOLVER.AMP.DTYPE is one of {', '.join(AMP_TYPES)}, not '{name}'.")
    return AMP_TYPES[name]


class LossScaler(torch.amp.GradScaler):
    """PyTorch's scaler; a run that had none so far can also continue with it."""

    def load_state_dict(self, state: dict) -> None:
        if state:
            super().load_state_dict(state)


class OptimizationLoop:
    """Runs the step on micro-batches and the optimiser on their summed gradients.

    It replaces the ``SimpleTrainer`` of Detectron2's ``DefaultTrainer``, as ``trainer._trainer``.
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
        max_skipped_steps: int = 0,
        halve_on_out_of_memory: bool = False,
        dump: Callable[..., str] | None = None,
    ):
        """
        Args:
            model: the :class:`SemiSupervisedStep`, perhaps inside ``DistributedDataParallel``.
            accumulation: micro-batches per optimiser step.
            amp, amp_dtype: mixed precision, and its number type ("bfloat16" or "float16").
            max_gradient_norm: norm over all parameters; 0: gradients are not clipped.
            max_skipped_steps: how many steps with an infinite or NaN loss or gradient are skipped; one more ends the
                training.
            halve_on_out_of_memory: divide micro-batches if they do not fit into GPU memory.
            dump: writes the micro-batches of such a step to a file and returns its path; called as
                ``dump(batches=…, before=…, iteration=…, parts=…, amp=…)``.
        """
        self.model = model
        self.step = cast(SemiSupervisedStep, getattr(model, "module", model))
        self.optimizer = optimizer
        self.accumulation = accumulation
        self.max_gradient_norm = max_gradient_norm
        self.amp, self.amp_dtype = amp, amp_type(amp_dtype)
        self.device_type = self.step.student.device.type
        needs_scaling = amp and self.amp_dtype == torch.float16 and self.device_type == "cuda"
        self.scaler = LossScaler(self.device_type, enabled=needs_scaling)
        self.max_skipped_steps = max_skipped_steps
        self.halve_on_out_of_memory = halve_on_out_of_memory
        self.dump = dump
        self.skipped_steps = 0
        self.parts = 1  # number of parts of each micro-batch
        self.measures_gradients = False  # allowed in the coming iterations; only with one process
        self.gradient_ratio = float("nan")  # of unlabelled to labelled images, last measurement
        self.iter = 0
        self._batches: Iterator[Batch] = iter(())

    @classmethod
    def from_config(
        cls, cfg, model: nn.Module, optimizer: torch.optim.Optimizer, dump: Callable[..., str] | None = None
    ) -> "OptimizationLoop":
        """``SOLVER`` of the config."""
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
            max_skipped_steps=cfg.SOLVER.MAX_SKIPPED_STEPS,
            halve_on_out_of_memory=cfg.SOLVER.HALVE_ON_OUT_OF_MEMORY,
            dump=dump,
        )

    def read_from(self, batches: Iterable[Batch]) -> None:
        """Read the micro-batches of the coming iterations from here."""
        self._batches = iter(batches)

    def state_dict(self) -> dict[str, int]:
        return {"skipped_steps": self.skipped_steps, "parts": self.parts, "accumulation": self.accumulation}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped_steps = state["skipped_steps"]
        # A SOLVER.ACCUMULATION larger than before has already divided them.
        self.parts = max(1, state["parts"] * state.get("accumulation", self.accumulation) // self.accumulation)

    def run_step(self) -> None:
        """One optimiser step. Where it fails, everything but the gradients is as before it, so that it can be saved.

        Raises:
            UserError: a file cannot be read, a loss or the gradient is infinite or NaN once too often, or the GPU's
                memory is exhausted.
        """
        self.step.iteration = self.iter
        before = StateBefore(self.step)
        try:
            self._run_step(before)
        except (UserError, RuntimeError):
            with contextlib.suppress(RuntimeError):  # of a GPU that answers no more
                before.restore(self.step)
            raise

    def _run_step(self, before: StateBefore) -> None:
        start = time.perf_counter()
        batches = [next(self._batches) for _ in range(self.accumulation)]
        data_time = time.perf_counter() - start
        losses = self._gradients(batches, before)
        problem = self._problem(losses)
        if problem is not None:
            self._leave_out(problem, batches, before)
            return
        self._update()
        names = losses[0].values
        self._log({name: float(np.mean([each.values[name] for each in losses])) for name in names}, data_time)

    # ---- gradients ----------------------------------------------------------------------------------------------

    def _gradients(self, batches: list[Batch], before: StateBefore) -> list[MicroBatchLosses]:
        """Add the gradients of an iteration, in smaller parts if memory is too small."""
        while True:
            try:
                return self.accumulate(batches)
            except torch.cuda.OutOfMemoryError as error:
                self._answer_out_of_memory(batches, error)
            # Outside the handler, because its traceback keeps the tensors that must be freed.
            self.optimizer.zero_grad(set_to_none=True)
            if self.device_type == "cuda":
                torch.cuda.empty_cache()
            before.restore(self.step)

    def accumulate(self, batches: list[Batch]) -> list[MicroBatchLosses]:
        """Add the gradients of the micro-batches of one iteration, each in ``parts`` parts."""
        if not _can_divide(batches, self.parts):  # after a resume with other batch sizes
            self.parts = 1
        divided = [part for batch in batches for part in divide(batch, self.parts)]
        return [
            self._forward_backward(part, len(divided), is_first=number == 0, is_last=number + 1 == len(divided))
            for number, part in enumerate(divided)
        ]

    def _answer_out_of_memory(self, batches: list[Batch], error: Exception) -> None:
        """Halve the parts, or raise an error that says what to do."""
        parts = 2 * self.parts
        can_halve = _can_divide(batches, parts)
        # With several processes, the others already wait for this one's gradients.
        if self.halve_on_out_of_memory and can_halve and comm.get_world_size() == 1:
            self.parts = parts
            has_single = any(len(batch.get(UNLABELED, ())) == parts for batch in batches)
            logger.warning(
                "Out of GPU memory at iteration %d: every micro-batch is now computed in %d parts, as many images an "
                "iteration as before. To do so from the start, set SOLVER.ACCUMULATION to %d.%s",
                self.iter, parts, self.accumulation * parts,
                " With one unlabelled image in each part, CutMix has no other image." if has_single else "",
            )  # fmt: skip
            return
        divided = f"set SOLVER.ACCUMULATION to {self.accumulation * parts} (as many images an iteration), "
        raise UserError(
            f"the GPU's memory is exhausted at iteration {self.iter}: {divided if can_halve else ''}switch "
            f"SOLVER.AMP.ENABLED on, set MODEL.RECOMPUTE to {list(RECOMPUTABLE)}, or "
            "lower INPUT.CROP_SIZE, SOLVER.IMS_PER_BATCH or SOLVER.UNLABELED_PER_BATCH; continue with --resume."
        ) from error

    def _forward_backward(self, batch: Batch, count: int, is_first: bool, is_last: bool) -> MicroBatchLosses:
        """Add the gradients of one of ``count`` micro-batches.

        Also done if a loss is broken: the gradients are dropped later, but the processes must stay synchronised.
        """
        losses: dict[str, Tensor] = {}
        parallel = self.model if isinstance(self.model, DistributedDataParallel) else None
        parts = map(parallel, [batch]) if parallel is not None else self.step.parts(batch)
        measures = self.measures_gradients and is_first and parallel is None
        norms = GradientNorms(self._trained()) if measures else None
        with parallel.no_sync() if parallel is not None and not is_last else contextlib.nullcontext():
            while (part := self._next_part(parts)) is not None:
                losses.update({name: loss.detach() for name, loss in part.items()})
                if any(loss.requires_grad for loss in part.values()):
                    self.scaler.scale(functools.reduce(torch.add, part.values()) / count).backward()
                if norms is not None:
                    norms.add()
        if norms is not None:
            self.gradient_ratio = norms.ratio
        values = read_losses(losses)  # waits for the device, which has all of its work by now
        return MicroBatchLosses(values, [item.get("file_name", "?") for items in batch.values() for item in items])

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _next_part(self, parts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor] | None:
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp):
            return next(parts, None)

    # ---- steps that cannot be taken -----------------------------------------------------------------------------

    def _problem(self, losses: list[MicroBatchLosses]) -> str | None:
        """Describe what is infinite or NaN in this iteration, in any process. If nothing is: None, and gradients are
        clipped."""
        broken = [each for each in losses if each.broken]
        own = describe_problem(broken[0].broken, broken[0].files) if broken else ""
        if comm.get_world_size() > 1:
            worst = torch.tensor(float(bool(own)), device=self.step.student.device)
            torch.distributed.all_reduce(worst)
            if worst and not own:
                return "a loss became infinite or NaN in another process"
        if own:
            return own
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained(), self.max_gradient_norm or float("inf"))
        if torch.isfinite(norm):
            self.step.statistics["gradient_norm"] = norm
            return None
        if self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE:  # it skips the step and scales less
            return None
        self.scaler.update()  # else it would refuse the next step
        return describe_problem(["the gradient"], [name for each in losses for name in each.files])

    def _leave_out(self, problem: str, batches: list[Batch], before: StateBefore) -> None:
        """Restore the state before the iteration and skip this step, unless that happened too often."""
        self.optimizer.zero_grad(set_to_none=True)
        before.restore(self.step)
        self.skipped_steps += 1
        path = ""
        if self.dump is not None and self.skipped_steps <= MAX_DUMPS:
            path = self.dump(batches=batches, before=before, iteration=self.iter, parts=self.parts, amp=self.amp)
        replay = f" `train_net.py --replay {path}` repeats the step." if path else ""
        if self.skipped_steps <= self.max_skipped_steps:
            logger.warning(
                "Step skipped at iteration %d (%d of at most %d): %s.%s",
                self.iter, self.skipped_steps, self.max_skipped_steps, problem, replay,
            )  # fmt: skip
            if comm.is_main_process():
                get_event_storage().put_scalar("skipped_steps", self.skipped_steps, smoothing_hint=False)
            return
        raise UserError(
            f"training stopped at iteration {self.iter}: {problem}; the last checkpoint is untouched.{replay} "
            "Lower SOLVER.BASE_LR, switch SOLVER.AMP.ENABLED off, or let some such steps be left out with "
            "SOLVER.MAX_SKIPPED_STEPS."
        )

    # ---- after the gradients ------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Step, clear the gradients, update the teacher."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        weights_changed(self.step.student)
        self.optimizer.zero_grad(set_to_none=True)
        self.step.update_teacher()

    def _log(self, losses: dict[str, float], data_time: float) -> None:
        """Log losses and statistics, averaged over the processes, to Detectron2's storage."""
        values = {**losses, **{name: float(value) for name, value in self.step.statistics.items()}}
        gathered = comm.gather({**values, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(each["data_time"] for each in gathered))
        means = {name: float(np.mean([each[name] for each in gathered])) for name in values}
        storage.put_scalar("total_loss", sum(means[name] for name in losses))
        storage.put_scalars(**means)


def read_losses(losses: dict[str, Tensor]) -> dict[str, float]:
    """The values of the losses, in one transfer from the device."""
    return dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist()))


def describe_problem(names: list[str], files: list[str]) -> str:
    """Describe what is not finite, and on which files it was computed."""
    return f"{', '.join(names)} became infinite or NaN on the batch {', '.join(files)}"


def _can_divide(batches: list[Batch], parts: int) -> bool:
    return all(len(items) % parts == 0 for batch in batches for items in batch.values())


def divide(batch: Batch, parts: int) -> Iterator[Batch]:
    """Divide a micro-batch into ``parts`` micro-batches, as the loader would give them."""
    shares = {LABELED: share_of, UNLABELED: mirrored_share_of}
    for part in range(parts):
        yield {
            stream: [items[place] for place in shares[stream](len(items), part, parts, 0, 1)]
            for stream, items in batch.items()
        }
