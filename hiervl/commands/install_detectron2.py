"""``python -m hiervl install-detectron2``: Detectron2 for this Python, without a compiler.

No package registry has Detectron2 under its own name. The source archive of ``detectron2-cdo``
0.5 holds the Python files of the official v0.5 tag unchanged, but lacks the C++ ones, so its own
build fails. HierVL does not use the compiled operations. This command packs the Python files as
``detectron2-0.5-py3-none-any.whl`` and installs that. ``hiervl/utils/compat.py`` adds what version 0.5 lacks with
today's NumPy and Pillow.

    hiervl install-detectron2                  # build the wheel and install it
    hiervl install-detectron2 --official       # the official repository, compiled
    hiervl install-detectron2 --wheel-dir DIR  # write the wheel to DIR, install nothing

An installed Detectron2 is not changed. Needs pip, PyTorch, setuptools and wheel.
This file imports nothing of HierVL: tools/install_detectron2.py runs it before anything is installed.
"""

import argparse
import base64
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

HELP = "install Detectron2, which no package registry has"

SDIST_PROJECT = "detectron2-cdo"
SDIST_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
VERSION = "0.5"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{VERSION}.dist-info"

OFFICIAL_REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
OFFICIAL_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main, 2026-06-06; reports version 0.6

# Detectron2's own setup.py places these small projects inside its package.
PROJECTS = {
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}

# What 0.5 imports at run time. Against its setup.py: no black, future and pydot (code formatting and
# Caffe2 export), and iopath 0.1.10 is allowed. PyTorch, torchvision and OpenCV stay undeclared, as there:
# which build of them to use is the user's choice. Only `model_zoo` imports pkg_resources, which
# setuptools 82 dropped.
REQUIRES = [
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.6",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.2",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    'setuptools<82; extra == "model-zoo"',
]

METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 {VERSION} without its compiled operations
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.8
Provides-Extra: model-zoo
{{requires}}

The Python files of Detectron2 {VERSION}, unchanged, from the source archive of {SDIST_PROJECT} {VERSION}
(sha256 {SDIST_SHA256}).
The compiled module detectron2._C is not included.
"""

WHEEL = """\
Wheel-Version: 1.0
Generator: hiervl install-detectron2
Root-Is-Purelib: true
Tag: py3-none-any
"""

HIERVL_PARENT = Path(__file__).resolve().parents[2]  # from where `import hiervl` finds this HierVL


class InstallError(Exception):
    """Its message is one sentence for the user."""


def installed_version() -> str | None:
    """The version of the Detectron2 that this Python would import, or None.

    It is read from the package's source: importing 0.5 can fail before ``hiervl.utils.compat`` has been applied.
    """
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.origin:  # without an origin it is only an empty directory
        return None
    source = Path(spec.origin).read_text(encoding="utf-8")
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", source, re.MULTILINE)
    return found.group(1) if found else None


def release(version: str) -> tuple[int, ...]:
    """``"0.6.dev1"`` -> (0, 6): the leading numbers, for comparing."""
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])[:2])


def run_pip(*arguments: str, failure: str) -> None:
    """Run this Python's pip. Its messages go to the terminal, and a failure becomes one sentence."""
    if not list(importlib.metadata.distributions(name="pip")):  # to look for its module would break setuptools
        raise InstallError("pip is missing from this Python: add it with `python -m ensurepip`.")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise InstallError(failure)


