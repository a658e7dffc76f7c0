import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hiervl.commands import doctor

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]


def run_doctor(config_file: str = "", deltas=(), opts=()) -> int:
    return doctor.run(argparse.Namespace(config_file=config_file, deltas=list(deltas), opts=list(opts)))


@pytest.fixture
def shipped_weights(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "small_clip"
    folder.mkdir()
    for file in ("small.json", "bpe.txt.gz"):
        (folder / file).touch()
    path = folder / "weights.safetensors"
    path.write_bytes(bytes(doctor.SMALLEST_WEIGHTS_BYTES))
    monkeypatch.setattr(doctor, "SHIPPED_CLIPS", {"small": folder})
    return path


def test_a_sound_installation_passes(shipped_weights, capsys):
    pytest.importorskip("detectron2")
    assert run_doctor() == 0
    output = capsys.readouterr().out
    for name in ("python", *doctor.PACKAGES, "detectron2"):
        assert f"\n  {name} " in output
    assert "problem:" not in output


def test_the_models_that_come_with_hiervl_are_all_looked_at():
    """The doctor has a list of its own, since it must run where the network cannot be imported."""
    from hiervl.modeling.clip import SHIPPED

    assert doctor.SHIPPED_CLIPS == {name: config.parent for name, config in SHIPPED.items()}


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
    assert "  imagenet-lite /" in done.stdout


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
        f"Of the CLIP 'small' that HierVL brings, weights.safetensors {defect}: restore it with "
        "`git checkout -- hiervl/assets`, or install HierVL again."
    ]


def test_the_clips_that_hiervl_brings_are_those_it_loads(shipped_weights):
    from hiervl.modeling.clip import SHIPPED

    assert {name: path.parent for name, path in SHIPPED.items()} == {
        "shapesworld": doctor.ASSETS / "shapesworld_clip",
        "imagenet-lite": doctor.ASSETS / "imagenet_lite",
    }
    assert all(doctor.shipped_defect(path.parent) is None for path in SHIPPED.values())
    (shipped_weights.parent / "bpe.txt.gz").unlink()
    assert doctor.shipped_defect(shipped_weights.parent) == "bpe.txt.gz is missing"


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


def doctor_of(monkeypatch, tmp_path, *arguments) -> doctor.Report:
    """What ``check_encoders`` reports with empty caches."""
    from hiervl.modeling import encoder_files

    monkeypatch.setattr(encoder_files, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(encoder_files, "URL_CACHE", str(tmp_path / "urls"))
    report = doctor.Report()
    doctor.check_encoders(report, *arguments)
    return report


def test_encoders_of_a_config_that_hiervl_brings(monkeypatch, tmp_path, capsys):
    report = doctor_of(monkeypatch, tmp_path, "camvid_46_cpu.yaml", [], [])
    assert not report.problems and not report.notes
    output = capsys.readouterr().out
    assert re.search(r"\n  weights +/.*imagenet_lite/weights.safetensors \(found\)", output), output


def test_encoders_that_are_fetched_or_missing(monkeypatch, tmp_path, capsys):
    """Weights of two encoders and a tokenizer: in the cache, to be fetched, and a file that is not there."""
    delta = "encoders/dinov2_b.yaml"
    report = doctor_of(monkeypatch, tmp_path, "pascal_92.yaml", [delta], [])
    assert not report.problems and len(report.notes) == 2
    assert report.notes[1].startswith(
        "MODEL.ENCODER.PRETRAINED is not in the cache: the first training fetches timm/vit_base_patch14_dinov2.lvd142m"
    )
    snapshot = tmp_path / "hub" / "models--timm--vit_base_patch14_dinov2.lvd142m" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (tmp_path / "urls").mkdir()
    report = doctor_of(monkeypatch, tmp_path, "pascal_92.yaml", [delta], ["MODEL.CLIP.PRETRAINED", "/nowhere.pt"])
    assert not report.notes and len(report.problems) == 1
    assert report.problems[0].startswith("MODEL.CLIP.PRETRAINED '/nowhere.pt' is missing: give an existing")
    report = doctor_of(monkeypatch, tmp_path, "pascal_92.yaml", ["encoders/siglip2_b.yaml"], [])
    assert [note.split(" is not")[0] for note in report.notes] == ["MODEL.CLIP.PRETRAINED", "MODEL.CLIP.TOKENIZER"]
    assert "vit_base_patch14_dinov2.lvd142m/snapshots/0/model.safetensors (found)" in capsys.readouterr().out


def test_an_encoder_that_cannot_be_read_is_a_problem(monkeypatch, tmp_path):
    report = doctor_of(monkeypatch, tmp_path, "pascal_92.yaml", [], ["MODEL.CLIP.NAME", "no_such_model"])
    assert len(report.problems) == 1 and "no_such_model" in report.problems[0]
