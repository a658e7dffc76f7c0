"""What all speed measurements share: interleaved timing, the machine's description, tables and records."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

RESULTS = Path(__file__).resolve().parent / "results"


class Measurement(NamedTuple):
    """One line of the table."""

    name: str
    seconds: dict[str, float]  # median by candidate: "ours", "peer", …
    compare: str | None = "peer"  # ours is compared with this candidate; None: there is none
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the other candidate ours is."""
        other = self.seconds.get(self.compare) if self.compare else None
        return other / self.seconds["ours"] if other else None


def interleaved(
    candidates: dict[str, Callable[[int], None]], device: torch.device, repeats: int = 10, warmup: int = 2
) -> dict[str, float]:
    """Median seconds of every candidate, all taking turns, so that a busy moment of the machine meets them all.

    A candidate is called with the number of the round, by which it chooses among its inputs. Who begins changes from
    round to round.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for index in range(warmup + repeats):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            synchronize(device)
            start = time.perf_counter()
            candidates[name](index)
            synchronize(device)
            if index >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, object]:
    """What a figure depends on beside the code."""
    import scipy
    import transformers

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "scipy": scipy.__version__,
    }


def commit() -> str:
    """The commit that was measured, marked where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/hiervl", ":/benchmarks/*.py")
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


def print_table(measurements: list[Measurement]) -> None:
    """ours, the other candidate and the ratio, one line each."""
    print(f"{'':58}{'ours':>12}{'other':>12}{'ratio':>8}")
    for m in measurements:
        other = m.seconds.get(m.compare) if m.compare else None
        ratio = f"{m.ratio:.2f}×" if m.ratio else ""
        print(f"{m.name:58}{_readable(m.seconds['ours']):>12}{_readable(other):>12}{ratio:>8}  {m.note}")


def record(
    path: Path, row: str, measurements: list[Measurement], device: torch.device, measured: str, options: dict
) -> None:
    """Put one row into the JSON file, leaving the others that are there."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[row] = {
        "machine": machine(device),
        "commit": measured,
        "date": time.strftime("%Y-%m-%d"),
        "options": options,
        "measurements": [
            {
                "name": m.name,
                "milliseconds": {name: round(1e3 * seconds, 3) for name, seconds in m.seconds.items()},
                **({"ratio": round(m.ratio, 2), "compared_with": m.compare} if m.ratio else {}),
                **({"note": m.note} if m.note else {}),
            }
            for m in measurements
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def _readable(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
