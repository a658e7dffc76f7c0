"""Find in the source which config keys are read: by HierVL, by plug-ins, and by the parts of Detectron2 that HierVL
calls.

A key that is set but never read would silently do nothing. There is no list of read keys, because a list would be wrong
after the next change here or in Detectron2. Two simplifications make more keys count as read: a key is known by its
last two parts (``cfg.SOLVER.AMP.ENABLED`` as AMP.ENABLED), and code counts even if it is never reached.
"""

import ast
import functools
import importlib
import inspect
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from detectron2.utils.registry import Registry

Read = tuple[str, str]  # section and key; for top-level keys the section is "cfg"

PACKAGE = Path(__file__).resolve().parents[1]
ROOT_NAME = "cfg"
LIBRARIES = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
LIBRARY_FOLDERS = tuple(os.path.join(folder, "") for path in LIBRARIES for folder in (path, os.path.realpath(path)))


class Source(NamedTuple):
    """The config keys that a piece of code reads, itself and through the Detectron2 functions that it calls."""

    reads: frozenset[Read]
    calls: frozenset[str]  # dotted names of Detectron2 functions


def keys_read(unused: Iterable[str] = ()) -> set[Read]:
    """Section and name of every key that is read by HierVL, its plug-ins or a Detectron2 function that they call.

    Args:
        unused: dotted names, as HierVL imports them, of Detectron2 functions that only other configs call.
    """
    sources = [_source(path) for path in (*sorted(PACKAGE.rglob("*.py")), *_plugins())]
    called = {name for source in sources for name in source.calls}.difference(unused)
    return {read for source in sources for read in source.reads}.union(*map(_function_reads, called))


def as_read(key: str) -> Read:
    """A dotted key in the form of :func:`keys_read`."""
    section, name = f"{ROOT_NAME}.{key}".split(".")[-2:]
    return section, name


def _plugins() -> list[Path]:
    """Files of loaded modules outside HierVL and Detectron2: the user's own, and packages that use HierVL."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in ("hiervl", "detectron2") or not file or not file.endswith(".py"):
            continue
        if (not file.startswith(LIBRARY_FOLDERS) or _uses_hiervl(module)) and os.path.isfile(file):
            found.append(Path(file))
    return found


def _uses_hiervl(module: ModuleType) -> bool:
    for value in list(vars(module).values()):
        kind = type(value)  # not isinstance(): lazy modules would be loaded, or warn
        if kind is Registry:
            return True
        owner = value.__name__ if kind is ModuleType else ""
        if kind is FunctionType or issubclass(kind, type):
            owner = getattr(value, "__module__", None) or ""
        if owner.partition(".")[0] == "hiervl":
            return True
    return False


@functools.cache
def _source(path: Path) -> Source:
    text = path.read_text(encoding="utf-8", errors="replace")
    if ROOT_NAME not in text:
        return Source(frozenset(), frozenset())
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a plug-in that this Python cannot parse
        return Source(frozenset(), frozenset())
    return Source(frozenset(_reads(tree)), frozenset(_detectron2_calls(tree)))


def _reads(tree: ast.AST) -> Iterator[Read]:
    """``….SECTION.KEY``, ``….SECTION["KEY"]``, and ``name.KEY`` after ``name = ….SECTION``."""
    sections: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts))
            for target, value in pairs:
                if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
                    sections.setdefault(target.id, set()).add(value.attr)
    for node in ast.walk(tree):
        key: Any = None
        owner: ast.expr | None = None
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            key, owner = node.attr, node.value
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key, owner = getattr(node.slice, "value", None), node.value
        if isinstance(key, str) and key.isupper():
            name: str = getattr(owner, "attr", None) or getattr(owner, "id", None) or ""
            yield from ((section, key) for section in {name, *sections.get(name, ())})


# ---------------------------------------------------------------------------- Detectron2


def _detectron2_calls(tree: ast.Module) -> Iterator[str]:
    """Functions that get the config, and inherited methods, which have it as ``self.cfg`` or as an argument."""
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "detectron2"
        for alias in node.names
    }
    if any(isinstance(node, ast.Import) for node in tree.body):
        imported["detectron2"] = "detectron2"
    for call in _calls_with_config(tree):
        start, _, rest = _dotted_name(call.func).partition(".")
        if start in imported:
            yield ".".join(filter(None, (imported[start], rest)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [imported[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in imported]
            own = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            for name, is_super in _methods_called(node):
                if is_super or name not in own:
                    yield from (f"{base}.{name}" for base in bases)


def _calls_with_config(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(_dotted_name(argument).rpartition(".")[2] == ROOT_NAME for argument in arguments):
                yield node


def _methods_called(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Methods called on ``self``, ``cls`` or ``super()``, and whether it was ``super()``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Call) and _dotted_name(owner.func) == "super":
                yield node.func.attr, True
            elif isinstance(owner, ast.Name) and owner.id in ("self", "cls"):
                yield node.func.attr, False


def _dotted_name(node: ast.AST) -> str:
    """``a.b.c`` for such an expression, "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted_name(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


@functools.cache
def _function_reads(name: str) -> frozenset[Read]:
    """The keys that a function, class or method of Detectron2 reads, also through the functions that it gives the
    config."""
    reads: set[Read] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        owner, function = _resolve(name)
        if name in seen or not inspect.isroutine(function) and not inspect.isclass(function):
            continue
        seen.add(name)
        function = inspect.unwrap(getattr(function, "__func__", function))
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        reads.update(_reads(tree))
        # ``_try_get_key(cfg, "OUTPUT_DIR", …)``
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        reads.update(as_read(text) for text in texts if isinstance(text, str) and text.isupper())
        called = {_dotted_name(call.func) for call in _calls_with_config(tree)}
        waiting += [f"{function.__module__}.{other}" for other in called if other]
        if inspect.isclass(owner):
            waiting += [f"{owner.__module__}.{owner.__qualname__}.{method}" for method, _ in _methods_called(tree)]
    return frozenset(reads)


def _resolve(name: str) -> tuple[Any, Any]:
    """The owner of the object with a dotted name, and the object; None and None if there is none."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        owner = None
        for part in parts[count:]:
            owner, found = found, getattr(found, part, None)
        return owner, found
    return None, None
