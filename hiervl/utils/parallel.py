"""Do the same work on many files in several processes, and show progress."""

import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import cv2
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 32  # items for which no processes are started
SECONDS_BETWEEN_LINES = 10.0  # seconds between lines of progress if the output is not a terminal

# The work of the processes: they are forked, so they inherit it without a copy.
_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, processes: int | None = None
) -> Iterator[Result]:
    """``function`` of every item, in order.

    If processes cannot be forked (Windows, macOS), this process does everything.

    Args:
        function: its result must be picklable; an exception ends the work.
        what: name of the items for the progress, such as "images".
        processes: None: one per core that this process may use.
    """
    global _work
    count = processes or usable_cores()
    if count < 2 or len(items) < FEW or sys.platform in ("win32", "darwin") or _work is not None:
        yield from with_progress(map(function, items), len(items), what)
        return
    _work = function, items
    chunk = max(1, min(16, len(items) // (4 * count)))
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("fork"), initializer=_start) as pool:
            yield from with_progress(pool.map(_call, range(len(items)), chunksize=chunk), len(items), what)
    finally:
        _work = None


def evenly_spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` of the items, evenly spread over all of them."""
    return list(items[:: max(1, math.ceil(len(items) / most))])


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start() -> None:
    cv2.setNumThreads(0)  # there are several processes already


def _call(index: int) -> Any:
    assert _work is not None
    function, items = _work
    return function(items[index])


def with_progress(results: Iterator[Result], total: int, what: str) -> Iterator[Result]:
    """Yield the results and show their number and rate: as a bar in a terminal, else as a line every ten seconds."""
    if sys.stderr.isatty():
        yield from tqdm(results, what, total, leave=False, unit="file", smoothing=0.1)
        return
    start = last = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last, rate = now, done / (now - start)
            left = (total - done) / rate
            print(f"{what}: {done} of {total}, {rate:.1f} a second, {left:.0f} s left", file=sys.stderr, flush=True)
