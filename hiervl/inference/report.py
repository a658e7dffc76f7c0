"""A run as one HTML page that needs neither a server nor a network: read from what the run has left in its folder."""

import json
import math
import os
import platform
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Union

import yaml

from hiervl import __version__
from hiervl.errors import UserError
from hiervl.inference.report_html import page
from hiervl.safe_yaml import load_yaml

TWIN_FOLDER = "supervised"  # of a run with SEMI.COMPARE_SUPERVISED, inside its own

REPORT_FILE = "report.html"
EVALUATION_PREFIX, EVALUATION_SUFFIX = "report_", ".json"


class RunData(NamedTuple):
    """What a run has left; parts that it has not are empty."""

    name: str
    curves: Dict[str, Dict[int, float]]  # by name, by iteration
    results: Dict[str, Any]  # of its last evaluation: by dataset if there were several
    evaluations: List[Dict[str, Any]]  # what the galleries wrote
    config: str  # YAML

    def setting(self, key: str, default: Any = None) -> Any:
        """A config value such as "SEMI.ENABLED"."""
        value: Any = yaml.safe_load(self.config) or {}
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def scores(self) -> Dict[str, Dict[str, Any]]:
        """Scores by dataset."""
        if "sem_seg" in self.results:
            names = self.setting("DATASETS.TEST") or ["test"]
            return {names[0]: self.results["sem_seg"]}
        return {name: of_set["sem_seg"] for name, of_set in self.results.items() if "sem_seg" in of_set}


def evaluation_file(dataset: str) -> str:
    """Name of the file that holds what the report shows of an evaluation."""
    return f"{EVALUATION_PREFIX}{dataset}{EVALUATION_SUFFIX}"


def facts_of_run(cfg, dataset: str) -> Dict[str, Any]:
    """What was evaluated, and with which versions."""
    import detectron2
    import numpy
    import torch

    is_cuda = cfg.MODEL.DEVICE.startswith("cuda")
    return {
        "dataset": dataset,
        "network": cfg.TEST.NETWORK,
        "device": torch.cuda.get_device_name() if is_cuda else f"{platform.machine()} CPU",
        "versions": {
            "HierVL": __version__,
            "Python": platform.python_version(),
            "PyTorch": torch.__version__,
            "Detectron2": getattr(detectron2, "__version__", "unknown"),
            "NumPy": numpy.__version__,
        },
    }


def read_run(folder: Union[str, Path]) -> RunData:
    """Read a run's folder.

    Raises:
        UserError: it is no run's folder, or a file in it is damaged.
    """
    folder = Path(folder)
    config, metrics, results = folder / "config.yaml", folder / "metrics.json", folder / "results.json"
    if not metrics.is_file() and not results.is_file():
        raise UserError(f"'{folder}' is no run's folder: it has neither metrics.json nor results.json.")
    evaluations = sorted(folder.glob(f"{EVALUATION_PREFIX}*{EVALUATION_SUFFIX}"))
    return RunData(
        folder.absolute().name,
        _read_curves(metrics) if metrics.is_file() else {},
        _read_json(results) if results.is_file() else {},
        [_read_json(path) for path in evaluations],
        _read_config(config) if config.is_file() else "",
    )


def write_report(
    folder: Union[str, Path], *, compare: Union[None, str, Path] = None, output: Optional[Path] = None
) -> Path:
    """Write the page of a run.

    Args:
        compare: folder of the supervised-only run; None: one beside it whose config differs in ``SEMI`` alone.
        output: the page; None: ``report.html`` in the run's folder.

    Raises:
        UserError: a folder is none of a run, or the page cannot be written.
    """
    run = read_run(folder)
    other = read_run(compare) if compare is not None else find_supervised(Path(folder), run)
    path = output or Path(folder) / REPORT_FILE
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page(run, other), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None
    return path


def find_supervised(folder: Path, run: RunData) -> Optional[RunData]:
    """A finished supervised-only run beside a semi-supervised one, of the same config but for SEMI; None: none."""
    if not run.setting("SEMI.ENABLED", False):
        return None
    for neighbour in (folder.absolute() / TWIN_FOLDER, *_folders_beside(folder.absolute())):
        try:
            is_run = (neighbour / "results.json").is_file() and (neighbour / "config.yaml").is_file()
            other = read_run(neighbour) if is_run else None
        except (OSError, ValueError, yaml.YAMLError, UserError):  # another user's, or one that is being written
            continue
        if other is not None and not other.setting("SEMI.ENABLED", True) and _comparable(run) == _comparable(other):
            return other
    return None


def _folders_beside(folder: Path) -> List[Path]:
    try:
        return [path for path in sorted(folder.parent.iterdir()) if path != folder]
    except OSError:
        return []


def _comparable(run: RunData) -> Dict[str, Any]:
    """The settings that two runs must share for their difference to be that of the unlabelled images."""
    config = yaml.safe_load(run.config) or {}
    return {key: value for key, value in config.items() if key not in ("SEMI", "OUTPUT_DIR", "LOGGERS")}


def _read_json(path: Path) -> Dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove it, or evaluate again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: remove it, or evaluate again.")
    return content


def _read_config(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    load_yaml(text, str(path))  # that it is YAML
    return text


def _read_curves(path: Path) -> Dict[str, Dict[int, float]]:
    """Finite values by name and iteration; after a resumed training the later value counts."""
    curves: Dict[str, Dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last line of an interrupted run
            continue
        if not isinstance(row, dict):  # the end of one
            continue
        for name, value in row.items():
            if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                curves.setdefault(name, {})[row.get("iteration", 0)] = float(value)
    return curves
