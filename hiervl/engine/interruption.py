"""SIGTERM and SIGINT end a training between two iterations. Nothing is lost."""

import signal
import time
from types import FrameType

import torch
from detectron2.utils import comm

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal and a launcher may both pass on one Ctrl-C. Only a later one counts as a second.
ECHO_SECONDS = 2.0


class StopRequest:
    """Notes the first signal and lets the iteration finish. A second Ctrl-C interrupts at once.

    A context manager. Has no effect outside the main thread, because only that may handle signals.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # the received signal
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
        """Whether any process was asked to stop. All processes must call it after the same iteration."""
        if comm.get_world_size() == 1:
            return self.signal is not None
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        asked = torch.tensor(float(self.signal is not None), device=device)
        torch.distributed.all_reduce(asked)
        return bool(asked)
