"""Where the time of an iteration goes: data, encoder, decoders, losses, teacher, optimiser."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

PARTS = ("data", "encoder", "decoders", "losses", "teacher", "optimiser", "other")
MODULES = {"encoder": ("backbone",), "decoders": ("pixel_decoder", "query_decoder"), "losses": ("criterion",)}


class PartsClock:
    """Seconds by part. A part that begins within another one suspends it, so that every moment counts once."""

    def __init__(self, now: Callable[[], float] = time.process_time):
        """now: reads the clock, in seconds; by default the processor's time, which other programs do not change."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = now
        self._parts = ["other"]
        self._since = now()
        self._marks: dict[str, float] = {}

    def enter(self, part: str) -> None:
        self._charge()
        self._parts.append(part)

    def leave(self) -> None:
        self._charge()
        self._parts.pop()

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    @contextlib.contextmanager
    def backward(self) -> Iterator[None]:
        """A backward pass: losses, then decoders, then encoder.

        Autograd goes back in the reverse of the order in which things were computed: a part's backward pass begins
        with the last gradient of what it gave. What is behind the losses and the decoders is the encoder's, or the
        decoders' where no gradient reaches it.
        """
        self._charge()
        self._marks = {}
        yield
        start, end = self._since, self._now()
        decoders = min(max(self._marks.get("decoders", start), start), end)
        encoder = max(self._marks.get("encoder", end), decoders)
        for part, seconds in (
            ("losses", decoders - start),
            ("decoders", encoder - decoders),
            ("encoder", end - encoder),
        ):
            self.seconds[part] += seconds
        self._since = end

    def watch(self, module: nn.Module, part: str) -> None:
        """Count the forward passes of ``module`` as ``part``, and mark when the gradients of its results are there."""

        def mark(_: Tensor) -> None:
            self._marks[part] = self._now()

        def after(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            self.leave()
            for tensor in tree_flatten(outputs)[0]:
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(mark)

        module.register_forward_pre_hook(lambda *_: self.enter(part))
        module.register_forward_hook(after)


def seconds_by_part(cfg, iterations: int, warmup: int = 2) -> dict[str, float]:
    """Mean processor seconds of an iteration with unlabelled images, by part.

    Args:
        cfg: of a HierVL network, ready for training, without data workers, whose time would not be seen.
    """
    from hiervl.data.loading.loaders import build_semi_supervised_loader
    from hiervl.engine.solver import build_optimizer
    from hiervl.modeling import build_network
    from hiervl.semi_supervised.step import SemiSupervisedStep

    student = build_network(cfg)
    step = SemiSupervisedStep.from_config(cfg, student).train()
    optimizer = build_optimizer(cfg, student)
    batches = iter(build_semi_supervised_loader(cfg))
    clock = PartsClock()
    for part, names in MODULES.items():
        for name in names:
            clock.watch(getattr(student, name), part)
    for name in ("backbone", "pixel_decoder", "query_decoder"):
        clock.watch(getattr(step.teacher.network, name), "teacher")
    for iteration in range(warmup + iterations):
        if iteration == warmup:
            clock.seconds.clear()
        step.iteration = cfg.SEMI.BURN_IN + iteration  # from there on unlabelled images count
        with clock.part("data"):
            batch = next(batches)
        for losses in step.parts(batch):
            total = torch.stack([loss for loss in losses.values() if loss.requires_grad]).sum()
            with clock.backward():
                total.backward()
        with clock.part("optimiser"):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with clock.part("teacher"):
            step.update_teacher()
    return {part: clock.seconds[part] / iterations for part in PARTS}
