"""A run as one HTML page that needs no server and no network. It is made from the files in the run's folder."""

import platform
from pathlib import Path
from typing import Any

import yaml

from hiervl import __version__
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_text
from hiervl.visualization.report_page import page
from hiervl.visualization.run_data import RunData, read_run

TWIN_FOLDER = "supervised"  # folder inside that of a run with SEMI.COMPARE_SUPERVISED

REPORT_FILE = "report.html"


def facts_of_run(cfg, dataset: str) -> dict[str, Any]:
    """What was evaluated, with which versions."""
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


def write_report(folder: str | Path, *, compare: None | str | Path = None, output: Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        compare: folder of the supervised-only run; None: one beside it whose config differs in ``SEMI`` alone.
        output: the page; None: ``report.html`` in the run's folder.

    Raises:
        UserError: a folder does not hold a run, or the page cannot be written.
    """
    run = read_run(folder)
    other = read_run(compare) if compare is not None else find_supervised(Path(folder), run)
    path = output or Path(folder) / REPORT_FILE
    try:
        write_text(path, page(run, other))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None
    return path


def find_supervised(folder: Path, run: RunData) -> RunData | None:
    """A finished supervised run beside a semi-supervised one, with the same config except SEMI; None if there is
    none."""
    if not run.setting("SEMI.ENABLED", False):
        return None
    for neighbor in (folder.absolute() / TWIN_FOLDER, *_folders_beside(folder.absolute())):
        try:
            is_run = (neighbor / "results.json").is_file() and (neighbor / "config.yaml").is_file()
            other = read_run(neighbor) if is_run else None
        except (OSError, ValueError, yaml.YAMLError, UserError):  # belongs to another user, or is being written
            continue
        if other is not None and not other.setting("SEMI.ENABLED", True) and _comparable(run) == _comparable(other):
            return other
    return None


def _folders_beside(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.parent.iterdir()) if path != folder]
    except OSError:
        return []


def _comparable(run: RunData) -> dict[str, Any]:
    """The settings that two runs must share, so that their difference comes from the unlabelled images alone."""
    config = yaml.safe_load(run.config) or {}
    return {key: value for key, value in config.items() if key not in ("SEMI", "OUTPUT_DIR", "LOGGERS")}
