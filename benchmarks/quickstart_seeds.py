"""The quickstart with and without unlabelled images over several seeds: what the demo shows, with its spread.

    python benchmarks/quickstart_seeds.py [--seeds 0 1 2] [--config configs/quickstart.yaml] [--jobs 2]

Runs what is missing below ``--output`` and writes ``benchmarks/results/{config}_seeds.json``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
METHODS: Dict[str, List[str]] = {"semi_supervised": [], "supervised": ["SEMI.ENABLED", "False"]}


def run(config: str, method: str, seed: int, folder: Path) -> None:
    """Train one network unless its results are there already."""
    if (folder / "results.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [*METHODS[method], "SEED", str(seed), "OUTPUT_DIR", str(folder)]
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", config, *overrides]
    with open(folder / "output.txt", "w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def curve_of(folder: Path) -> Dict[int, float]:
    """mIoU by iteration."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {row["iteration"] + 1: round(row["sem_seg/mIoU"], 2) for row in rows if "sem_seg/mIoU" in row}


def result_of(folder: Path) -> dict:
    scores = json.loads((folder / "results.json").read_text())["sem_seg"]
    return {"mIoU": scores["mIoU"], "IoU": scores["IoU"], "curve": curve_of(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(REPOSITORY / "configs" / "quickstart.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("output/quickstart_seeds"))
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="runs at a time")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))

    folders = {(method, seed): args.output / f"{method}_{seed}" for seed in args.seeds for method in METHODS}
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda item: run(args.config, *item[0], item[1]), folders.items()))
    runs = {method: {seed: result_of(folders[method, seed]) for seed in args.seeds} for method in METHODS}
    means = {method: sum(r["mIoU"] for r in by_seed.values()) / len(by_seed) for method, by_seed in runs.items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    record = {
        "config": Path(args.config).name,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mean_mIoU": means,
        "gain": means["semi_supervised"] - means["supervised"],
        "runs": runs,
    }
    path = REPOSITORY / "benchmarks" / "results" / f"{Path(args.config).stem}_seeds.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"mean mIoU over seeds {args.seeds}: {means}; gain {record['gain']:+.2f}; written to {path}")


if __name__ == "__main__":
    main()
