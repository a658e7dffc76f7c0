"""Is it worth labelling what ``suggest-labels`` names? The same number of further labels, suggested or at random.

    python -m benchmarks.suggest_labels --data shapesworld camvid --seeds 0 1 2
    python -m benchmarks.suggest_labels --only-tables

For every seed: some images at random and a network trained on their labels; then further images, suggested by that
network or at random, from all others; then a network from scratch on both, evaluated on the validation images: of
CamVid those that are held out of the training photographs, because its own are one sequence. Within a seed both share
the first images, the first network and the seed of the training. Labels are given as a user gives them: by a section
DATASET whose LABELED.LIST grows.

Runs what is missing and keeps what is there: one JSON a training in benchmarks/results/suggest_labels/{data}. Then
writes the table into docs/results.md.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from benchmarks.trainings import surroundings
from hiervl.data.classes.records import write_classes
from hiervl.data.folders.files import write_list
from hiervl.data.registered import datasets

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "suggest_labels"
DOCUMENT = REPOSITORY / "docs" / "results.md"
START, RANDOM, SUGGESTED = "start", "random", "suggested"


class Protocol(NamedTuple):
    """How a dataset is used."""

    dataset: datasets.FolderDataset
    config: str  # says all that does not depend on labels, strategy and seed
    first: int  # labels that the first network is trained on
    further: int  # labels that are chosen with it
    first_iterations: int
    iterations: int  # of the networks that are compared


PROTOCOLS = {
    "shapesworld": Protocol(datasets.SHAPESWORLD, "quickstart", 16, 16, 100, 150),
    "camvid": Protocol(datasets.CAMVID, "camvid_46_cpu", 12, 12, 300, 450),
}


class Run(NamedTuple):
    """One training."""

    data: str
    seed: int
    arm: str

    @property
    def path(self) -> Path:
        return RESULTS / self.data / f"{self.arm}_{self.seed}.json"


# ---------------------------------------------------------------------------- running


def held_out_names(dataset: datasets.FolderDataset) -> list[str]:
    """Names of the training images that are kept for validation; none: the dataset's own validation images serve."""
    return sorted(entry["image_id"] for entry in datasets.load_inner_val(dataset)) if dataset.inner_val else []


def write_config(data: str, folder: Path, labeled: Sequence[str]) -> Path:
    """The YAML that a user with these labelled images would write."""
    protocol = PROTOCOLS[data]
    folder.mkdir(parents=True, exist_ok=True)
    write_classes(folder / "classes.yaml", protocol.dataset.classes)
    write_list(folder / "labelled.txt", sorted(labeled))
    held_out = held_out_names(protocol.dataset)
    if held_out:
        write_list(folder / "val.txt", held_out)
    settings = {
        "_BASE_": f"{protocol.config}.yaml",
        "DATASETS": {"TRAIN": (), "UNLABELED": (), "TEST": ()},
        "DATASET": {
            "NAME": f"{data}_folders",
            "ROOT": str(datasets.dataset_root() / data),
            "LABELED": {"IMAGES": "images/train", "MASKS": "labels/train", "LIST": str(folder / "labelled.txt")},
            "VAL": str(folder / "val.txt") if held_out else {"IMAGES": "images/val", "MASKS": "labels/val"},
            "CLASSES": "classes.yaml",
        },
        "SEMI": {"ENABLED": False},
        "SOLVER": {"PRESET": "none"},
        "TEST": {"EVAL_PERIOD": 0, "PICTURES": 0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False))
    return path


