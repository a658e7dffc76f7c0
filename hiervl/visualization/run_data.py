"""Read the files in a run's folder for the report."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hiervl.config.keys import get_value
from hiervl.config.safe_yaml import load_yaml
from hiervl.utils.errors import UserError

EVALUATION_PREFIX, EVALUATION_SUFFIX = "report_", ".json"


class RunData(NamedTuple):
    """The data of a run. Parts that are missing are empty."""

    name: str
    curves: dict[str, dict[int, float]]  # by name, by iteration
    results: dict[str, Any]  # of its last evaluation: by dataset if there were several
    evaluations: list[dict[str, Any]]  # what the galleries wrote
    config: str  # YAML

    def setting(self, key: str, default: Any = None) -> Any:
        """A config value such as "SEMI.ENABLED"."""
        return get_value(yaml.safe_load(self.config) or {}, key, default)

    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores by dataset."""
        if "sem_seg" in self.results:
            names = self.setting("DATASETS.TEST") or ["test"]
            return {names[0]: self.results["sem_seg"]}
        return {name: set_results["sem_seg"] for name, set_results in self.results.items() if "sem_seg" in set_results}


def evaluation_file(dataset: str) -> str:
    """Name of the file with the report's data about an evaluation."""
    return f"{EVALUATION_PREFIX}{dataset}{EVALUATION_SUFFIX}"


def read_run(folder: str | Path) -> RunData:
    """Read a run's folder.

    Raises:
        UserError: this is not a run's folder, or a file in it is damaged.
    """
    folder = Path(folder)
    config, metrics, results = folder / "config.yaml", folder / "metrics.json", folder / "results.json"
    if not metrics.is_file() and not results.is_file():
        raise UserError(f"'{folder}' is not a run's folder: it has neither metrics.json nor results.json.")
    evaluations = sorted(folder.glob(f"{EVALUATION_PREFIX}*{EVALUATION_SUFFIX}"))
    return RunData(
        folder.absolute().name,
        _read_curves(metrics) if metrics.is_file() else {},
        _read_json(results) if results.is_file() else {},
        [_read_json(path) for path in evaluations],
        _read_config(config) if config.is_file() else "",
    )


def _read_json(path: Path) -> dict[str, Any]:
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


def _read_curves(path: Path) -> dict[str, dict[int, float]]:
    """Finite values by name and iteration. After a resumed training the later value counts."""
    curves: dict[str, dict[int, float]] = {}
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
