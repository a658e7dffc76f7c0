"""The program as a user runs it, on a tiny network: it trains, resumes to the last bit, evaluates, explains itself."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def test_logged_figures_do_not_pile_up():
    """The mean still is that of all values, and the median that of the last ones."""
    from detectron2.utils.events import EventStorage

    from hiervl.engine.hooks import ShortHistory

    hook = ShortHistory()
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage)
        hook.before_train()
        for iteration in range(ShortHistory.length + 500):
            storage.put_scalar("loss", iteration)
            storage.step()
    history = storage.history("loss")
    assert len(history.values()) == ShortHistory.length and history.global_avg() == pytest.approx(749.5)
    assert history.latest() == 1499 and history.median(1000) == pytest.approx(999.5)


def exhaust_memory(*arguments, **options):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


def test_an_evaluation_that_exhausts_the_memory_of_a_gpu_says_what_to_lower(monkeypatch):
    from hiervl.config.defaults import get_hiervl_cfg
    from hiervl.engine import trainer
    from hiervl.engine.trainer import SemiSupervisedTrainer
    from hiervl.utils.errors import UserError

    monkeypatch.setattr(trainer, "SlidingWindowSegmenter", exhaust_memory)
    cfg = get_hiervl_cfg()
    with pytest.raises(UserError, match="exhausted by the evaluation: lower TEST.WINDOW_BATCH or INPUT.SHORT_SIDE;"):
        SemiSupervisedTrainer.test(cfg, torch.nn.Identity())


@pytest.mark.parametrize("command", [["--eval-only"], [], ["--replay", "step.pth"]], ids=["eval", "train", "replay"])
def test_a_full_gpu_is_one_sentence(command, monkeypatch, tmp_path):
    """Wherever it is met: here by building the network, or by reading what is to be repeated."""
    from hiervl.engine import main as engine_main
    from hiervl.engine.trainer import SemiSupervisedTrainer

    for name in ("build_model", "replay"):
        monkeypatch.setattr(SemiSupervisedTrainer, name, exhaust_memory)
    monkeypatch.setattr(engine_main, "launch", lambda work, args, **_: work(args))
    config = str(REPOSITORY / "configs" / "quickstart.yaml")
    values = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "w.pth", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(SystemExit, match="error: the GPU's memory is exhausted: end other programs"):
        engine_main.run(engine_main.argument_parser().parse_args(["--config-file", config, *command, *values]))


@pytest.fixture
def train(options):
    """→ function that trains in this process and returns the last results."""

    def run(world: Path, output: Path, *extra: str, resume: bool = False, stop_at: int = 0) -> dict:
        """Train in this process; ``stop_at``: interrupted before that iteration."""
        from hiervl.engine.run_config import load_config, prepare_config
        from hiervl.engine.trainer import SemiSupervisedTrainer

        torch.manual_seed(0)
        torch.set_num_threads(1)
        os.environ["DETECTRON2_DATASETS"] = str(world)
        trainer = SemiSupervisedTrainer(prepare_config(load_config("", options(world, output, *extra))))
        trainer.resume_or_load(resume)
        if stop_at:
            run_step = trainer.run_step

            def interrupted():
                if trainer.iter == stop_at:
                    raise KeyboardInterrupt
                run_step()

            trainer.run_step = interrupted
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
            return {}
        return trainer.train()

    return run


def run_program(world: Path, output: Path, *arguments: str, config: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPOSITORY / "train_net.py"), *arguments]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(world), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)


@pytest.fixture
def same_loggers():
    """Take out what Detectron2's set-up adds to the loggers of this process: its streams are closed after the test."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "hiervl")]
    before = [(each, each.handlers[:], each.filters[:], each.propagate, each.level) for each in loggers]
    yield
    for each, each.handlers, each.filters, each.propagate, level in before:
        each.setLevel(level)


