"""The wheel builder, on small made-up source archives. Nothing is downloaded or installed."""

import base64
import csv
import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "hiervl" / "commands" / "install_detectron2.py"

SDIST_FILES = {
    "LICENSE": b"Apache License\n",
    "setup.py": b"raise SystemExit('must not run')\n",
    "detectron2/__init__.py": b'__version__ = "0.5"\n',
    "detectron2/model_zoo/configs/Base.yaml": b"VERSION: 2\n",
    "projects/DeepLab/deeplab/__init__.py": b"NAME = 'deeplab'\n",
    "tools/train_net.py": b"",
}
# By hand from setup.py: the package as it is, three projects inside it, nothing else.
INSTALLED_FILES = {
    "detectron2/__init__.py",
    "detectron2/model_zoo/configs/Base.yaml",
    "detectron2/projects/deeplab/__init__.py",
    "detectron2-0.5.dist-info/LICENSE",
    "detectron2-0.5.dist-info/METADATA",
    "detectron2-0.5.dist-info/WHEEL",
    "detectron2-0.5.dist-info/RECORD",
}


@pytest.fixture(scope="module")
def installer():
    spec = importlib.util.spec_from_file_location("install_detectron2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_sdist(path: Path, files=SDIST_FILES, extra_members=()) -> str:
    """Write a source archive below the directory ``top`` and return its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra_members:
            archive.addfile(member, io.BytesIO(b""))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_wheel_holds_the_package_and_its_projects(installer, tmp_path):
    sdist = tmp_path / "sdist.tar.gz"
    wheel = installer.build_wheel(sdist, tmp_path / "wheels", sha256=write_sdist(sdist))
    assert wheel.name == "detectron2-0.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == INSTALLED_FILES
        assert archive.read("detectron2/__init__.py") == SDIST_FILES["detectron2/__init__.py"]
        assert archive.read("detectron2-0.5.dist-info/LICENSE") == SDIST_FILES["LICENSE"]
        metadata = archive.read("detectron2-0.5.dist-info/METADATA").decode()
    assert metadata.startswith("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.5\n")
    assert "\nRequires-Dist: fvcore>=0.1.5,<0.1.6\n" in metadata
    assert "black" not in metadata


def test_record_lists_every_file_with_its_hash(installer, tmp_path):
    sdist = tmp_path / "sdist.tar.gz"
    wheel = installer.build_wheel(sdist, tmp_path, sha256=write_sdist(sdist))
    with zipfile.ZipFile(wheel) as archive:
        record = "detectron2-0.5.dist-info/RECORD"
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
        assert set(rows) == INSTALLED_FILES
        assert rows.pop(record) == ["", ""]
        for name, (digest, size) in rows.items():
            content = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={expected}", str(len(content)))


def test_the_same_archive_gives_the_same_wheel(installer, tmp_path):
    sdist = tmp_path / "sdist.tar.gz"
    digest = write_sdist(sdist)
    first = installer.build_wheel(sdist, tmp_path / "first", sha256=digest)
    second = installer.build_wheel(sdist, tmp_path / "second", sha256=digest)
    assert first.read_bytes() == second.read_bytes()


def test_pip_accepts_the_wheel(installer, tmp_path):
    sdist = tmp_path / "sdist.tar.gz"
    wheel = installer.build_wheel(sdist, tmp_path, sha256=write_sdist(sdist))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(wheel)], check=True)
    assert (tmp_path / "site/detectron2/projects/deeplab/__init__.py").is_file()


def test_a_wrong_hash_is_refused(installer, tmp_path):
    sdist = tmp_path / "sdist.tar.gz"
    write_sdist(sdist)
    with pytest.raises(installer.InstallError, match="its sha256 is"):
        installer.build_wheel(sdist, tmp_path / "wheels", sha256="0" * 64)
    assert not (tmp_path / "wheels").exists()


@pytest.mark.parametrize("name", ["top/../../escaped.py", "/detectron2/escaped.py", "top\\escaped.py", "C:/e.py"])
def test_a_member_that_leads_outside_is_refused(installer, tmp_path, name):
    sdist = tmp_path / "sdist.tar.gz"
    digest = write_sdist(sdist, extra_members=[tarfile.TarInfo(name)])
    with pytest.raises(installer.InstallError, match="leads outside"):
        installer.build_wheel(sdist, tmp_path / "wheels", sha256=digest)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_is_refused(installer, tmp_path, kind):
    member = tarfile.TarInfo("top/detectron2/link.py")
    member.type, member.linkname = kind, "__init__.py"
    sdist = tmp_path / "sdist.tar.gz"
    digest = write_sdist(sdist, extra_members=[member])
    with pytest.raises(installer.InstallError, match="not a plain file"):
        installer.build_wheel(sdist, tmp_path / "wheels", sha256=digest)


def fake_detectron2(directory: Path, version: str) -> None:
    (directory / "detectron2").mkdir(parents=True)
    source = f'__version__ = "{version}"\nraise ImportError("must not be imported")\n'
    (directory / "detectron2/__init__.py").write_text(source)


@pytest.mark.parametrize("version, arguments", [("0.5", []), ("0.6", []), ("0.6", ["--official"])])
def test_an_installed_detectron2_is_left_alone(installer, tmp_path, monkeypatch, capsys, version, arguments):
    fake_detectron2(tmp_path, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.setattr(installer, "run_pip", lambda *_, **__: pytest.fail("pip was called"))
    assert installer.main(arguments) == 0
    assert capsys.readouterr().out == f"Detectron2 {version} is installed already.\n"


def test_an_older_detectron2_is_an_error_of_one_sentence(installer, tmp_path, monkeypatch, capsys):
    fake_detectron2(tmp_path, "0.4.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    assert installer.main([]) == 1
    error = capsys.readouterr().err
    assert error == "error: Detectron2 0.4.1 is installed, 0.5 or newer is needed: uninstall it first.\n"


def test_an_unreadable_archive_is_an_error_of_one_sentence(installer, tmp_path, capsys):
    missing = tmp_path / "missing.tar.gz"
    assert installer.main(["--wheel-dir", str(tmp_path), "--sdist", str(missing)]) == 1
    error = f"error: The source archive {missing} cannot be read: No such file or directory.\n"
    assert capsys.readouterr().err == error


def test_the_tool_runs_where_nothing_is_installed(tmp_path):
    tool = SCRIPT.parents[2] / "tools" / "install_detectron2.py"
    command = [sys.executable, "-I", "-S", str(tool), "--wheel-dir", str(tmp_path), "--sdist", "missing.tar.gz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: The source archive missing.tar.gz cannot be read: No such file or directory.\n"
