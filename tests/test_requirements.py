"""The files that name packages agree with one another."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "requirements"


def read(path: Path) -> list[Requirement]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_by_make() -> list[Path]:
    """The files of the Makefile's REQUIREMENTS; heic.txt is not among them: the tests want to see it missing."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (names,) = re.findall(r"^REQUIREMENTS := requirements\.txt \$\(addprefix requirements/,(.*)\)$", makefile, re.M)
    return [REPOSITORY / "requirements.txt", *(FOLDER / name for name in names.split())]


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("lock", sorted(FOLDER.glob("lock-*.txt")), ids=lambda path: path.stem)
def test_the_lock_file_has_every_package_that_is_asked_for(lock):
    locked = {normal(pin.name): next(iter(pin.specifier)).version for pin in read(lock)}
    missing = [
        f"{path.name}: {requirement}"
        for path in installed_by_make()
        for requirement in read(path)
        if normal(requirement.name) not in locked
        or not requirement.specifier.contains(locked[normal(requirement.name)])
    ]
    assert missing == []
