"""How HierVL was called, for the commands that it shows to people."""

import shlex
import sys
from pathlib import Path


def interpreter() -> str:
    """The running Python as a command: `python` alone may not be that of .venv."""
    try:
        return shlex.quote(str(Path(sys.executable).relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(sys.executable or "python")


def program() -> str:
    """HierVL's commands as a command: the installed script where that was called, else the module."""
    return "hiervl" if Path(sys.argv[0]).stem == "hiervl" else f"{interpreter()} -m hiervl"


def command(*arguments: object) -> str:
    """A line that can be pasted into a shell: :func:`program` with arguments."""
    return f"{program()} {shlex.join(map(str, arguments))}"
