"""The dispatcher of ``python -m hiervl``."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from hiervl import __main__ as entry
from hiervl.utils import program
from hiervl.utils.errors import UserError


@pytest.fixture
def command(monkeypatch):
    """A command ``fake`` that a test gives its ``run``."""
    module = types.ModuleType("fake_command")
    module.HELP = "Only for the test."
    module.add_arguments = lambda parser: parser.add_argument("--size", type=int, default=3)
    module.run = lambda args: args.size
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setitem(entry.COMMANDS, "fake", "fake_command")
    return module


def test_arguments_reach_the_command_and_its_status_comes_back(command):
    assert entry.main(["fake"]) == 3
    assert entry.main(["fake", "--size", "5"]) == 5


def test_help_names_a_default_only_where_there_is_one(command, capsys):
    def add_arguments(parser):
        parser.add_argument("--size", type=int, default=3, help="how many")
        parser.add_argument("--input", required=True, help="a folder")
        parser.add_argument("--device", default="", help="such as cpu (the best)")

    command.add_arguments = add_arguments
    with pytest.raises(SystemExit):
        entry.main(["fake", "--help"])
    lines = [line.split(maxsplit=2)[-1] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert lines == ["how many (default: 3)", "a folder", "such as cpu (the best)"]


def test_a_user_error_is_one_line_without_a_traceback(command, capsys):
    def fail(args):
        raise UserError("the file a.png does not exist.")

    command.run = fail
    assert entry.main(["fake"]) == 2
    assert capsys.readouterr().err == "error: the file a.png does not exist.\n"


def test_output_that_nobody_reads_any_more_ends_quietly():
    """As with ``| head``."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-m", "hiervl", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert result.returncode == 141 and result.stderr == b""


def test_a_broken_pipe_of_something_else_is_not_hidden(command):
    def run(args):
        raise BrokenPipeError("of a worker")

    command.run = run
    with pytest.raises(BrokenPipeError, match="of a worker"):
        entry.main(["fake"])


