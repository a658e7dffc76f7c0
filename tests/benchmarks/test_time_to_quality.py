import json

import torch
from torch import nn

from benchmarks.iteration_parts import PartsClock
from benchmarks.time_to_quality import describe, evaluations


class Ticks:
    """A clock that only work moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Work(nn.Module):
    """Takes some seconds forwards, and some backwards."""

    def __init__(self, ticks: Ticks, forward: float, backward: float):
        super().__init__()
        self.ticks, self.seconds, self.back = ticks, forward, backward
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.ticks.now += self.seconds
        out = x * self.weight
        if out.requires_grad:  # runs when the gradient has come that far back
            out.grad_fn.register_hook(lambda *_: setattr(self.ticks, "now", self.ticks.now + self.back))
        return {"out": out}


def test_every_moment_counts_once_and_backward_passes_are_divided():
    """Forwards 2 + 3, of the inner part 1, then losses 0.5; backwards 7 and 11, before them 0.25 of the losses."""
    ticks = Ticks()
    clock = PartsClock(ticks)
    encoder, decoder = Work(ticks, 2, 11), Work(ticks, 3, 7)
    clock.watch(encoder, "encoder")
    clock.watch(decoder, "decoders")
    ticks.now += 0.125
    out = decoder(encoder(torch.ones(()))["out"])["out"]
    with clock.part("losses"):
        ticks.now += 0.5
        with clock.part("data"):
            ticks.now += 1
        loss = out * 2
        loss.grad_fn.register_hook(lambda *_: setattr(ticks, "now", ticks.now + 0.25))
    with clock.backward():
        loss.backward()
    with clock.part("optimiser"):
        ticks.now += 4
    assert dict(clock.seconds) == {"other": 0.125, "encoder": 13, "decoders": 10, "losses": 0.75, "data": 1,
                                   "optimiser": 4}  # fmt: skip


def test_an_encoder_that_no_gradient_reaches_takes_nothing_backwards():
    ticks = Ticks()
    clock = PartsClock(ticks)
    encoder, decoder = Work(ticks, 2, 11).requires_grad_(False), Work(ticks, 3, 7)
    clock.watch(encoder, "encoder")
    clock.watch(decoder, "decoders")
    with clock.backward():
        decoder(encoder(torch.ones(()))["out"])["out"].backward()
    assert clock.seconds["decoders"] >= 7 and clock.seconds["encoder"] <= 2


def test_evaluations_are_read_while_they_are_written(tmp_path):
    lines = [
        {"iteration": 99, "loss": 1.0},
        {"iteration": 99, "sem_seg/mIoU": 41.5},
        {"iteration": 199, "sem_seg/mIoU": 60.0},
    ]
    path = tmp_path / "metrics.json"
    assert evaluations(path) == []
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 219, "sem_seg/')
    assert evaluations(path) == [(100, 41.5), (200, 60.0)]
    curve = [
        {"iteration": i, "mIoU": score, "seconds": 2.0 * i, "processor_seconds": 1.0 * i}
        for i, score in evaluations(path)
    ]
    text = describe({"curve": curve, "parts": {"encoder": 30.0, "decoders": 70.0}}, 60.0)
    assert "mIoU 60: after 400 s" in text and "encoder 30 %, decoders 70 %" in text
    assert "not reached" in describe({"curve": curve[:1], "parts": {"encoder": 1.0}}, 60.0)
