"""Tells a run on a CPU when other programs use its cores."""

import logging
import multiprocessing
import os
import time
from pathlib import Path

import torch
from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

WINDOW = 20.0  # seconds over which use is measured
PATIENCE = 3  # windows in a row until a warning
MUCH = 0.5  # cores
PROC = Path("/proc")


class SharedCores(HookBase):
    """Warn once if other programs use so much of the cores that fewer threads are faster.

    PyTorch's threads wait for each other many times an iteration, in loops that take the core from the thread that is
    waited for. With 2 threads on 2 cores, one of which another program used, an iteration of ``camvid_46_cpu.yaml``
    took three times as long as with 1 thread.
    """

    def __init__(self) -> None:
        self._before: tuple[float, float, float] | None = None
        self._windows = 0

    def before_train(self) -> None:
        self._before = _read()

    def after_step(self) -> None:
        if self._before is None or time.monotonic() - self._before[0] < WINDOW:
            return
        now = _read()
        if now is None:
            self._before = None
            return
        seconds, used, own = (after - before for after, before in zip(now, self._before))
        self._before = now
        self.see((used - own) / seconds)

    def see(self, others: float) -> None:
        """Count a window in which other programs used so many cores."""
        cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
        needs_fewer = others >= MUCH and threads + others > cores
        self._windows = self._windows + 1 if needs_fewer else 0
        fewer = max(1, min(threads - 1, round(cores - others)))
        if self._windows < PATIENCE or threads < 2:
            return
        self._before = None
        logger.warning(
            "Other programs use %.1f of the %d cores, on which this run has %d threads, so that these wait for each "
            "other: end the others, or stop this run with Ctrl-C and continue it with OMP_NUM_THREADS=%d in front of "
            "the command and --resume.",
            others, cores, threads, fewer,
        )  # fmt: skip


def _read() -> tuple[float, float, float] | None:
    """The time, and the seconds of the processor that all programs and that this one have used on this program's
    cores; None where the system does not say."""
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0
    try:
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        rows = [line.split() for line in (PROC / "stat").read_text().splitlines()]
        used = sum(sum(map(int, row[1:4])) for row in rows if row[0] in cores)  # user, nice, system
        own = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
        return time.monotonic(), used / ticks, sum(map(_ticks_of, own)) / ticks
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def _ticks_of(pid: int | None) -> int:
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # user and system
