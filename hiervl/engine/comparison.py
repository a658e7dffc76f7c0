"""``SEMI.COMPARE_SUPERVISED``: the supervised twin of a run, and the gain from unlabelled images."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from hiervl.utils.files import write_text
from hiervl.visualization.report import TWIN_FOLDER


def supervised_twin(cfg: CfgNode) -> CfgNode:
    """The config of the same run without unlabelled images, in the folder ``supervised`` of its OUTPUT_DIR."""
    twin = cfg.clone()
    twin.defrost()
    twin.SEMI.ENABLED = False
    twin.SEMI.COMPARE_SUPERVISED = False
    twin.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / TWIN_FOLDER)
    twin.freeze()
    return twin


def train_both(cfg: CfgNode, train: Callable[[CfgNode, bool], dict | None], resume: bool) -> dict:
    """Train the twin, then the run itself, from the same random state. Ends with one line that compares both.

    Args:
        train: takes a config and whether to resume, trains, and returns the results; None: a signal stopped it.
        resume: continue both; a finished twin stays as it is.

    Returns:
        the results of the run itself; none if a signal stopped it or its twin.
    """
    twin = supervised_twin(cfg)
    folder = Path(twin.OUTPUT_DIR)
    if not (resume and (folder / "model_final.pth").is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        if comm.is_main_process():
            write_text(folder / "config.yaml", twin.dump())
        if train(twin, resume) is None:
            return {}
    comm.synchronize()
    # Seed as Detectron2's set-up does, so that both begin with the same weights.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    results = train(cfg, resume)
    if results is None:
        return {}
    if comm.is_main_process():
        print(gain_line(mean_iou(cfg, Path(cfg.OUTPUT_DIR)), mean_iou(cfg, folder)), flush=True)
    return results


def mean_iou(cfg: CfgNode, folder: Path) -> float:
    """mIoU in percent on the first of ``DATASETS.TEST`` for the finished run in a folder; nan if there is none."""
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if len(cfg.DATASETS.TEST) > 1:
        results = results.get(cfg.DATASETS.TEST[0], {})
    value = results.get("sem_seg", {}).get("mIoU")
    return math.nan if value is None else float(value)


def gain_line(with_unlabeled: float, without: float) -> str:
    """The last line of the run."""
    if math.isnan(with_unlabeled) or math.isnan(without):
        return "what unlabelled data gained is not known: one of the two runs has no mIoU (DATASETS.TEST)"
    return (
        f"unlabelled data gained {with_unlabeled - without:+.2f} mIoU "
        f"({with_unlabeled:.2f} with them, {without:.2f} without)"
    )
