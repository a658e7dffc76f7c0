"""The warning that other programs use a run's cores."""

import logging
import multiprocessing
import os
import time

import pytest
import torch

from hiervl.engine import shared_cores
from hiervl.engine.shared_cores import PATIENCE, SharedCores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux tells which cores are used")


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.parametrize(
    "use, warned", [([0.7] * PATIENCE, True), ([0.7] * (PATIENCE - 1), False), ([0.7, 0.7, 0.1, 0.7, 0.7], False)]
)
def test_only_lasting_use_is_warned_of(two_threads, caplog, use, warned):
    caplog.set_level(logging.WARNING)
    hook = SharedCores()
    for others in use:
        hook.see(others)
    assert bool(caplog.records) == warned
    if warned:
        assert "use 0.7 of the 2 cores" in caplog.text and "OMP_NUM_THREADS=1 " in caplog.text


def test_cores_that_are_left_over_are_no_reason(monkeypatch, caplog):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    hook = SharedCores()
    for _ in range(PATIENCE):
        hook.see(5.5)
    assert not caplog.records
    for _ in range(PATIENCE):
        hook.see(7.0)
    assert "OMP_NUM_THREADS=1 " in caplog.text


def test_own_use_is_told_from_that_of_others():
    """A child of this process, as data workers are, counts as its own."""
    worker = multiprocessing.get_context("fork").Process(target=_compute, daemon=True)
    worker.start()
    try:
        before = shared_cores._read()
        _compute(0.5)
        after = shared_cores._read()
    finally:
        worker.kill()
    assert before is not None and after is not None
    seconds, used, own = (b - a for a, b in zip(before, after))
    assert seconds >= 0.5 and own > 0.15  # of at most 1.0, as other programs may run
    assert used >= own - 0.1  # both count in hundredths of a second


def test_a_system_that_does_not_say_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_cores, "PROC", tmp_path)
    hook = SharedCores()
    hook.before_train()
    hook.after_step()
    assert shared_cores._read() is None


def _compute(seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