@pytest.fixture
def last_words(monkeypatch, capfd, same_loggers):
    """→ function that runs the program in this process, which is faster, and returns its last sentence."""

    def run(world: Path, *arguments: str) -> str:
        from hiervl.engine import main as engine_main

        monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
        monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)  # put back afterwards
        with pytest.raises(SystemExit) as ended:
            engine_main.run(engine_main.argument_parser().parse_args(arguments))
        assert "Traceback" not in "".join(capfd.readouterr())
        return str(ended.value)

    return run


def test_resumed_training_equals_uninterrupted_training_to_the_last_bit(world, tmp_path, train):
    common = ("SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "20", "SOLVER.EPOCHS", "0", "TEST.PICTURES", "0")
    common += ("LOGGERS", "['csv']")
    train(world, tmp_path / "whole", *common)
    train(world, tmp_path / "parts", *common, stop_at=22)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000019.pth"
    train(world, tmp_path / "parts", *common, resume=True)
    whole, parts = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("whole", "parts"))
    assert whole["trainer"]["iteration"] == parts["trainer"]["iteration"] == 23
    for part in ("model", "student", "teacher"):
        for key, value in whole[part].items():
            assert torch.equal(value, parts[part][key]), f"{part} {key}"
    moments = [checkpoint["optimizer"]["state"] for checkpoint in (whole, parts)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])
    logged = [
        [json.loads(line)["iteration"] for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert logged[0] == logged[1] == sorted(set(logged[0]))  # the interrupted one had logged up to iteration 21
    table = (tmp_path / "parts" / "metrics.csv").read_text().splitlines()
    assert [int(line.partition(",")[0]) for line in table[1:]] == logged[0]


def test_command_line_trains_evaluates_and_reads_its_own_checkpoint(world, tmp_path, options, last_words):
    trained = run_program(world, tmp_path, *options(world, tmp_path))
    assert trained.returncode == 0, trained.stderr[-2000:]
    for name in ("model_final.pth", "model_best.pth", "results.json", "metrics.json", "config.yaml"):
        assert (tmp_path / name).is_file()
    scores = json.loads((tmp_path / "results.json").read_text())["sem_seg"]
    assert set(scores["IoU"]) == set(CLASSES)
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    names = set().union(*logged)
    expected = set(
        "loss_class_0 loss_mask loss_dice loss_pixel loss_align loss_relevance loss_strong1 loss_strong2 "
        "loss_clip_guidance loss_prompt_topology loss_prompt_anchor pseudo/kept sem_seg/mIoU lr".split()
    )
    assert expected <= names, expected - names

    evaluated = run_program(
        world, tmp_path, "--eval-only", *options(world, tmp_path / "eval"),
        "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"),
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    again = json.loads((tmp_path / "eval" / "results.json").read_text())["sem_seg"]
    assert again["mIoU"] == scores["mIoU"]

    other_classes = last_words(
        world, "--eval-only", *options(world, tmp_path / "eval"),
        "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"), "MODEL.CLASS_NAMES", "['road', 'car']",
    )  # fmt: skip
    assert_sentence(other_classes, "11 classes", "config has 2")


@pytest.mark.parametrize(
    "extra, words",
    [
        (("DATASETS.TRAIN", "('camvid_train_13',)"), ("camvid_train_13",)),
        (("MODEL.QUERY_DECODER.LAYER", "3"), ("MODEL.QUERY_DECODER.LAYER",)),
        (("MODEL.CLIP.PRETRAINED", "nowhere.pt"), ("MODEL.CLIP.PRETRAINED", "nowhere.pt")),
        (("MODEL.WEIGHTS", "nowhere.pth"), ("nowhere.pth",)),
        (("SEMI.TEACHER", "ema2"), ("SEMI.TEACHER", "ema2")),
        (("DATASETS.TEST", "('shapesworld_val',)", "SOLVER.MAX_ITER", "1"), ("shapesworld_val", "13", "11")),
    ],
)
def test_wrong_settings_are_one_sentence(world, tmp_path, extra, words, options, last_words):
    assert_sentence(last_words(world, *options(world, tmp_path, *extra)), *words)


def test_missing_config_and_missing_weights_are_one_sentence(world, tmp_path, options, last_words):
    missing = run_program(world, tmp_path, "--config-file", str(REPOSITORY / "configs" / "quickstar.yaml"))
    assert_one_sentence(missing, "quickstar.yaml", "quickstart.yaml")
    assert_sentence(last_words(world, "--eval-only", *options(world, tmp_path)), "MODEL.WEIGHTS")


@pytest.mark.parametrize("tests, told", [(("own_val",), True), (("own_val", "own_test"), False)])
def test_evaluation_says_how_to_evaluate_on_test_images_of_ones_own(monkeypatch, caplog, tests, told):
    from hiervl.config.defaults import get_hiervl_cfg
    from hiervl.engine import trainer

    monkeypatch.setattr(trainer.SemiSupervisedTrainer, "build_model", lambda cfg: torch.nn.Identity())
    monkeypatch.setattr(trainer.SemiSupervisedTrainer, "test", lambda cfg, network: {"sem_seg": {}})
    monkeypatch.setattr(trainer, "load_network", lambda network, path, which: None)
    cfg = get_hiervl_cfg()
    cfg.MODEL.WEIGHTS, cfg.DATASETS.TEST = "model.pth", tests
    cfg.DATASET.NAME, cfg.DATASET.TEST = "own", "test.txt"
    with caplog.at_level("INFO", logger=trainer.__name__):
        assert trainer.SemiSupervisedTrainer.evaluate_checkpoint(cfg) == {"sem_seg": {}}
    assert ("DATASETS.TEST \"('own_test',)\"" in caplog.text) == told


@pytest.mark.parametrize("damage", ["missing", "unreadable", "size", "value"])
def test_damaged_data_is_one_sentence_that_names_the_file(world, tmp_path, damage, options, last_words):
    broken = tmp_path / "data"
    shutil.copytree(world / "camvid", broken / "camvid")
    victims = sorted((broken / "camvid" / "labels" / "train").iterdir())
    for label in victims:  # whichever of them is read first
        image = broken / "camvid" / "images" / "train" / label.name
        if damage == "missing":
            label.unlink()
        elif damage == "unreadable":
            image.write_bytes(image.read_bytes()[:60])
        elif damage == "size":
            cv2.imwrite(str(label), np.zeros((9, 9), np.uint8))
        else:
            cv2.imwrite(str(label), np.full((32, 40), 77, np.uint8))
    words = {"value": "77", "size": "9", "missing": "label", "unreadable": ".png"}
    assert_sentence(last_words(broken, *options(world, tmp_path)), words[damage], "train")


def test_checkpoint_with_code_is_refused(tmp_path):
    from hiervl.utils.checkpoint_file import read_checkpoint
    from hiervl.utils.errors import UserError

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was_run"),)

    torch.save({"model": Runs()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="carries code"):
        read_checkpoint(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was_run").exists()


def assert_one_sentence(run: subprocess.CompletedProcess, *words: str) -> None:
    assert run.returncode not in (0, None)
    assert "Traceback" not in run.stderr + run.stdout, run.stderr[-2000:]
    assert_sentence(run.stderr.strip().splitlines()[-1], *words)


def assert_sentence(text: str, *words: str) -> None:
    assert text.startswith("error: ") and "\n" not in text, text
    assert all(word in text for word in words), text


def test_a_run_on_the_cpu_leaves_gpus_alone(monkeypatch):
    """To ask a GPU for its random numbers takes memory there, and fails where there is none left."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    from hiervl.engine.checkpoint import RandomState

    state = RandomState()
    state.collect()
    assert [process_state["cuda"] for process_state in state.state_dict()["processes"]] == [None]
