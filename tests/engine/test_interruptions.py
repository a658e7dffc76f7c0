"""Runs that are killed, stopped, run out of disk or find broken files: nothing is lost, and the end is the same.

With HIERVL_SOAK set (``make soak``) a training is killed 24 times, else three times.
"""

import errno
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase

from hiervl.utils.checkpoint_file import write_checkpoint
from hiervl.utils.errors import UserError

IS_SOAK = bool(os.environ.get("HIERVL_SOAK"))
KILLS = 24 if IS_SOAK else 3
SETTINGS = (
    "SOLVER.MAX_ITER", "100" if IS_SOAK else "12", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "5",
    "TEST.PICTURES", "0",
)  # fmt: skip


def make_trainer(world, output, options, *extra, resume=False):
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer

    torch.manual_seed(0)
    torch.set_num_threads(1)
    os.environ["DETECTRON2_DATASETS"] = str(world)
    given = options(world, output, *SETTINGS, *extra)
    trainer = SemiSupervisedTrainer(prepare_config(load_config("", given)))
    trainer.resume_or_load(resume)
    return trainer


def start(world, output, options, *extra, resume=False) -> int:
    """Train in a new process, which is forked as imports take longer than the training; returns its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(output.with_suffix(".txt"), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)  # instead of pytest's
        logging.basicConfig(level=logging.INFO, force=True)
        for name in ("detectron2", "hiervl"):  # which earlier tests of this process may have sent elsewhere
            library = logging.getLogger(name)
            library.handlers.clear()
            library.propagate = True
        make_trainer(world, output, options, *extra, resume=resume).train()
        status = 0
    except UserError as error:
        os.write(2, f"error: {error}\n".encode())
    finally:
        os._exit(status)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_until(is_so) -> None:
    """Far longer than it takes, for machines that have other work."""
    until = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(world, options, tmp_path_factory):
    """The folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    assert exit_code(start(world, output, options)) == 0, output.with_suffix(".txt").read_text()[-2000:]
    return output


def assert_same_end(output, other):
    ends = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (output, other)]
    for part in ("model", "student", "teacher", "threshold"):
        assert ends[0][part].keys() == ends[1][part].keys()
        for name, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][name]), f"{part} {name}"
    states = [end["optimizer"]["state"] for end in ends]
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][name]) for name, value in state.items()), index
    results = [json.loads((folder / "results.json").read_text()) for folder in (output, other)]
    assert results[0] == results[1]


def begun_and_ended(output) -> tuple:
    """Evaluations, in the log."""
    said = output.with_suffix(".txt").read_text()
    return said.count("Start inference"), said.count("Total inference pure compute time")


def wait_for_moment(moment: str, output, chance: random.Random) -> None:
    """Until a started training writes a checkpoint, evaluates, or has got somewhere beyond its next checkpoint."""
    if moment == "writing":
        wait_until(lambda: list(output.glob("*.pth.*.tmp")))
    elif moment == "evaluating":
        begun, _ = begun_and_ended(output)
        wait_until(lambda: begun_and_ended(output)[0] > begun)
        time.sleep(chance.uniform(0.0, 0.02))
    else:
        before = set(output.glob("model_0*.pth"))
        wait_until(lambda: set(output.glob("model_0*.pth")) - before)
        time.sleep(chance.uniform(0.0, 0.5))