def require_modules(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallError(
            f"{', '.join(missing)} must be installed first: run `{sys.executable} -m pip install {' '.join(missing)}`."
        )


def download_sdist(directory: Path) -> Path:
    """Download the source archive with pip, which checks the hash before it runs anything in the archive."""
    require_modules("torch", "setuptools", "wheel")  # pip asks the archive's setup.py, which imports torch
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{SDIST_PROJECT}=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    run_pip(
        "download", "--quiet", "--no-deps", "--no-binary", SDIST_PROJECT, "--no-build-isolation",
        "--require-hashes", "--requirement", str(requirements), "--dest", str(directory),
        failure=f"pip could not download {SDIST_PROJECT} {VERSION}, see its messages above.",
    )  # fmt: skip
    archives = sorted(directory.glob("*.tar.gz"))
    if len(archives) != 1:
        raise InstallError(f"pip left {len(archives)} source archives where one was expected.")
    return archives[0]


def checked_path(name: str) -> PurePosixPath:
    """The member's path below the archive's top directory. Refuses names that lead outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise InstallError(f"The source archive was refused: its member {name!r} leads outside of it.")
    return PurePosixPath(*path.parts[1:])


def place_in_wheel(path: PurePosixPath) -> str | None:
    """Where a file of the source archive goes in the wheel; None if it is not installed."""
    if str(path) == "LICENSE":
        return f"{DIST_INFO}/LICENSE"
    if path.parts[0] == "detectron2":
        return str(path)
    for source, target in PROJECTS.items():
        if PurePosixPath(source) in path.parents:
            return str(PurePosixPath(target) / path.relative_to(source))
    return None


def read_sdist(sdist: Path, sha256: str) -> dict[str, bytes]:
    """The files to install, by their name in the wheel. Nothing is written to disk or run."""
    try:
        content = sdist.read_bytes()
    except OSError as error:
        raise InstallError(f"The source archive {sdist} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise InstallError(f"The source archive {sdist} was refused: its sha256 is {digest}, not {sha256}.")
    files = {}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            path = checked_path(member.name)
            if member.isdir():
                continue
            if not member.isfile():
                raise InstallError(f"The source archive was refused: its member {member.name!r} is not a plain file.")
            target = place_in_wheel(path) if path.parts else None
            if target is not None:
                with archive.extractfile(member) as file:  # type: ignore[union-attr]  # a plain file is never None
                    files[target] = file.read()
    if "detectron2/__init__.py" not in files:
        raise InstallError(f"The source archive {sdist} holds no detectron2 package.")
    return files


def record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode("ascii")
    return f"{name},sha256={digest},{len(content)}\n"


def build_wheel(sdist: Path, wheel_dir: Path, sha256: str = SDIST_SHA256) -> Path:
    """Pack the Python files of ``sdist``, whose hash must be ``sha256``, as a wheel in ``wheel_dir``.

    The same archive gives the same bytes everywhere: names are sorted, dates fixed, and files stored
    rather than compressed, because compressors differ between zlib versions.
    """
    files = read_sdist(sdist, sha256)
    requires = "\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIRES)
    files[f"{DIST_INFO}/METADATA"] = METADATA.format(requires=requires).encode("utf-8")
    files[f"{DIST_INFO}/WHEEL"] = WHEEL.encode("utf-8")
    record = "".join(record_line(name, files[name]) for name in sorted(files))
    files[f"{DIST_INFO}/RECORD"] = f"{record}{DIST_INFO}/RECORD,,\n".encode()

    wheel_dir.mkdir(parents=True, exist_ok=True)
    wheel = wheel_dir / WHEEL_NAME
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        # RECORD comes last, as the wheel format recommends.
        for name in sorted(files, key=lambda name: (name.endswith("/RECORD"), name)):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, on every machine
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return wheel


def install_pure_python(sdist: Path | None, wheel_dir: Path | None) -> None:
    """Build the wheel. Install it unless ``wheel_dir`` asks only to write it there."""
    with tempfile.TemporaryDirectory() as scratch:
        if sdist is None:
            print(f"Downloading the source archive of {SDIST_PROJECT} {VERSION} ...", flush=True)
            sdist = download_sdist(Path(scratch))
        wheel = build_wheel(sdist, wheel_dir or Path(scratch) / "wheel")
        if wheel_dir is not None:
            print(f"Wrote {wheel}.")
            return
        print(f"Installing {wheel.name} ...", flush=True)
        failure = f"pip could not install {wheel.name}, see its messages above."
        run_pip("install", "--quiet", str(wheel), failure=failure)


def install_official() -> None:
    """Build and install the official repository. This needs git and a C++ compiler."""
    require_modules("torch", "setuptools", "wheel")  # without isolation the build uses this environment's
    print(f"Building the official Detectron2 at {OFFICIAL_COMMIT[:12]} (some minutes) ...", flush=True)
    requirement = f"detectron2 @ git+{OFFICIAL_REPOSITORY}@{OFFICIAL_COMMIT}"
    failure = "pip could not build Detectron2, which takes git and a C++ compiler, see its messages above."
    run_pip("install", "--quiet", "--no-build-isolation", requirement, failure=failure)


def check_import() -> None:
    """Import the installed Detectron2 as HierVL does, in a separate process."""
    program = "import hiervl, detectron2.engine, detectron2.evaluation"
    if subprocess.run([sys.executable, "-c", program], cwd=HIERVL_PARENT, check=False).returncode != 0:
        raise InstallError("Detectron2 was installed, but importing it fails, see the traceback above.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--official", action="store_true", help="build the official repository instead")
    what.add_argument("--wheel-dir", type=Path, metavar="DIR", help="only write the wheel, to this directory")
    parser.add_argument("--sdist", type=Path, metavar="FILE", help="use this copy of the source archive")


def install(arguments: argparse.Namespace) -> None:
    if arguments.official and arguments.sdist:
        raise InstallError("--sdist names an archive of version 0.5, which --official does not use: give one of them.")
    if arguments.wheel_dir is not None:
        install_pure_python(arguments.sdist, arguments.wheel_dir)
        return
    present = installed_version()
    if present is not None and release(present) < release(VERSION):
        raise InstallError(f"Detectron2 {present} is installed, {VERSION} or newer is needed: uninstall it first.")
    if present is not None and not (arguments.official and release(present) == release(VERSION)):
        print(f"Detectron2 {present} is installed already.")
        return
    if arguments.official:
        install_official()
    else:
        install_pure_python(arguments.sdist, None)
    check_import()
    print(f"Installed Detectron2 {installed_version()}.")


def run(arguments: argparse.Namespace) -> int:
    """0: Detectron2 is installed; 1: one sentence says why not."""
    try:
        install(arguments)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """For a checkout without its dependencies, where ``hiervl.__main__`` is not needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
