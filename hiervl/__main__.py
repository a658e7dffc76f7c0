"""``hiervl COMMAND`` and ``python -m hiervl COMMAND``: finds the command, parses its arguments, runs it."""

import argparse
import ast
import importlib
import importlib.util
import io
import os
import select
import sys
from pathlib import Path
from typing import TextIO

from hiervl import __version__
from hiervl.commands import COMMANDS
from hiervl.utils.errors import UserError
from hiervl.utils.program import note_commands_of_script, program, shell_command

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141
GPU_MEMORY_EXHAUSTED = (
    "the GPU's memory is exhausted: end other programs that use it, or run the command on the CPU (--device cpu, or "
    "MODEL.DEVICE cpu where it takes a config)."
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds an option's default where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.required or action.default in (None, "", False):
            return action.help or ""
        return super()._get_help_string(action) or ""


def read_help(module_name: str) -> str:
    """The command's HELP line, read from its source: importing it may take seconds, or fail."""
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        return "(missing)"
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "HELP":
            return ast.literal_eval(node.value)
    return ""


def overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {read_help(module)}" for name, module in COMMANDS.items())
    return (
        f"HierVL {__version__}\n\nusage: {program()} COMMAND [options]\n\ncommands:\n{commands}\n\n"
        f"`{program()} COMMAND --help` lists a command's options."
    )


def load_command(name: str):
    """Import a command's module. A package that is not installed becomes a :class:`UserError`."""
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}.")
    try:
        return importlib.import_module(COMMANDS[name])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "hiervl":  # a fault of ours: show the traceback
            raise
        raise UserError(
            f"{name} needs {error.name}, which is not installed; `{shell_command('doctor')}` says more."
        ) from error


def run_command(name: str, arguments: list[str]) -> int:
    command = load_command(name)
    prog = f"{program()} {name}"
    if hasattr(command, "argument_parser"):
        parser = command.argument_parser()
        parser.prog = prog
        return command.run(parser.parse_args(arguments))
    parser = argparse.ArgumentParser(prog=prog, description=command.HELP, formatter_class=HelpFormatter)
    command.add_arguments(parser)
    return command.run(parser.parse_intermixed_args(arguments))


def _is_broken(stream: TextIO) -> bool:
    """Whether what reads a stream has ended, as ``| head`` does."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError):  # Windows; a stream that is no file
        return False


def _answer(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else USER_ERROR_STATUS
    if arguments[0] == "--version":
        print(f"HierVL {__version__}")
        return 0
    return run_command(arguments[0], arguments[1:])


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    if arguments is None:
        note_commands_of_script()
        arguments = sys.argv[1:]
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr: a name that the terminal cannot show ends no command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _answer(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_STATUS
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which not every command imports
            raise
        print(f"error: {GPU_MEMORY_EXHAUSTED}", file=sys.stderr)
        return USER_ERROR_STATUS
    except BrokenPipeError:
        if not _is_broken(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says it again at its end
        return BROKEN_PIPE_STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_STATUS


if __name__ == "__main__":
    sys.exit(main())