def test_exhausted_memory_of_a_gpu_is_one_line(command, capsys):
    def fail(args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    command.run = fail
    assert entry.main(["fake"]) == 2
    assert capsys.readouterr().err.startswith("error: the GPU's memory is exhausted: end other programs")


def test_other_errors_keep_their_traceback(command):
    def fail(args):
        raise args.error

    command.run = fail
    for error in (ZeroDivisionError, RuntimeError):
        command.add_arguments = lambda parser, error=error: parser.set_defaults(error=error)
        with pytest.raises(error):
            entry.main(["fake"])


def test_an_unknown_command_is_a_user_error(capsys):
    assert entry.main(["no-such"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'no-such'")


def test_a_package_that_a_command_lacks_is_a_user_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "lacking_command.py").write_text("import absent_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(entry.COMMANDS, "lacking", "lacking_command")
    assert entry.main(["lacking"]) == 2
    assert "lacking needs absent_package, which is not installed" in capsys.readouterr().err


def test_the_overview_lists_every_command_without_importing_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "slow_command.py").write_text('HELP = "Slow to import."\nraise RuntimeError\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(entry.COMMANDS, "slow", "slow_command")
    assert entry.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in entry.COMMANDS)
    assert "Slow to import." in output


def test_an_earlier_config_is_kept_as_it_was(tmp_path):
    from hiervl.engine import main as engine_main

    (tmp_path / "config.yaml").write_text("SEED: 1\n")
    with engine_main.kept_config(str(tmp_path)):
        (tmp_path / "config.yaml").write_text("SEED: 2\n")
    assert (tmp_path / "config.yaml").read_text() == "SEED: 1\n"
    with engine_main.kept_config(str(tmp_path / "new")):
        pass
    assert not (tmp_path / "new").exists()


def test_a_training_that_fails_at_its_start_leaves_an_earlier_config(tmp_path):
    from hiervl.config.defaults import get_hiervl_cfg
    from hiervl.engine import main as engine_main

    class Trainer:
        was_stopped = True

        def __init__(self, cfg):
            if cfg.SEED == 2:
                raise UserError("a mask is broken")

        def resume_or_load(self, resume):
            pass

        def train(self):
            pass

    cfg = get_hiervl_cfg()
    cfg.OUTPUT_DIR, path = str(tmp_path), tmp_path / "config.yaml"
    path.write_text("SEED: 1\n")
    cfg.SEED = 2
    with pytest.raises(UserError):
        engine_main.train(cfg, resume=False, trainer_class=Trainer)
    cfg.SEED = 3
    engine_main.train(cfg, resume=True, trainer_class=Trainer)
    assert path.read_text() == "SEED: 1\n"
    engine_main.train(cfg, resume=False, trainer_class=Trainer)
    assert "SEED: 3\n" in path.read_text()


def test_the_log_leaves_out_the_config_and_nothing_else():
    from hiervl.engine import main as engine_main

    def shown(text):
        return engine_main.is_short(logging.LogRecord("detectron2", logging.INFO, "", 0, text, None, None))

    assert not shown("Running with full config:\nSEED: 1")
    assert not shown("Contents of args.config_file=a.yaml:\nSEED: 1")
    assert shown("Full config saved to output/config.yaml")


def test_the_command_that_goes_on_names_the_python_that_ran(tmp_path, monkeypatch):
    from hiervl.engine.run_record import resume_command

    monkeypatch.setattr(program, "_of_user", False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "my trees.yaml"])
    Path("my_hiervl.py").touch()
    Path("train_net.py").touch()
    rest = "train_net.py --resume --config-file 'my trees.yaml'"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert resume_command() == f".venv/bin/python {rest}"
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert resume_command() == f"/usr/bin/python3 {rest}"
    module, installed = str(tmp_path / "hiervl" / "__main__.py"), str(tmp_path / "bin" / "hiervl")
    starts = {
        module: "/usr/bin/python3 -m hiervl",
        installed: "bin/hiervl",
        "my_hiervl.py": "/usr/bin/python3 my_hiervl.py",
        "-c": "/usr/bin/python3 -m hiervl",  # code without a file
    }
    for script, start in starts.items():
        monkeypatch.setattr(sys, "argv", [script, "train", "--resume", "--config-file", "my trees.yaml"])
        program.note_commands_of_script()
        assert resume_command() == f"{start} train --resume --config-file 'my trees.yaml'"
        assert program.shell_command("check-data", "a b.yaml") == f"{start} check-data 'a b.yaml'"
    monkeypatch.setattr(sys, "argv", [installed])
    monkeypatch.setattr(shutil, "which", lambda name: installed)
    assert program.program() == "hiervl"
    monkeypatch.setattr(Path, "cwd", lambda: open(tmp_path / "gone"))  # the working folder was deleted
    assert program.interpreter() == "/usr/bin/python3"


def test_a_script_of_the_users_own_is_named_in_commands(tmp_path, monkeypatch, capsys):
    """docs/extending.md has one, which registers the user's parts."""
    monkeypatch.setattr(program, "_of_user", False)
    monkeypatch.chdir(tmp_path)
    Path("my_hiervl.py").touch()
    monkeypatch.setattr(sys, "argv", ["my_hiervl.py", "--version"])
    assert not program.program().endswith("my_hiervl.py")
    assert entry.main() == 0
    assert program.program().endswith(" my_hiervl.py")
    for without_file in ("-c", "-", ""):
        monkeypatch.setattr(sys, "argv", [without_file, "--version"])
        assert entry.main() == 0
        assert program.program().endswith(" -m hiervl")


def test_a_stopped_training_has_no_results():
    from hiervl.engine import main as engine_main

    trainer = types.SimpleNamespace(resume_or_load=lambda resume: None, train=lambda: {"a": 1}, was_stopped=True)
    assert engine_main.train(None, resume=True, trainer_class=lambda cfg: trainer) is None
    trainer.was_stopped = False
    assert engine_main.train(None, resume=True, trainer_class=lambda cfg: trainer) == {"a": 1}


def test_a_full_disk_is_a_sentence(monkeypatch):
    from hiervl.engine import main as engine_main

    def work(args, trainer):
        raise OSError(code, os.strerror(code), "out/run.json.tmp")

    monkeypatch.setattr(engine_main, "work", work)
    code = errno.ENOSPC
    with pytest.raises(UserError, match=r"^'out/run.json.tmp' cannot be written .No space left.*--resume.\.$"):
        engine_main.main(None)
    code = errno.EBADF  # a fault of ours
    with pytest.raises(OSError):
        engine_main.main(None)


@pytest.mark.parametrize("device, keeps", [("cpu", True), ("cuda", False)])
def test_only_trainings_on_a_cpu_keep_their_memory(monkeypatch, tmp_path, device, keeps):
    from hiervl.engine import main as engine_main

    def ready(cfg, training):
        cfg.MODEL.DEVICE = device
        return cfg

    def lock(folder):
        raise UserError("the rest is not run")

    kept = []
    monkeypatch.setattr(engine_main, "prepare_config", ready)
    monkeypatch.setattr(engine_main, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(engine_main, "RunLock", lock)
    with pytest.raises(UserError):
        engine_main.main(engine_main.argument_parser().parse_args(["OUTPUT_DIR", str(tmp_path)]))
    assert bool(kept) == keeps
