"""Write a broken step to a file, and repeat it from there."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.checkpoint_file import read_checkpoint, write_checkpoint
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)


class StateBefore:
    """The state that an iteration changes before its optimiser step: random numbers and statistics of the threshold."""

    def __init__(self, step: SemiSupervisedStep):
        self.random_cpu = torch.get_rng_state()
        self.random_cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        self.threshold = {name: value.clone() for name, value in step.threshold.state_dict().items()}

    def restore(self, step: SemiSupervisedStep) -> None:
        torch.set_rng_state(self.random_cpu)
        if self.random_cuda is not None:
            torch.cuda.set_rng_state(self.random_cuda)
        step.threshold.load_state_dict(self.threshold)


def dump_step(
    output_dir: str, config: str, step: SemiSupervisedStep, *, batches: list[dict], before: StateBefore, iteration: int,
    parts: int, amp: bool,
) -> str:  # fmt: skip
    """Write everything that an iteration depends on, for :func:`replay_step`. Returns the path, or "" if writing fails.

    Args:
        config: of the run, as YAML.
        batches: the iteration's micro-batches in this process; parts: in how many parts each was divided.
    """
    rank = f"_rank{comm.get_rank()}" if comm.get_world_size() > 1 else ""
    path = Path(output_dir) / f"broken_step_{iteration:07d}{rank}.pth"
    content = {
        "replay": {
            "iteration": iteration,
            "batches": batches,
            "parts": parts,
            "amp": amp,
            "random_cpu": before.random_cpu,
            "random_cuda": before.random_cuda,
            "unguided": sorted(step.guidance.unguided) if step.guidance is not None else [],
            "threshold": before.threshold,
        },
        "class_names": list(step.student.class_names),
        "config": config,
        "model": step.student.state_dict(),
        "teacher": step.teacher.state_dict(),
    }
    try:
        write_checkpoint(path, content)
    except OSError as error:  # on a full disk the training's own message is more important
        logger.warning("The broken step could not be written to %s (%s).", path, error)
        return ""
    return str(path)


def read_step(path: str) -> dict[str, Any]:
    """Contents of a file of :func:`dump_step`.

    Raises:
        UserError: the file is missing, broken or of another kind.
    """
    content = read_checkpoint(path)
    if "replay" not in content:
        raise UserError(f"'{path}' is a checkpoint, not a broken step: --replay takes a broken_step_….pth.")
    return content


def replay_step(
    step: SemiSupervisedStep, content: dict[str, Any], accumulate: Callable[[list[dict]], list]
) -> list[str]:
    """Repeat a step with its weights and random numbers. Returns the lines of a report.

    Args:
        step: built with the config of the file.
        content: of :func:`read_step`.
        accumulate: ``OptimizationLoop.accumulate`` around the step.
    """
    saved = content["replay"]
    step.student.load_state_dict(content["model"])
    step.teacher.load_state_dict(content["teacher"])
    step.threshold.load_state_dict(saved["threshold"])
    step.iteration = saved["iteration"]
    torch.set_rng_state(saved["random_cpu"])
    if saved["random_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["random_cuda"])
    if step.guidance is not None:
        step.guidance.unguided.update(saved["unguided"])
    first = FirstBrokenModule(step)
    lines = [f"iteration {saved['iteration']}"]
    for number, losses in enumerate(accumulate(saved["batches"])):
        lines.append(f"micro-batch {number}: {', '.join(losses.files)}")
        lines += [f"  {name:<28} {value:.6g}" for name, value in losses.values.items()]
    first.remove()
    broken = [name for name, parameter in step.student.named_parameters() if _is_broken(parameter.grad)]
    lines.append(f"first output that is not finite: {first.name or 'none'}")
    lines.append(f"gradients that are not finite: {len(broken)}{f' (first {broken[0]})' if broken else ''}")
    return lines


class FirstBrokenModule:
    """Records the first module whose output has an infinite or NaN value."""

    def __init__(self, root: nn.Module):
        self.name: str | None = None
        self._handles = [
            module.register_forward_hook(lambda _, __, output, name=name: self._look(name, output))
            for name, module in root.named_modules()
            if name
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, name: str, output: Any) -> None:
        if self.name is None and any(_is_broken(tensor) for tensor in _tensors(output)):
            self.name = name


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (list, tuple)) else []


def _is_broken(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