def call(arguments: Sequence[str], log: Path, threads: int) -> None:
    """Run a Python program of the repository; on failure name its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(log, "w") as file:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{' '.join(last)} ({log})")


def train(run: Run, labeled: Sequence[str], folder: Path, threads: int) -> None:
    """Train on these images, unless that is done, and write the run's JSON."""
    if run.path.exists() and (run.arm != START or (folder / "run" / "model_final.pth").exists()):
        return
    protocol = PROTOCOLS[run.data]
    iterations = protocol.first_iterations if run.arm == START else protocol.iterations
    config = write_config(run.data, folder, labeled)
    arguments = [str(REPOSITORY / "train_net.py"), "--overwrite", "--config-file", str(config)]
    arguments += ["SOLVER.MAX_ITER", str(iterations), "SEED", str(run.seed), "OUTPUT_DIR", str(folder / "run")]
    call(arguments, folder / "output.txt", threads)
    scores = json.loads((folder / "run" / "results.json").read_text())["sem_seg"]
    record = {
        **run._asdict(),
        "config": f"configs/{protocol.config}.yaml, SEMI.ENABLED False",
        "labels": len(labeled),
        "iterations": iterations,
        "mIoU": scores["mIoU"],
        "IoU": scores["IoU"],
        "labelled": sorted(labeled),
        "threads": threads,
        **surroundings(),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    run.path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{run.data} {run.path.stem}: {scores['mIoU']:.2f}", flush=True)


def choose(arm: str, data: str, seed: int, pool: Sequence[str], folder: Path, threads: int) -> list[str]:
    """Names of the further images; ``folder`` is that of the seed."""
    count = PROTOCOLS[data].further
    if arm == RANDOM:
        return random.Random(f"further {seed}").sample(sorted(pool), count)
    output = folder / "suggestions"
    if not (output / "contact_sheet.png").exists():  # it is written last
        shutil.rmtree(output, ignore_errors=True)
        arguments = ["-m", "hiervl", "suggest-labels", str(folder / START / "run"), "--count", str(count)]
        call([*arguments, "--output", str(output)], folder / "suggestions.txt", threads)
    return (output / "suggested.txt").read_text().split()


def measure(data: str, seed: int, output: Path, threads: int) -> None:
    """All trainings of one seed that are missing."""
    protocol = PROTOCOLS[data]
    folder = output.absolute() / data / str(seed)
    missing = [arm for arm in (RANDOM, SUGGESTED) if not Run(data, seed, arm).path.exists()]
    if not missing:
        return
    for split in ("train", "val"):
        datasets.load_split(protocol.dataset, split)  # generates what is generated
    held_out = set(held_out_names(protocol.dataset))
    names = sorted(set(datasets.find_images(datasets.dataset_root() / data / "images" / "train")) - held_out)
    first = random.Random(f"first {seed}").sample(names, protocol.first)
    train(Run(data, seed, START), first, folder / START, threads)
    for arm in missing:
        chosen = choose(arm, data, seed, [name for name in names if name not in first], folder, threads)
        train(Run(data, seed, arm), [*first, *chosen], folder / arm, threads)


# ---------------------------------------------------------------------------- tables


def load(data: str) -> dict[int, dict[str, dict]]:
    """The records at hand, by seed and arm."""
    records: dict[int, dict[str, dict]] = {}
    for path in sorted((RESULTS / data).glob("*.json")):
        record = json.loads(path.read_text())
        records.setdefault(record["seed"], {})[record["arm"]] = record
    return dict(sorted(records.items()))


def table(data: str) -> list[str]:
    """A row per seed, then the mean with the standard deviation of the gains."""
    protocol = PROTOCOLS[data]
    complete = {seed: arms for seed, arms in load(data).items() if {START, RANDOM, SUGGESTED} <= set(arms)}
    if not complete:
        return []
    scores = np.array([[arms[arm]["mIoU"] for arm in (START, RANDOM, SUGGESTED)] for arms in complete.values()])
    gains = scores[:, 2] - scores[:, 1]
    spread = f" ± {gains.std(ddof=1):.1f}" if len(gains) > 1 else ""
    both = protocol.first + protocol.further
    lines = [
        f"{data}, `configs/{protocol.config}.yaml` with `SEMI.ENABLED False`, {protocol.first_iterations} iterations "
        f"with the first {protocol.first} labels, {protocol.iterations} with {both}:",
        "",
        f"| seed | first {protocol.first} | + {protocol.further} at random | + {protocol.further} suggested | gain |",
        "|---|---|---|---|---|",
    ]
    for seed, row, gain in zip(complete, scores, gains):
        lines.append(f"| {seed} | " + " | ".join(f"{score:.1f}" for score in row) + f" | {gain:+.1f} |")
    means = " | ".join(f"{score:.1f}" for score in scores.mean(0))
    return [*lines, f"| mean | {means} | **{gains.mean():+.1f}**{spread} |", ""]


def write_tables() -> None:
    """Replace the part of docs/results.md between the markers."""
    start, end = "<!-- suggest_labels -->", "<!-- end suggest_labels -->"
    before, rest = DOCUMENT.read_text().split(start, 1)
    lines = [line for data in PROTOCOLS for line in table(data)]
    DOCUMENT.write_text("\n".join([before + start, *lines]).rstrip() + "\n" + end + rest.split(end, 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=sorted(PROTOCOLS), default=sorted(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every training")
    parser.add_argument("--output", type=Path, default=Path("output/suggest_labels"), help="folder of the runs")
    parser.add_argument("--only-tables", action="store_true", help="run nothing")
    args = parser.parse_args()
    if not args.only_tables:
        for data in args.data:
            for seed in args.seeds:
                measure(data, seed, args.output, args.threads)
    write_tables()


if __name__ == "__main__":
    main()
