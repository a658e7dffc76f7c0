"""A folder that holds a training is neither overwritten unasked nor mixed with another one."""

import pytest

from hiervl.engine.earlier_run import refuse_earlier_run, remove_earlier_run
from hiervl.engine.hooks import PeriodicEvaluation
from hiervl.utils.errors import UserError


def test_a_folder_with_checkpoints_is_refused(tmp_path):
    refuse_earlier_run(str(tmp_path / "new"))
    (tmp_path / "run.json").touch()
    refuse_earlier_run(str(tmp_path))  # a run that ended before its first checkpoint
    (tmp_path / "model_0000004.pth").touch()
    with pytest.raises(UserError, match="a training that was interrupted .model_0000004.pth.: .*--resume.*--overwrite"):
        refuse_earlier_run(str(tmp_path))
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UserError, match="a finished training"):
        refuse_earlier_run(str(tmp_path))


def test_the_supervised_twin_inside_is_protected_too(tmp_path):
    (tmp_path / "supervised").mkdir()
    (tmp_path / "supervised" / "model_best.pth").touch()
    with pytest.raises(UserError, match="supervised' holds"):
        refuse_earlier_run(str(tmp_path))


def test_nothing_of_a_replaced_run_is_left(tmp_path):
    kept, gone = (
        ("run.json", "log.txt", "mine.txt"),
        ("model_0000004.pth", "results.json", "report.html", "model_best.pth"),
    )
    for name in kept + gone:
        (tmp_path / name).touch()
    remove_earlier_run(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_the_trained_state_is_saved_before_a_failed_evaluation_ends_the_run():
    done = []

    class Checkpoints:
        def save_alone(self):
            done.append("saved")

    def evaluate():
        raise UserError("no images")

    hook = PeriodicEvaluation(2, evaluate, Checkpoints())
    hook.trainer = type("Trainer", (), {"iter": 1, "max_iter": 10})()
    with pytest.raises(UserError, match="no images"):
        hook.after_step()
    assert done == ["saved"]
