"""SIGTERM and SIGINT end a training between two iterations, with nothing lost."""

import signal
import time
from types import FrameType

import torch
from detectron2.utils import comm

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal and a launcher may both pass on one Ctrl-C; only a later one is a second wish.
ECHO_SECONDS = 2.0


class StopRequest:
    """Notes the first signal instead of dying of it. Ctrl-C a second time interrupts at once.

    A context manager; without effect outside the main thread, which alone may handle signals.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # that was received
        self._received_at = 0.0
        self._previous: dict = {}

    def __enter__(self) -> "StopRequest":
        try:
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        except ValueError:  # not the main thread
            self._previous = {}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._received_at = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._received_at > ECHO_SECONDS:
            raise KeyboardInterrupt

    def is_made(self) -> bool:
        """Whether any process was asked to stop; to be called by all of them after the same iteration."""
        if comm.get_world_size() == 1:
            return self.signal is not None
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        asked = torch.tensor(float(self.signal is not None), device=device)
        torch.distributed.all_reduce(asked)
        return bool(asked)
