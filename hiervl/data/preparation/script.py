"""Common code of the scripts in ``datasets/``: options, errors, progress, counting and writing files.

Every step checks what is there already, so an interrupted script continues where it stopped. Files get their names only
when they are complete.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hiervl.data.registered.datasets import dataset_root
from hiervl.utils.errors import UserError
from hiervl.utils.files import TEMPORARY

CHUNK = 1 << 20  # bytes
REFRESH = 0.2  # seconds between updates of a progress line


# ---------------------------------------------------------------------------- scripts


def script_parser(
    description: str, archive_names: Sequence[str], folder: str, may_keep: bool = True
) -> argparse.ArgumentParser:
    """The options of scripts for large datasets. ``may_keep``: add an option to keep archives."""
    parser = argparse.ArgumentParser(
        description=description.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=dataset_root(), help=f"folder in which {folder} is made")
    names = ", ".join(archive_names)
    parser.add_argument("--source", type=Path, help=f"folder that holds {names}; none: they are downloaded")
    if may_keep:
        parser.add_argument("--keep", action="store_true", help="keep downloaded archives when they are unpacked")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make the label maps")
    return parser


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``. An error that the user can fix ends it with one sentence."""
    try:
        main()
    except UserError as problem:
        sys.exit(f"error: {problem}")
    except OSError as problem:
        sys.exit(f"error: {problem.filename or 'the disk'}: {problem.strerror or problem}.")
    except KeyboardInterrupt:
        sys.exit("interrupted; run it again to continue.")


def say(text: str) -> None:
    """Print a message to standard error, so that standard output stays free."""
    print(text, file=sys.stderr)


class Progress:
    """A line with the progress. It is rewritten on a terminal, and written once at the end elsewhere."""

    def __init__(self, what: str, total: float = 0, unit: str = "", digits: int = 0):
        self.what, self.total, self.unit, self.digits = what, total, unit, digits
        self._next = 0.0
        self._done = 0.0

    def __enter__(self) -> "Progress":
        return self

    def show(self, done: float) -> None:
        self._done = done
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH
            print(f"\r{self._line()}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_) -> None:
        print(f"\r{self._line()}" if sys.stderr.isatty() else self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        total = f" of {self.total:,.{self.digits}f}" if self.total else ""  # a server may not say the total
        return f"{self.what}: {self._done:,.{self.digits}f}{total}{self.unit}"


# ---------------------------------------------------------------------------- files


def missing_contents(folder: Path, contents: dict[str, int]) -> str:
    """Missing files in ``folder``, as part of a sentence; empty if all are there. More files are allowed."""
    for pattern, count in contents.items():
        found = _count(folder, pattern)
        if found < count:
            return f"{folder / pattern} are {found:,} files instead of {count:,}"
    return ""


def check_contents(folder: Path, contents: dict[str, int]) -> None:
    """Raise a :class:`UserError` unless ``folder`` has exactly as many files of every pattern as it should."""
    for pattern, count in contents.items():
        found = _count(folder, pattern)
        if found != count:
            raise UserError(
                f"{folder / pattern} are {found:,} files instead of {count:,}: remove what does not belong there, and "
                "run the script again."
            )


def _count(folder: Path, pattern: str) -> int:
    """Number of matching files, without hidden and unfinished ones."""
    return sum(1 for path in folder.glob(pattern) if not path.name.startswith(".") and path.suffix != TEMPORARY)


def names_in(folder: Path, suffix: str) -> set:
    """Names of the files in ``folder`` that end in ``suffix``, without the suffix. Hidden files are left out."""
    if not folder.is_dir():
        return set()
    return {name[: -len(suffix)] for name in os.listdir(folder) if name.endswith(suffix) and not name.startswith(".")}
