"""What the benchmarks that train share: trainings in processes of their own, and what their results depend on."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
CODE = ("hiervl", "configs", "train_net.py")  # what decides a result


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The arguments of a benchmark called ``name`` that trains a network per seed and evaluates it on test images."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--output", type=Path, default=Path("output") / name)
    arguments.add_argument("--jobs", type=int, default=usable_cores(), help="trainings at a time, sharing the cores")
    arguments.add_argument("--images", type=int, default=200, help="test images")
    arguments.add_argument("--results", type=Path, default=RESULTS / f"{name}.json")
    arguments.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config values for all trainings")
    return arguments


def train_missing(commands: dict[Path, Sequence[str]], jobs: int) -> None:
    """Run the Python programs of ``commands`` whose folder holds no finished training yet, ``jobs`` at a time.

    Args:
        commands: folder of the run → program and its arguments, to which OUTPUT_DIR is added.

    Raises:
        RuntimeError: a training failed; names its last line and its log.
    """
    threads = str(max(1, usable_cores() // jobs))

    def train(folder: Path) -> None:
        if (folder / "model_final.pth").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("model_*.pth"):  # of a run that was interrupted
            left.unlink()
        log = folder / "output.txt"
        with open(log, "w") as file:
            done = subprocess.run(
                [sys.executable, *commands[folder], "OUTPUT_DIR", str(folder)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": threads},
            )
        if done.returncode:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{' '.join(last)} ({log})")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train, commands))


def surroundings() -> dict[str, str]:
    """Commit, versions and machine."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    changed = bool(git("status", "--porcelain", "--", *CODE))
    return {
        "commit": git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
    }


def write_results(path: Path, opts: list[str], **results) -> None:
    """A benchmark's JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**surroundings(), "opts": opts, **results}, indent=2) + "\n")