def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(world, options, tmp_path, whole, capsys):
    """In turn while a checkpoint is written, within an evaluation, and at random."""
    output = tmp_path / "killed"
    output.mkdir()
    output.with_suffix(".txt").touch()
    chance = random.Random(4)
    died = {"writing": 0, "evaluating": 0, "anywhere": 0}
    for number in range(KILLS):
        child = start(world, output, options, resume=True)
        wait_for_moment(list(died)[number % len(died)], output, chance)
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -signal.SIGKILL, output.with_suffix(".txt").read_text()[-2000:]
        begun, ended = begun_and_ended(output)
        was_evaluating = begun - ended > died["evaluating"]
        was_writing = bool(list(output.glob("*.pth.*.tmp")))
        died["evaluating" if was_evaluating else "writing" if was_writing else "anywhere"] += 1
    (output / "results.json.123.tmp").touch()  # as a kill at the right moment leaves it
    assert exit_code(start(world, output, options, resume=True)) == 0, output.with_suffix(".txt").read_text()[-2000:]
    with capsys.disabled():
        print(f"\nkilled {KILLS} times: {json.dumps(died)}")
    if IS_SOAK:
        assert min(died.values()) >= 3
    assert_same_end(output, whole)
    assert not list(output.glob("*.tmp"))
    assert len(list(output.glob("model_0*.pth"))) <= 2


def test_signal_saves_and_the_resumed_run_ends_the_same(world, options, tmp_path, whole):
    output = tmp_path / "stopped"
    output.mkdir()
    child = start(world, output, options)
    wait_until((output / "model_0000002.pth").exists)
    os.kill(child, signal.SIGTERM)
    assert exit_code(child) == 0
    said = output.with_suffix(".txt").read_text()
    assert "Saved after iteration" in said and "--resume" in said
    assert not (output / "model_final.pth").exists()
    child = start(world, output, options, resume=True)
    assert exit_code(child) == 0
    assert_same_end(output, whole)
    record = json.loads((output / "run.json").read_text())
    assert [each["iteration"] > 0 for each in record["starts"]] == [False, True]
    assert record["splits"]["labeled"]["images"] == 12 and len(record["splits"]["unlabeled"]["sha256"]) == 64
    assert record["starts"][0]["versions"]["torch"] == torch.__version__.split("+")[0]


class Damage(HookBase):
    """Breaks all labelled images after an iteration between two checkpoints, or leaves the GPU without memory."""

    def __init__(self, images: list[Path], how: str):
        self.contents = {path: path.read_bytes() for path in images}
        self.how = how

    def after_step(self) -> None:
        if self.trainer.iter != 3:
            return
        if self.how == "file":
            for path in self.contents:
                path.write_bytes(b"broken")
            return
        parts = self.trainer.step.parts

        def run_out(batch):
            yield next(parts(batch))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

        self.trainer.step.parts = run_out

    def mend(self) -> None:
        for path, content in self.contents.items():
            path.write_bytes(content)


@pytest.mark.parametrize(
    "how, words", [("file", "cannot be read as an image"), ("memory", "memory is exhausted at iter")]
)
def test_an_error_in_an_iteration_costs_no_other_one(world, options, tmp_path, whole, how, words, capsys):
    """It is saved first, as it was before the iteration, so that the resumed run ends the same."""
    mine, output = tmp_path / "world", tmp_path / "run"
    shutil.copytree(world, mine)
    whole_batches = ("SOLVER.HALVE_ON_OUT_OF_MEMORY", "False")  # halves would round otherwise
    trainer = make_trainer(mine, output, options, *whole_batches)
    damage = Damage(sorted((mine / "camvid/images/train").iterdir()), how)
    trainer.register_hooks([damage])
    with pytest.raises(UserError, match=words):
        trainer.train()
    said = capsys.readouterr().out
    assert f"Saved in {output / 'model_0000003.pth'}; when the error below is fixed, continue with" in said
    damage.mend()
    trainer = make_trainer(mine, output, options, *whole_batches, resume=True)
    assert trainer.start_iter == 4
    trainer.train()
    assert_same_end(output, whole)


def test_an_error_in_the_first_iteration_leaves_no_checkpoint(world, options, tmp_path, capsys):
    mine = tmp_path / "world"
    shutil.copytree(world, mine)
    trainer = make_trainer(mine, tmp_path / "run", options)
    for path in (mine / "camvid/images/train").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as an image"):
        trainer.train()
    assert "Saved in" not in capsys.readouterr().out and not list((tmp_path / "run").glob("*.pth"))


