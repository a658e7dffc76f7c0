"""The package's structure, proved from its imports: no circles, downwards only, prediction without training."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hiervl

ROOT = Path(hiervl.__file__).parents[1]
FILES = sorted((ROOT / "hiervl").rglob("*.py"))

# Every package may import those before it, and none after it. The files at the root stand above all of them.
LAYERS = [
    "utils",
    "config",
    "structures",
    "losses",
    "modeling",
    "data",
    "evaluation",
    "semi_supervised",
    "visualization",
    "inference",
    "engine",
    "serving",
    "commands",
]
# The same within the package of datasets; its root registers what is shipped.
DATA_LAYERS = ["classes", "registered", "loading", "folders", "checking", "preparation"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported_names(path: Path, package: str) -> Iterator[str]:
    """Absolute names that a file imports anywhere, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_between_files() -> dict[str, set[str]]:
    """Module → the modules of ``hiervl`` that it imports."""
    graph = {}
    for name, path in MODULES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = imported_names(path, package)
        targets = {full if full in MODULES else full.rpartition(".")[0] for full in found}
        graph[name] = {target for target in targets if target in MODULES and target != name}
    return graph


def grouped(graph: dict[str, set[str]], group: Callable[[str], str]) -> dict[str, set[str]]:
    """The same graph between groups of modules; "" is not a group."""
    result: dict[str, set[str]] = {}
    for name, targets in graph.items():
        result.setdefault(group(name), set()).update(group(target) for target in targets)
    return {name: targets - {name, ""} for name, targets in result.items() if name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that lie on circles or between them; empty if there is no circle."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        leaves = [name for name, targets in left.items() if not targets & left.keys()]
        if not leaves:
            return sorted(left)
        for name in leaves:
            del left[name]


def top_package(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else ""


def data_package(name: str) -> str:
    parts = name.split(".")
    return parts[2] if parts[:2] == ["hiervl", "data"] and len(parts) > 2 and parts[2] in DATA_LAYERS else ""


def upward(graph: dict[str, set[str]], layers: list[str]) -> list[str]:
    place = {name: index for index, name in enumerate(layers)}
    return [f"{name} → {target}" for name in graph for target in graph[name] if place[target] > place[name]]


def test_the_proof_finds_circles():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]
    assert upward({"low": {"high"}, "high": {"low"}}, ["low", "high"]) == ["low → high"]


def test_no_circle_between_files():
    assert circle(imports_between_files()) == []


def test_packages_import_downwards_only():
    graph = imports_between_files()
    folders = {path.name for path in (ROOT / "hiervl").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(LAYERS)
    assert upward(grouped(graph, top_package), LAYERS) == []
    assert upward(grouped(graph, data_package), DATA_LAYERS) == []


def test_prediction_loads_no_trainer():
    """Neither from its imports nor in a process of its own."""
    graph, seen, waiting = imports_between_files(), set(), [n for n in MODULES if n.startswith("hiervl.inference")]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph[name])
    assert not [name for name in seen if name.startswith(("hiervl.engine", "hiervl.commands"))]
    code = (
        "import sys, hiervl.inference.predictor\n"
        "print([name for name in sys.modules if name.startswith(('hiervl.engine', 'detectron2.engine'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_nothing_but_tests_imports_tests():
    paths = [
        *FILES,
        *(path for folder in ("benchmarks", "tools", "datasets") for path in (ROOT / folder).rglob("*.py")),
    ]
    found = {str(path): name for path in paths for name in imported_names(path, "") if name.split(".")[0] == "tests"}
    assert found == {}
