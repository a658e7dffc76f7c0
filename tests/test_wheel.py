"""HierVL as a user installs it: the wheel in an environment of its own, used away from the checkout."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

# Not importorskip: with pip loaded, setuptools cannot be imported by the tests that follow in this process.
if not list(importlib.metadata.distributions(name="pip")):
    pytest.skip("the wheel is built and installed by pip", allow_module_level=True)

REPOSITORY = Path(__file__).resolve().parents[1]
# All that the build reads; a copy is built, because a build leaves its folders behind.
SOURCES = ("hiervl", "configs", "requirements", "requirements.txt", "pyproject.toml", "setup.py", "README.md")
LICENSES = ("LICENSE", "NOTICE")


def pip(*arguments: object) -> None:
    options = ["--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", *options, *map(str, arguments)], check=True, cwd=REPOSITORY.parent)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, *LICENSES):
        place = REPOSITORY / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, source / name)
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.glob("hiervl-*.whl")
    return built


def make_environment(folder: Path, wheel: Path) -> Path:
    """A virtual environment that holds the wheel alone; returns the folder of its scripts."""
    venv.create(folder, with_pip=False)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return folder / "bin"


def run(scripts: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    command = [str(scripts / "hiervl"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts of an environment with the wheel and the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    scripts = make_environment(folder, wheel)
    here = sysconfig.get_paths()
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "present.pth").write_text("\n".join({here["purelib"], here["platlib"]}) + "\n")
    return scripts


def test_without_its_packages_doctor_says_what_is_missing(wheel, tmp_path):
    scripts = make_environment(tmp_path / "environment", wheel)
    result = run(scripts, tmp_path, "doctor")
    assert result.returncode == 1, result.stderr
    python = scripts / "python"
    assert f"problem: torch is not installed: run `{python} -m pip install torch`.\n" in result.stdout
    assert f"problem: Detectron2 is not installed: run `{python} -m hiervl install-detectron2`.\n" in result.stdout


def test_doctor_finds_all_in_place(installed, tmp_path):
    result = run(installed, tmp_path, "doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{installed.parent}/lib" in result.stdout  # the weights are the wheel's, not the checkout's
    assert result.stdout.endswith("Everything needed is in place.\n")


def test_demo_then_prediction_with_its_network(installed, photo, tmp_path):
    few = [
        "SOLVER.MAX_ITER",
        2,
        "TEST.EVAL_PERIOD",
        0,
        "TEST.PICTURES",
        1,
        "DATASETS.TEST",
        "('shapesworld_train_16',)",
    ]
    result = run(installed, tmp_path, "demo", *few)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "unlabelled images gained" in result.stdout
    trained = tmp_path / "output" / "demo" / "semi-supervised"
    result = run(installed, tmp_path, "predict", "--weights", trained, "--input", photo, "--output", "predictions")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list((tmp_path / "predictions").rglob("photo*.png"))


def test_a_shipped_config_is_found_by_its_name(installed, tmp_path, monkeypatch):
    """Training ends with a sentence about the data, which is not there, and not about the config."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    result = run(installed, tmp_path, "train", "--config-file", "coco_232.yaml", "MODEL.DEVICE", "cpu")
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert str(tmp_path / "coco") in line
