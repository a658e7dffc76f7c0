"""The files that name packages agree with one another."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "requirements"


def read(path: Path) -> list[Requirement]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("lock", sorted(FOLDER.glob("lock-*.txt")), ids=lambda path: path.stem)
def test_the_lock_file_has_every_package_that_is_asked_for(lock):
    locked = {normal(pin.name): next(iter(pin.specifier)).version for pin in read(lock)}
    asked = [REPOSITORY / "requirements.txt", *(path for path in FOLDER.glob("*.txt") if "lock-" not in path.name)]
    missing = [
        f"{path.name}: {requirement}"
        for path in asked
        for requirement in read(path)
        if normal(requirement.name) not in locked
        or not requirement.specifier.contains(locked[normal(requirement.name)])
    ]
    assert missing == []
