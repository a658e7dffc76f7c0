"""How HierVL was called, for the commands that it shows to people."""

import shlex
import shutil
import sys
from pathlib import Path

MODULE = "__main__.py"  # what runs as `python -m hiervl`
SCRIPT = "hiervl"  # what an installation puts beside its Python
_of_user = False  # whether a script of the user's own offers HierVL's commands


def note_commands_of_script() -> None:
    """Call it where the commands of this process come from its command line, by whatever script."""
    global _of_user
    _of_user = _is_other_script()


def offers_commands() -> bool:
    """Whether this process was called with one of HierVL's commands, and not as ``train_net.py`` or a library."""
    return _of_user or not _is_other_script()


def interpreter() -> str:
    """The running Python as a command: `python` alone may not be that of .venv."""
    return _as_command(sys.executable or "python")


def program() -> str:
    """What to write before one of HierVL's commands."""
    if _is_script():
        found = shutil.which(SCRIPT)
        is_on_path = found is not None and Path(found).absolute() == Path(sys.argv[0]).absolute()
        return SCRIPT if is_on_path else _as_command(sys.argv[0])
    return f"{interpreter()} {script() if _of_user else '-m hiervl'}"


def script() -> str:
    """What this process runs, as arguments of a Python or of a launcher."""
    return shlex.quote(sys.argv[0]) if _is_other_script() else "-m hiervl"


def shell_command(*arguments: object) -> str:
    """A line that can be pasted into a shell: :func:`program` with arguments."""
    return f"{program()} {shlex.join(map(str, arguments))}"


def _is_other_script() -> bool:
    """Whether a file runs that is not HierVL's. Code without a file (``python -c``) cannot be called again, and counts
    as HierVL's module."""
    return Path(sys.argv[0]).is_file() and not _is_module() and not _is_script()


def _is_module() -> bool:
    return Path(sys.argv[0]).name == MODULE


def _is_script() -> bool:
    return Path(sys.argv[0]).stem == SCRIPT


def _as_command(path: str) -> str:
    try:
        relative = Path(path).absolute().relative_to(Path.cwd())
        return shlex.quote(str(relative) if len(relative.parts) > 1 else f"./{relative}")
    except (ValueError, OSError):  # elsewhere; the working folder was deleted
        return shlex.quote(path)
