"""Memory and logs of a long run. With HIERVL_SOAK set (``make soak``): 2,000 iterations and 20 evaluations."""

import gc
import json
import os
import resource

import torch

ITERATIONS, EVALUATIONS = (2000, 20) if os.environ.get("HIERVL_SOAK") else (40, 4)
ITERATIONS = int(os.environ.get("HIERVL_SOAK_ITERATIONS", ITERATIONS))
# Of the memory after the first evaluation. The short form sees allocators that have not settled yet.
MAX_GROWTH = 0.03 if ITERATIONS >= 300 else 0.10
MAX_LOG_BYTES = 1000  # per iteration, of all text and event files


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_memory_and_logs_do_not_grow(world, options, tmp_path, monkeypatch, capsys):
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer

    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    torch.set_num_threads(1)
    settings = (
        "SOLVER.MAX_ITER", str(ITERATIONS), "TEST.EVAL_PERIOD", str(ITERATIONS // EVALUATIONS), "TEST.PICTURES", "2",
        "SOLVER.CHECKPOINT_PERIOD", str(max(ITERATIONS // 10, 1)),
    )  # fmt: skip
    trainer = SemiSupervisedTrainer(prepare_config(load_config("", options(world, tmp_path / "run", *settings))))
    measured = []
    evaluate = trainer.test

    def evaluate_and_measure(*arguments, **options):
        results = evaluate(*arguments, **options)
        gc.collect()
        measured.append(resident_bytes())
        return results

    trainer.test = evaluate_and_measure
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert len(measured) == EVALUATIONS
    written = sum(
        path.stat().st_size
        for path in (tmp_path / "run").rglob("*")
        if path.suffix in (".json", ".txt") or "tfevents" in path.name
    )
    figures = {
        "iterations": ITERATIONS,
        "resident_mb": [round(value / 1e6, 1) for value in measured],
        "growth_percent": round(100 * (measured[-1] / measured[0] - 1), 2),
        "log_bytes_per_iteration": round(written / ITERATIONS),
    }
    with capsys.disabled():
        print("\n" + json.dumps(figures))
    assert measured[-1] < (1 + MAX_GROWTH) * measured[0]
    assert written < MAX_LOG_BYTES * ITERATIONS + 20_000
