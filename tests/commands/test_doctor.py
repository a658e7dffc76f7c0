import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hiervl.commands import doctor

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]


def run_doctor() -> int:
    return doctor.run(argparse.Namespace())


@pytest.fixture
def shipped_weights(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(doctor.SMALLEST_WEIGHTS_BYTES))
    monkeypatch.setattr(doctor, "SHAPESWORLD_WEIGHTS", path)
    return path


def test_a_sound_installation_passes(shipped_weights, capsys):
    pytest.importorskip("detectron2")
    assert run_doctor() == 0
    output = capsys.readouterr().out
    for name in ("python", *doctor.PACKAGES, "detectron2"):
        assert f"\n  {name} " in output
    assert "problem:" not in output


def test_a_missing_package_is_reported_once(shipped_weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy", None)  # importing it fails
    monkeypatch.setattr(doctor, "PACKAGES", {"scipy": "scipy", "absent_package": "absent-package"})
    monkeypatch.setattr(doctor, "check_detectron2", lambda report: None)
    assert run_doctor() == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem:")]
    install = f"{sys.executable} -m pip install"
    assert problems == [
        f"problem: scipy is not installed: run `{install} scipy`.",
        f"problem: absent-package is not installed: run `{install} absent-package`.",
    ]


def test_a_broken_package_is_reported_with_its_cause(shipped_weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_package.py").write_text("raise OSError('libfoo.so: not found\\nsecond line')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = doctor.Report()
    doctor.check_package(report, "broken_package", "broken-package")
    assert report.problems == [
        "broken_package cannot be imported (OSError: libfoo.so: not found): "
        f"reinstall it with `{sys.executable} -m pip install --force-reinstall broken-package`."
    ]


def test_versions_with_known_faults_are_noted(tmp_path, monkeypatch):
    """The same floors as pip's, and the same packages."""
    requirements = (REPOSITORY_ROOT / "requirements.txt").read_text().splitlines()
    for module, (major, minor) in doctor.OLDEST_SAFE.items():
        assert f"{doctor.PACKAGES[module]}>={major}.{minor}" in requirements
    names = {re.split("[<>=]", line)[0] for line in requirements if not line.startswith("#")}
    assert names == {*doctor.PACKAGES.values(), "setuptools", "wheel"}
    monkeypatch.syspath_prepend(str(tmp_path))
    for version, notes in (("2.9.1+cpu", 1), ("2.10.0", 0), ("3.0", 0)):
        (tmp_path / f"reader{notes}{version[0]}.py").write_text(f"__version__ = '{version}'\n")
        monkeypatch.setattr(doctor, "OLDEST_SAFE", {f"reader{notes}{version[0]}": (2, 10)})
        report = doctor.Report()
        doctor.check_package(report, f"reader{notes}{version[0]}", "reader")
        assert len(report.notes) == notes and not report.problems


def test_without_torch_the_report_is_complete_and_has_one_cause(shipped_weights):
    program = """
import sys
sys.modules["torch"] = None  # importing it fails
from hiervl.__main__ import main
sys.exit(main(["doctor"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    problems = [line for line in done.stdout.splitlines() if line.startswith("problem: torch")]
    assert problems == [f"problem: torch is not installed: run `{doctor.PIP} install torch`."]
    assert "torchvision cannot" not in done.stdout
    assert "ShapesWorld" in done.stdout


def test_a_missing_detectron2_is_a_problem_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(doctor.compat, "detectron2_directory", lambda: None)
    report = doctor.Report()
    doctor.check_detectron2(report)
    assert report.problems == [f"Detectron2 is not installed: run `{doctor.INSTALL_DETECTRON2}`."]


@pytest.mark.parametrize("size, defect", [(None, "is missing"), (130, "has only 130 bytes")])
def test_weights_that_are_missing_or_cut_short(shipped_weights, capsys, size, defect):
    shipped_weights.unlink()
    if size is not None:
        shipped_weights.write_bytes(bytes(size))
    report = doctor.Report()
    doctor.check_weights(report)
    assert report.problems == [
        f"The demo's weights file weights.safetensors {defect}: "
        "restore it with `git checkout -- hiervl/assets`, or install HierVL again."
    ]


def test_a_note_says_that_no_clip_is_cached(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    report = doctor.Report()
    doctor.check_weights(report)
    assert not report.problems and report.notes[0].startswith("No CLIP is in the caches")

    (tmp_path / "hub" / "models--timm--vit_base_patch16_clip_224.openai").mkdir(parents=True)
    report = doctor.Report()
    doctor.check_weights(report)
    assert not report.notes and "(models--timm--vit_base_patch16_clip_224.openai)" in capsys.readouterr().out


def test_datasets_are_looked_for_where_detectron2_does(tmp_path, monkeypatch, capsys):
    (tmp_path / "camvid").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    report = doctor.Report()
    doctor.check_datasets(report)
    output = capsys.readouterr().out
    assert f"{tmp_path} ($DETECTRON2_DATASETS)" in output
    assert f"  {'CamVid':<{doctor.LABEL_WIDTH}}found\n" in output
    assert not report.problems and not report.notes


def test_a_datasets_variable_that_leads_nowhere_is_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "absent"))
    report = doctor.Report()
    doctor.check_datasets(report)
    assert len(report.notes) == 1 and os.fspath(tmp_path / "absent") in report.notes[0]
