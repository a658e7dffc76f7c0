"""Two processes on the CPU train as one. If one ends, the other ends, too, and the cause is reported."""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from hiervl.engine.launch import launch
from hiervl.utils.errors import UserError

sys.path.append(str(Path(__file__).parent))  # also new processes find it there
import process_work  # noqa: E402


def arguments(num_gpus: int, **others) -> Namespace:
    return Namespace(num_gpus=num_gpus, num_machines=1, machine_rank=0, dist_url="auto", **others)


@pytest.mark.parametrize(
    "how, words",
    [("killed", "process 1 was killed by signal 9"), ("user error", "^the file b.png is broken.$")],
)
def test_process_that_ends_ends_the_others_with_its_cause(how, words):
    started = time.monotonic()
    with pytest.raises(UserError, match=words):
        launch(process_work.fail, arguments(2, how=how), "cpu")
    assert time.monotonic() - started < 60


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--num-gpus 2, but this machine has 1 CUDA devices; add MODEL.DEVICE cpu"):
        launch(process_work.fail, arguments(2, how="killed"), "cuda")


def test_two_processes_train_and_evaluate_as_one(world, options, tmp_path, monkeypatch):
    """Losses and weights within 1e-5 after 10 steps of float32; three test images in two processes, to the last pixel;
    steps in which one process has nothing to learn from are finite and have the same gradient in both."""
    settings = (
        "SOLVER.MAX_ITER", "10", "SOLVER.UNLABELED_PER_BATCH", "4", "SEMI.CONFIDENCE", "0.1",
        "SEMI.GUIDANCE_CONFIDENCE", "0.1", "TEST.PICTURES", "0", "SOLVER.CHECKPOINT_PERIOD", "0",
        # What every process draws for itself: the channels that are dropped, the class that is hidden.
        "SEMI.PERTURBATION_WEIGHT", "0.0", "LOSS.MASKED_CONSISTENCY", "0.0", "LOSS.PIXEL_TEXT", "0.0",
    )  # fmt: skip
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    folders = {count: tmp_path / str(count) for count in (1, 2)}
    weights = ""
    for count, folder in folders.items():
        given = options(world, folder, *settings)
        launch(process_work.train, arguments(count, options=given, weights=weights), "cpu")
        weights = weights or str(folder / "model_final.pth")
    one, first, second = (
        torch.load(folders[count] / f"rank{rank}.pth", weights_only=True) for count, rank in ((1, 0), (2, 0), (2, 1))
    )
    for part in ("student", "teacher"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part} {name} differs between the processes"
            torch.testing.assert_close(value, one[part][name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert len(one["losses"]) == 10
    for step, (alone, together) in enumerate(zip(one["losses"], first["losses"])):
        assert alone.keys() == together.keys() and alone["loss_strong1"] > 0
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, abs=1e-5, rel=1e-5), (step, name)
    scores = json.loads((folders[2] / "results.json").read_text())["sem_seg"]
    assert scores["images"] == 3 and scores == student_scores(folders[1], world, options, weights)
    norms = [json.loads((folders[2] / f"norms{rank}.json").read_text()) for rank in (0, 1)]
    assert norms[0] == norms[1] and all(norm > 0 for norm in norms[0])


def student_scores(folder, world, options, weights):
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer

    given = options(world, folder / "eval", "MODEL.WEIGHTS", weights, "TEST.NETWORK", "student", "TEST.PICTURES", "0")
    SemiSupervisedTrainer.evaluate_checkpoint(prepare_config(load_config("", given), training=False))
    return json.loads((folder / "eval" / "results.json").read_text())["sem_seg"]