def test_second_training_in_a_folder_is_refused(tmp_path):
    """While the first one's process lives, and no longer."""
    from hiervl.engine.run_lock import RunLock

    child = os.fork()
    if not child:
        with RunLock(str(tmp_path / "run")):
            (tmp_path / "locked").touch()
            time.sleep(300)
        os._exit(0)
    wait_until((tmp_path / "locked").exists)
    try:
        with pytest.raises(UserError, match=rf"another training .process {child}. writes to '.*run'"):
            with RunLock(str(tmp_path / "run")):
                pass
    finally:
        os.kill(child, signal.SIGKILL)
        exit_code(child)
    with RunLock(str(tmp_path / "run")):
        assert (tmp_path / "run" / "run.lock").read_text() == f"{os.getpid()}\n"


def test_second_interrupt_is_obeyed_at_once(monkeypatch):
    from hiervl.engine.interruption import StopRequest

    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as request:
        assert not request.is_made()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the echo of a launcher
        assert request.is_made()
        request._received_at -= 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


# ---------------------------------------------------------------------------- checkpoints


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the finished run, from which the last checkpoint was taken away."""
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "model_final.pth").unlink()
    return tmp_path / "copy"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_broken_checkpoint_is_named_and_the_one_before_is_taken(world, options, copy, caplog, damage):
    """Also one bit inside the weights, which PyTorch would load."""
    older, newest = sorted(copy.glob("model_0*.pth"))[-2:]
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:-5000], "flipped": content, "empty": b""}[damage])
    os.utime(newest)
    trainer = make_trainer(world, copy, options, resume=True)
    assert trainer.start_iter == int(older.stem[-7:]) + 1
    assert any(newest.name in record.getMessage() for record in caplog.records)


def test_checkpoint_of_another_run_is_not_resumed(world, options, copy):
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "run": "another"}))
    assert make_trainer(world, copy, options, resume=True).start_iter == 0


@pytest.mark.parametrize(
    "changed, words",
    [
        (("MODEL.CLIP.VISUAL_PROMPTS", "3"), "MODEL.CLIP.VISUAL_PROMPTS 8, but the config has 3"),
        (("SEMI.TEACHER", "student"), "SEMI.TEACHER 'ema', but the config has 'student'"),
        (("DATASETS.TRAIN", "('camvid_train_23',)"), "DATASETS.TRAIN"),
        (("MODEL.CLASS_NAMES", str([f"c{i}" for i in range(11)])), "a class 'sky' where the config has 'c0'"),
        (("MODEL.CLASS_NAMES", "['a', 'b']"), "was trained on 11 classes"),
        (("SOLVER.WEIGHT_DECAY_NORM", "0.01"), "was written with other settings .*group"),
        (("MODEL.CLIP.TRAINABLE", "none"), "MODEL.CLIP.TRAINABLE 'attention', but"),
    ],
)
def test_settings_that_cannot_change_are_one_sentence(world, options, copy, changed, words):
    with pytest.raises(UserError, match=words) as error:
        make_trainer(world, copy, options, *changed, resume=True)
    assert "\n" not in str(error.value)


def test_settings_that_can_change_are_logged(world, options, copy, caplog):
    make_trainer(world, copy, options, "SOLVER.BASE_LR", "0.002", "OUTPUT_DIR", str(copy), resume=True)
    assert any("SOLVER.BASE_LR" in record.getMessage() for record in caplog.records)


def test_recomputation_can_be_switched_on(world, options, copy, caplog):
    """As the sentence about an exhausted GPU says; the results are the same, so nothing is warned of."""
    switch = ("MODEL.RECOMPUTE", "['encoder', 'pixel_decoder', 'query_decoder', 'losses']")
    assert make_trainer(world, copy, options, *switch, resume=True).start_iter > 0
    assert "other settings" not in caplog.text


def test_changed_split_is_warned_of_once(world, options, copy, tmp_path, caplog):
    """An unlabelled image is taken out between two starts; the third start finds what the second found."""
    changed = tmp_path / "world"
    shutil.copytree(world, changed)
    before = json.loads((copy / "run.json").read_text())["splits"]["unlabeled"]
    make_trainer(world, copy, options, resume=True)
    assert "is not what this run was last started with" not in caplog.text
    (changed / "camvid" / "images" / "train" / "023.png").unlink()
    for _ in range(2):
        make_trainer(changed, copy, options, resume=True)
    starts = json.loads((copy / "run.json").read_text())["starts"]
    now = starts[-2]["splits"]["unlabeled"]
    assert "splits" not in starts[-1] and (before["images"], now["images"]) == (12, 11)
    messages = [text for text in caplog.messages if text.startswith("The split 'unlabeled' (camvid_train_12_unlabel")]
    assert len(messages) == 1
    assert f"11 images with the SHA-256 {now['sha256'][:16]}" in messages[0] and before["sha256"][:16] in messages[0]


# ---------------------------------------------------------------------------- full disks


def test_full_disk_costs_one_checkpoint(world, options, tmp_path, whole, monkeypatch, caplog):
    """The second write fails: said, the first stays, the third is there, the end is the same."""
    saved, failed = [], []
    original = torch.save

    def save(data, file):
        if "0000005" in file.name:
            failed.append(file.name)
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(os.path.basename(file.name).partition(".pth")[0])
        original(data, file)

    monkeypatch.setattr(torch, "save", save)
    make_trainer(world, tmp_path / "full", options).train()
    assert failed and "model_0000002" in saved and "model_0000008" in saved
    message = next(r.getMessage() for r in caplog.records if "could not be written" in r.getMessage())
    assert "No space left on device" in message and "the last good one is" in message and "model_" in message
    assert not list((tmp_path / "full").glob("*.tmp"))
    assert_same_end(tmp_path / "full", whole)


def test_full_disk_costs_no_training_its_end(world, options, tmp_path, whole, monkeypatch, caplog):
    """Results, pictures, health and what the report needs cannot be written: said, and the weights are the same."""
    from hiervl.utils import files

    def replace(temporary, path, original=os.replace):
        if Path(path).suffix in (".json", ".png", ".html"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(temporary, path)

    extra = ("TEST.PICTURES", "1", "SEMI.PICTURES_PERIOD", "6")
    trainer = make_trainer(world, tmp_path / "full", options, *extra)
    with monkeypatch.context() as full:
        full.setattr(files.os, "replace", replace)
        trainer.train()
    for name in ("results.json", "predictions_camvid_val.png", "report_camvid_val.json", "health.json", "_0000006.png"):
        assert f"{name} could not be written (No space left on device)" in caplog.text
    assert "The report is left out" in caplog.text and "Traceback" not in caplog.text
    assert not list((tmp_path / "full").rglob("*.tmp"))
    shutil.copy(whole / "results.json", tmp_path / "full")
    assert_same_end(tmp_path / "full", whole)
    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(OSError):  # of --eval-only it is all that is wanted
        trainer.test(trainer.cfg, trainer.student.eval())


def test_really_full_disk(tmp_path):
    """PyTorch's own writer meets a device without room."""
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is Linux's")
    path = tmp_path / "model.pth"
    path.write_bytes(b"good")
    os.symlink("/dev/full", tmp_path / f"model.pth.{os.getpid()}.tmp")
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"weights": torch.zeros(100_000)})
    assert path.read_bytes() == b"good" and not list(tmp_path.glob("*.tmp"))


def test_last_checkpoint_has_to_be_written(world, options, copy, monkeypatch):
    trainer = make_trainer(world, copy, options, resume=True)

    def save(data, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match="No space left on device.*the last good one is .*model_.*--resume"):
        trainer.train()
