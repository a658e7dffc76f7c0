"""mIoU against seconds, which is the speed that a user feels, and where the time of an iteration goes.

    python -m benchmarks.time_to_quality [--configs quickstart camvid_46_cpu] [--cores 1 2] [--only-parts]

Every config is trained on so many cores, as ``train_net.py`` does it; evaluations and the start of the program count.
Beside the seconds by the clock stand those of the processor: on a machine that other programs use as well, seconds of
the processor divided by the cores are what an idle one would need at least. Linux only. Results are written to
``results/time_to_quality.json``, one entry per config and number of cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from hiervl.engine.run_config import load_config, prepare_config

from .iteration_parts import seconds_by_part
from .timing import RESULTS, commit, machine
from .trainings import REPOSITORY, usable_cores

GOALS = {"camvid_46_cpu": 60.0}  # mIoU
POLL_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["quickstart", "camvid_46_cpu"], help="names in configs/")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, default=10, help="over which the parts of one are averaged")
    parser.add_argument("--only-parts", action="store_true", help="no training")
    parser.add_argument("--output", type=Path, default=Path("output/time_to_quality"))
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config values for all trainings")
    args = parser.parse_args()
    path = RESULTS / "time_to_quality.json"
    for config in args.configs:
        for cores in args.cores:
            key = f"{config}, {cores} {'core' if cores == 1 else 'cores'}"
            found = measure(config, cores, args)
            content = json.loads(path.read_text()) if path.exists() else {}
            content[key] = {**content.get(key, {}), **found}
            path.write_text(json.dumps(content, indent=2) + "\n")
            print(f"{key}\n{describe(found, GOALS.get(config))}", flush=True)


def measure(config: str, cores: int, args) -> dict[str, object]:
    """One entry of the results."""
    available = sorted(os.sched_getaffinity(0))
    if cores > usable_cores():
        raise SystemExit(f"error: {cores} cores are asked for, and there are {usable_cores()}.")
    measured = commit()
    os.sched_setaffinity(0, available[:cores])  # a training inherits it
    torch.set_num_threads(cores)
    try:
        parts = iteration_parts(config, args.iterations, args.opts)
        found: dict[str, object] = {"parts": parts, "parts_commit": measured}
        if not args.only_parts:
            curve = train(config, cores, args.output / f"{config}_{cores}", args.opts)
            found.update(curve=curve, opts=args.opts, commit=measured)
        return {**found, "machine": machine(torch.device("cpu")), "load": round(os.getloadavg()[0], 1)}
    finally:
        os.sched_setaffinity(0, available)


def iteration_parts(config: str, iterations: int, opts: list[str]) -> dict[str, float]:
    """Milliseconds of the processor by part."""
    cfg = load_config(f"{config}.yaml", ["OUTPUT_DIR", "output/time_to_quality/parts", "SEED", "0", *opts])
    seconds = seconds_by_part(prepare_config(cfg), iterations)
    return {part: round(1e3 * value, 1) for part, value in seconds.items()}


def train(config: str, cores: int, folder: Path, opts: list[str]) -> list[dict[str, float]]:
    """→ of every evaluation: iteration, mIoU, and seconds since the start by the clock and of the processor."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.json"
    metrics.unlink(missing_ok=True)
    command = [
        sys.executable,
        str(REPOSITORY / "train_net.py"),
        "--overwrite",
        "--config-file",
        f"configs/{config}.yaml",
    ]
    command += [*opts, "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(folder)]
    started = time.monotonic()
    curve: list[dict[str, float]] = []
    with open(folder / "output.txt", "w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY)
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            clock, processor = time.monotonic() - started, processor_seconds(process.pid)
            for iteration, score in evaluations(metrics)[len(curve) :]:
                curve.append({"iteration": iteration, "mIoU": round(score, 2), "seconds": round(clock, 1),
                              "processor_seconds": round(processor, 1)})  # fmt: skip
    if process.returncode:
        raise SystemExit(f"error: the training of {config} failed; {folder / 'output.txt'} has the log.")
    return curve


def evaluations(metrics: Path) -> list[tuple[int, float]]:
    """(iterations that were done, mIoU) of the evaluations in a run's ``metrics.json``, which may be being written."""
    if not metrics.exists():
        return []
    lines = [line for line in metrics.read_text().splitlines() if line.endswith("}")]
    entries = {entry["iteration"]: entry for entry in map(json.loads, lines) if "sem_seg/mIoU" in entry}
    return [(iteration + 1, entry["sem_seg/mIoU"]) for iteration, entry in sorted(entries.items())]


def processor_seconds(pid: int) -> float:
    """Of a running process; 0 when it has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def describe(found: dict, goal: float | None) -> str:
    """A line per evaluation, then the parts."""
    lines = [
        f"  {point['iteration']:5d} iterations  mIoU {point['mIoU']:5.1f}  {point['seconds']:6.0f} s by the clock  "
        f"{point['processor_seconds']:6.0f} s of the processor"
        for point in found.get("curve", [])
    ]
    reached = next((point for point in found.get("curve", []) if goal is not None and point["mIoU"] >= goal), None)
    if goal is not None and found.get("curve"):
        lines.append(f"  mIoU {goal:g}: " + (f"after {reached['seconds']:.0f} s" if reached else "not reached"))
    total = sum(found["parts"].values())
    shares = ", ".join(f"{part} {100 * value / total:.0f} %" for part, value in found["parts"].items())
    return "\n".join([*lines, f"  an iteration: {total:.0f} ms of the processor: {shares}"])


if __name__ == "__main__":
    main()
