"""Stand-ins for what Detectron2 0.5 lacks with today's NumPy and Pillow, and without its compiled operations.

``apply()`` adds only what is missing, and only for Detectron2 0.5 and older. Newer versions get no stand-ins: the
official main branch (0.6) works as it is, also without its compiled operations. ``apply()`` never imports detectron2,
because that would fail before the stand-ins are there.
"""

import importlib.machinery
import importlib.util
import re
import sys
import types
import warnings
from pathlib import Path

from hiervl.utils.program import shell_command

LAST_VERSION_IN_NEED = (0, 5)

# Aliases of the built-in types, which NumPy 1.24 removed (2.0 brought `bool` back, as its own type).
NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}

COMPILED_MODULE = "detectron2._C"

applied: list[str] = []  # the stand-ins in this process, for `python -m hiervl doctor`


def detectron2_directory() -> Path | None:
    """The directory of the Detectron2 package that would be imported, or None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def detectron2_version(directory: Path) -> str | None:
    """The version that the package in ``directory`` states, read from its source."""
    text = (directory / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
    return found.group(1) if found else None


def needs_stand_ins(version: str | None) -> bool:
    """Whether this version of Detectron2 is older than today's libraries. An unknown version counts as new."""
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    return numbers is not None and (int(numbers.group(1)), int(numbers.group(2))) <= LAST_VERSION_IN_NEED


def apply() -> None:
    """Put the needed stand-ins in place. Calling it again changes nothing."""
    directory = detectron2_directory()
    if directory is None:
        return
    # Ten such lines at every import of any version, about functions that HierVL does not use.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
    if needs_stand_ins(detectron2_version(directory)):
        restore_numpy_aliases()
        restore_pillow_filter()
        replace_compiled_module(directory)


def restore_numpy_aliases() -> None:
    try:
        import numpy
    except ImportError:  # then Detectron2 cannot work; `doctor` names the cause
        return
    for name, builtin in NUMPY_ALIASES.items():
        if name not in vars(numpy):  # not hasattr: NumPy 1.20-1.23 would warn
            setattr(numpy, name, builtin)
            applied.append(f"numpy.{name}")


def restore_pillow_filter() -> None:
    """``Image.LINEAR`` was another name of ``BILINEAR`` until Pillow 10."""
    try:
        from PIL import Image
    except ImportError:
        return
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]
        applied.append("PIL.Image.LINEAR")


def replace_compiled_module(directory: Path) -> None:
    """Let ``import detectron2._C`` succeed if Detectron2 was installed without compiled operations."""
    is_built = importlib.machinery.PathFinder.find_spec("_C", [str(directory)]) is not None
    if is_built or COMPILED_MODULE in sys.modules:
        return
    module = types.ModuleType(COMPILED_MODULE, "Stand-in for the compiled operations: there are none.")
    module.__spec__ = importlib.machinery.ModuleSpec(COMPILED_MODULE, loader=None, origin="hiervl.utils.compat")
    vars(module).update(
        get_compiler_version=lambda: "not compiled",
        get_cuda_version=lambda: "not available",
        has_cuda=lambda: False,
        __getattr__=explain_missing_operation,
    )
    sys.modules[COMPILED_MODULE] = module
    applied.append(COMPILED_MODULE)


def explain_missing_operation(name: str):
    raise AttributeError(
        f"detectron2._C.{name} is a compiled operation, and Detectron2 was installed without them: "
        f"install it with `{shell_command('install-detectron2', '--official')}`."
    )
