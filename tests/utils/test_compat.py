"""Each check runs in a Python of its own, because compat changes modules for the whole process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hiervl.utils import compat

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]

DESCRIBE = """
import json, sys
import hiervl
import numpy
from PIL import Image
print(json.dumps({
    "applied": hiervl.utils.compat.applied,
    "numpy.int": "int" in vars(numpy),
    "Image.LINEAR": hasattr(Image, "LINEAR"),
    "_C": "detectron2._C" in sys.modules,
    "imported": "detectron2" in sys.modules,
}))
"""


def run_python(program: str, *search_path: Path) -> str:
    paths = os.pathsep.join(map(str, (*search_path, REPOSITORY_ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_detectron2(directory: Path, version: str) -> None:
    (directory / "detectron2").mkdir()
    (directory / "detectron2/__init__.py").write_text(f'__version__ = "{version}"\n')


def test_detectron2_works_after_importing_hiervl():
    """Version 0.5 could neither be imported nor count without the stand-ins; a newer one gets none."""
    program = """
import hiervl
import detectron2.engine, detectron2.evaluation, detectron2.modeling, detectron2.utils.visualizer
from detectron2.data import build
build.log_first_n = lambda level, text, **_: print(text)
build.print_instances_class_histogram([{"annotations": [{"category_id": 0}] * 7}], ["cat", "dog"])  # uses numpy.int
print("stand-ins:", len(hiervl.utils.compat.applied))
"""
    printed = run_python(program)
    assert re.search(r"\| *cat *\| *7 *\| *dog *\| *0 *\|", printed), printed
    version = compat.detectron2_version(compat.detectron2_directory())
    assert compat.needs_stand_ins(version) or "stand-ins: 0\n" in printed


def test_version_0_5_gets_what_is_absent(tmp_path):
    write_detectron2(tmp_path, "0.5")
    found = json.loads(run_python(DESCRIBE, tmp_path))
    assert found["numpy.int"] and found["Image.LINEAR"] and found["_C"]
    assert "detectron2._C" in found["applied"]
    assert not found["imported"]


@pytest.mark.parametrize("version", ["0.6", "0.7.dev1", "1.0"])
def test_newer_versions_change_nothing(tmp_path, version):
    write_detectron2(tmp_path, version)
    found = json.loads(run_python(DESCRIBE, tmp_path))
    untouched = "import numpy\nfrom PIL import Image\nprint('int' in vars(numpy), hasattr(Image, 'LINEAR'))"
    assert found["applied"] == []
    assert f"{found['numpy.int']} {found['Image.LINEAR']}" == run_python(untouched).strip()
    assert not found["_C"]


def test_compiled_operations_are_kept(tmp_path):
    write_detectron2(tmp_path, "0.5")
    (tmp_path / "detectron2/_C.py").write_text("COMPILED = True\n")
    program = (
        "import hiervl\nfrom detectron2 import _C\nprint(_C.COMPILED, 'detectron2._C' in hiervl.utils.compat.applied)"
    )
    assert run_python(program, tmp_path).strip() == "True False"


def test_a_missing_operation_says_what_to_do(tmp_path):
    write_detectron2(tmp_path, "0.5")
    program = """
import hiervl
from detectron2 import _C
assert not _C.has_cuda()
try:
    _C.nms_rotated
except AttributeError as error:
    print(error)
"""
    message = run_python(program, tmp_path)
    assert "detectron2._C.nms_rotated" in message and "--official" in message


def test_importing_hiervl_needs_no_package():
    program = """
import sys
for name in ("detectron2", "torch", "numpy", "PIL"):
    sys.modules[name] = None  # importing it fails
import hiervl, hiervl.__main__
print(hiervl.utils.compat.applied)
"""
    assert run_python(program).strip() == "[]"


@pytest.mark.parametrize(
    "version, needed", [("0.4.1", True), ("0.5", True), ("0.5+cpu", True), ("0.6", False), (None, False)]
)
def test_which_versions_need_stand_ins(version, needed):
    assert compat.needs_stand_ins(version) is needed
