"""metrics.csv, Weights & Biases, and logs that repeat nothing after a resume."""

import csv
import importlib.util
import json
import sys
import types

import pytest
from detectron2.utils.events import EventStorage, JSONWriter

from hiervl.config.check import check_config
from hiervl.engine.loggers import CsvWriter, WandbWriter, build_loggers, drop_logged
from hiervl.utils.errors import UserError


def log(writer, *rows, start=0):
    """Let ``writer`` write rows of scalars, one iteration each."""
    with EventStorage(start) as storage:
        for row in rows:
            storage.put_scalars(**row, smoothing_hint=False)
            writer.write()
            storage.step()


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_takes_columns_that_come_late(tmp_path):
    path = tmp_path / "metrics.csv"
    log(CsvWriter(path), {"loss": 1.5}, {"loss": 1.0, "IoU, cat": 3.25, "a": 7}, {"loss": 0.5})
    assert path.read_text().splitlines()[0] == 'iteration,loss,"IoU, cat",a'
    assert read(path) == [
        {"iteration": "0", "loss": "1.5", "IoU, cat": "", "a": ""},
        {"iteration": "1", "loss": "1.0", "IoU, cat": "3.25", "a": "7.0"},
        {"iteration": "2", "loss": "0.5", "IoU, cat": "", "a": ""},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_resumed_logs_go_on_without_repetitions(tmp_path):
    """Killed in the middle of a line after iteration 3; the last checkpoint is of iteration 1."""
    rows = [{"loss": 10.0 + i} for i in range(4)]
    log(CsvWriter(tmp_path / "metrics.csv"), *rows)
    log(JSONWriter(str(tmp_path / "metrics.json")), *rows)
    # An evaluation may be logged after a later iteration than its own.
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 1, "sem_seg/mIoU": 5.0}\n{"iteration": 4, "lo')
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("4,1")

    writers = [CsvWriter(tmp_path / "metrics.csv"), JSONWriter(str(tmp_path / "metrics.json"))]  # before the cut
    drop_logged(str(tmp_path), 2)
    for writer in writers:
        log(writer, {"loss": 22.0}, {"loss": 23.0, "extra": 1.0}, start=2)
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [(row["iteration"], row.get("loss")) for row in logged] == [(0, 10), (1, 11), (1, None), (2, 22), (3, 23)]
    table = read(tmp_path / "metrics.csv")
    assert [(row["iteration"], row["loss"], row["extra"]) for row in table] == [
        ("0", "10.0", ""), ("1", "11.0", ""), ("2", "22.0", ""), ("3", "23.0", "1.0")
    ]  # fmt: skip


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package: it notes what it is told."""
    module = types.ModuleType("wandb")
    module.Error = type("Error", (Exception,), {})
    module.calls = []

    class Run:
        def log(self, values, step):
            module.calls.append((step, values))

        def finish(self):
            module.calls.append("finished")

    def init(**options):
        module.calls.append(options)
        return Run()

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_wandb_goes_on_with_the_run_of_the_folder(wandb, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"run": "abc", "starts": []}))
    writer = WandbWriter(str(tmp_path), {"SEED": 3})
    log(writer, {"loss": 1.5}, {"loss": 1.0}, start=7)
    writer.close()
    started, *logged = wandb.calls
    assert (started["id"], started["resume"], started["dir"]) == ("abc", "allow", str(tmp_path))
    assert (started["project"], started["name"], started["config"]) == ("hiervl", tmp_path.name, {"SEED": 3})
    assert logged == [(7, {"loss": 1.5}), (8, {"loss": 1.0}), "finished"]


def test_wandb_that_cannot_start_is_a_sentence(wandb, tmp_path):
    def init(**options):
        raise wandb.Error("api_key not configured")

    wandb.init = init
    with pytest.raises(UserError, match="api_key not configured.*WANDB_MODE=offline"):
        log(WandbWriter(str(tmp_path), {}), {"loss": 1.0})


def test_loggers_are_off_unless_they_are_named(make_cfg, tmp_path, monkeypatch):
    assert build_loggers(make_cfg()) == []
    cfg = make_cfg("LOGGERS", ["csv", "wandb"], "OUTPUT_DIR", str(tmp_path))
    assert [type(writer) for writer in build_loggers(cfg)] == [CsvWriter, WandbWriter]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_config(cfg)
    with pytest.raises(UserError, match="LOGGERS: 'tensorbord'"):
        check_config(make_cfg("LOGGERS", ["tensorbord"]))
