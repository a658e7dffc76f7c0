"""mIoU against the number of labels: HierVL, its baselines and its ablations on the same data and backbone.

    python -m benchmarks.label_efficiency --data shapesworld --labels 16 32 64 --methods supervised unimatch hiervl
    python -m benchmarks.label_efficiency --data shapesworld --labels 16 --methods all --seeds 0 1 2
    python -m benchmarks.label_efficiency --data shapesworld --only-tables

Runs what is missing and keeps what is there: one JSON a run in benchmarks/results/label_efficiency/{data}, with its
config, seed, commit, versions, time, peak memory, curve and IoU of every class. Then draws the figure and writes the
tables into docs/results.md. A method is "hiervl" (the config alone), the name of a file in configs/baselines or
configs/ablations, or "supervised_longer", which takes as much time as HierVL; "all" are all of them.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.trainings import REPOSITORY, surroundings, usable_cores
from hiervl.data.classes import ClassDefinition
from hiervl.data.classes.records import write_classes
from hiervl.data.folders.files import write_list
from hiervl.data.registered import datasets
from hiervl.engine.run_config import load_config

RESULTS = REPOSITORY / "benchmarks" / "results" / "label_efficiency"
DOCUMENT = REPOSITORY / "docs" / "results.md"


class Folders(NamedTuple):
    """A folder with ``images`` and ``labels`` in ``$DETECTRON2_DATASETS``, used as somebody's own images.

    A seeded shuffle halves the images: one half are test images, the other half are labelled or unlabelled.
    """

    name: str
    classes: tuple[ClassDefinition, ...]


class Data(NamedTuple):
    """A dataset to train on.

    Attributes:
        configs: what says all that does not depend on method and seed, by the fewest labels that it is for.
        train: start of the names of its labelled subsets.
        tests: what every training is evaluated on; the first gives "mIoU", every other one a table of its own.
        options: config values of every run.
        folders: in place of registered names.
    """

    configs: dict[int, str]
    train: str
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()
    folders: Folders | None = None


FIELD = Folders(
    "cwfid",
    (
        ClassDefinition("soil", ("soil", "ground"), (100, 80, 60), background=True),
        ClassDefinition("crop", ("carrot plant", "crop"), (40, 200, 40)),
        ClassDefinition("weed", ("weed", "wild plant"), (220, 60, 60)),
    ),
)
DATA = {
    "quickstart": Data({0: "quickstart"}, "shapesworld_train", ("shapesworld_val",)),
    "shapesworld": Data({0: "quickstart"}, "shapesworld_train", ("shapesworld_val",), ("SOLVER.MAX_ITER", "300")),
    "camvid": Data({0: "camvid_12_cpu", 23: "camvid_46_cpu"}, "camvid_inner_train", ("camvid_inner_val", "camvid_val")),
    "cwfid": Data({0: "custom"}, "cwfid_train", ("cwfid_val",), ("SOLVER.PRESET", "cpu"), folders=FIELD),
}
OURS = "hiervl"
LONGER = "supervised_longer"
MORE_ITERATIONS = 5 / 3  # HierVL takes 1.6 to 1.8 times as long as its supervised twin
TITLES = {
    OURS: "HierVL",
    "semivl": "SemiVL-style",
    "unimatch": "UniMatch",
    "unimatch_class_thresholds": "UniMatch, class-wise thresholds",
    "fixmatch": "FixMatch",
    "per_pixel": "per-pixel decoder, trained as HierVL",
    "supervised_per_pixel": "supervised, per-pixel decoder",
    LONGER: "supervised, as long as HierVL takes",
    "components_1_baseline": "none of them",
    "components_2_hsqg": "HSQG",
    "components_3_cmsam": "HSQG, CMSAM",
    "components_4_dual_queries": "HSQG, CMSAM, instance queries",
}


class Run(NamedTuple):
    """One training."""

    data: str
    labels: int
    method: str
    seed: int

    @property
    def config(self) -> str:
        """Its path in the repository."""
        configs = DATA[self.data].configs
        return f"configs/{configs[max(fewest for fewest in configs if fewest <= self.labels)]}.yaml"

    @property
    def path(self) -> Path:
        return RESULTS / self.data / f"{self.labels}_{self.method}_{self.seed}.json"


# ---------------------------------------------------------------------------- running


def methods() -> dict[str, list[str]]:
    """Arguments of train_net.py by the name of the method."""
    deltas = [path for kind in ("baselines", "ablations") for path in sorted((REPOSITORY / "configs" / kind).glob("*"))]
    known = {OURS: [], **{path.stem: ["--with", str(path)] for path in deltas}}
    return {**known, LONGER: known["supervised"]}


def train(run: Run, folder: Path, overrides: Sequence[str], threads: int) -> None:
    """Train and evaluate, and write the run's JSON at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    data = DATA[run.data]
    settings = {
        **(folder_settings(run, data.folders, folder / "images") if data.folders else registered_settings(run, data)),
        "SEED": str(run.seed),
        "OUTPUT_DIR": str(folder),
        "TEST.PICTURES": "0",
    }
    if run.method == LONGER:
        cfg = load_config(str(REPOSITORY / run.config), [*data.options, *overrides])
        settings["SOLVER.MAX_ITER"] = str(round(MORE_ITERATIONS * cfg.SOLVER.MAX_ITER))
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--overwrite", "--config-file"]
    command += [str(REPOSITORY / run.config), *methods()[run.method], *data.options, *overrides]
    command += [text for pair in settings.items() for text in pair]
    started = time.monotonic()
    with open(folder / "output.txt", "w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        last = (folder / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
        print(f"{run.path.stem} failed: {' '.join(last)} ({folder / 'output.txt'})", flush=True)
        return
    results = json.loads((folder / "results.json").read_text())
    by_test = {name: results[name]["sem_seg"] if len(data.tests) > 1 else results["sem_seg"] for name in data.tests}
    prefixes = {name: f"{name}/" if len(data.tests) > 1 else "" for name in data.tests}
    tests = {
        name: {
            "mIoU": scores["mIoU"],
            "IoU": scores["IoU"],
            "curve": curve_of(folder / "metrics.json", f"{prefixes[name]}sem_seg/mIoU"),
        }
        for name, scores in by_test.items()
    }
    first, *others = data.tests
    record = {
        **run._asdict(),
        "config": run.config,
        "test": first,
        **tests[first],
        "other_tests": {name: tests[name] for name in others},
        "seconds": round(time.monotonic() - started),
        "threads": threads,
        "peak_memory_GB": round(usage.ru_maxrss / 2**20, 2),
        "overrides": list(overrides),
        **surroundings(),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    run.path.write_text(json.dumps(record, indent=1) + "\n")
    reached = ", ".join(f"{scores['mIoU']:.2f}" for scores in tests.values())
    print(f"{run.path.stem}: {reached} ({record['seconds']} s)", flush=True)


def registered_settings(run: Run, data: Data) -> dict[str, str]:
    """Config values: what is trained and tested on."""
    name = f"{data.train}_{run.labels}"
    return {
        "DATASETS.TRAIN": f"('{name}',)",
        "DATASETS.UNLABELED": f"('{name}_unlabeled',)",
        "DATASETS.TEST": str(data.tests),
    }


def folder_settings(run: Run, folders: Folders, root: Path) -> dict[str, str]:
    """The same for own images. Copies them to ``root``; which ones are labelled depends on the seed."""
    source = datasets.dataset_root() / folders.name
    names = sorted(path.name for path in (source / "images").iterdir())
    random.Random(0).shuffle(names)
    halves = {"train": names[: len(names) // 2], "test": names[len(names) // 2 :]}
    shutil.rmtree(root, ignore_errors=True)
    for part, chosen in halves.items():
        for kind, suffix in (("images", None), ("labels", ".png")):
            (root / part / kind).mkdir(parents=True)
            for name in chosen:
                file = Path(name).with_suffix(suffix) if suffix else name
                shutil.copy(source / kind / file, root / part / kind)
    labeled = random.Random(run.seed + 1).sample(halves["train"], run.labels)
    write_list(root / "labeled.txt", sorted(labeled))
    write_classes(root / "classes.yaml", folders.classes)
    return {
        "DATASET.NAME": folders.name,
        "DATASET.ROOT": str(root.resolve()),
        "DATASET.CLASSES": str(root.resolve() / "classes.yaml"),
        "DATASET.LABELED.IMAGES": "train/images",
        "DATASET.LABELED.MASKS": "train/labels",
        "DATASET.LABELED.LIST": "labeled.txt",
        "DATASET.UNLABELED": "['train/images']",
        "DATASET.VAL": "{'IMAGES': 'test/images', 'MASKS': 'test/labels'}",
        "TEST.EVAL_PERIOD": "0",
    }


def curve_of(metrics: Path, key: str) -> dict[int, float]:
    """The scores of that key by iteration."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {row["iteration"] + 1: round(row[key], 2) for row in rows if key in row}


# ---------------------------------------------------------------------------- tables and figure


def load(data: str, test: str) -> dict[str, dict[int, dict[int, dict]]]:
    """The records at hand, by method, labels and seed, with the scores on the dataset ``test``."""
    records: dict[str, dict[int, dict[int, dict]]] = {}
    for path in sorted((RESULTS / data).glob("*.json")):
        record = json.loads(path.read_text())
        record.update(record.get("other_tests", {}).get(test, {}))
        records.setdefault(record["method"], {}).setdefault(record["labels"], {})[record["seed"]] = record
    return records


def cell(by_seed: dict[int, dict]) -> str:
    """Mean ± standard deviation (of the seeds measured), and their number."""
    scores = [record["mIoU"] for record in by_seed.values()]
    spread = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.1f}{spread} ({len(scores)})"


def table(records, names: Sequence[str], labels: Sequence[int]) -> list[str]:
    """A row per method, a column per number of labels, and the states of the code that were run; methods without any
    run are left out."""
    lines = ["| | " + " | ".join(f"{count} labels" for count in labels) + " | commits |"]
    lines += ["|---" * (len(labels) + 2) + "|"]
    for name in names:
        if name in records:
            cells = [cell(records[name][count]) if count in records[name] else "–" for count in labels]
            runs = [run for count in labels for run in records[name].get(count, {}).values()]
            commits = ", ".join(sorted({f"`{run['commit'][:7]}`" for run in runs}))
            lines.append(f"| {title(name)} | " + " | ".join([*cells, commits]) + " |")
    return lines


def title(method: str) -> str:
    return TITLES.get(method, method.replace("_", " "))


def names_of(kind: str) -> list[str]:
    return [path.stem for path in sorted((REPOSITORY / "configs" / kind).glob("*.yaml"))]


def draw(records, labels: Sequence[int], path: Path, data: str) -> None:
    """Mean mIoU with the range over the seeds against the number of labels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=150)
    for name in [OURS, *names_of("baselines")]:
        counts = [count for count in labels if count in records.get(name, {})]
        if not counts:
            continue
        scores = [[record["mIoU"] for record in records[name][count].values()] for count in counts]
        mean = [np.mean(s) for s in scores]
        axes.plot(counts, mean, marker="o", label=title(name), linewidth=2.5 if name == OURS else 1.5)
        axes.fill_between(counts, [min(s) for s in scores], [max(s) for s in scores], alpha=0.15)
    axes.set_xscale("log", base=2)
    axes.set_xticks(labels, [str(count) for count in labels])
    axes.minorticks_off()
    axes.set(
        xlabel="labelled images",
        ylabel="mIoU",
        title=f"{data}: the same images, backbone and iterations",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def write_tables(data: str) -> None:
    """Replace the part of docs/results.md between this dataset's markers, or add it at the end."""
    configs, (first, *others) = list(DATA[data].configs.values()), DATA[data].tests
    records = load(data, first)
    labels = sorted({count for by_labels in records.values() for count in by_labels})
    if not labels:
        return
    image = DOCUMENT.parent / "images" / f"label_efficiency_{data}.png"
    figure = []
    if len(labels) > 1:
        draw(records, labels, image, data)
        figure = [f"![mIoU against labels](images/{image.name})", ""]
    main_methods = [*names_of("baselines"), LONGER, OURS]
    ablations = names_of("ablations")
    components = [name for name in ablations if name.startswith("components")]
    if components[0] not in records and data == "shapesworld":
        # When these were measured, they differed in the weight of entropy alone, which is 0 there.
        components[0] = "semivl"
    files = " and ".join(f"`configs/{config}.yaml`" for config in configs)
    lines = [
        f"Mean mIoU ± standard deviation (number of seeds), {files}, on `{first}`.",
        "",
        *figure,
        *table(records, main_methods, labels),
    ]
    for other in others:
        lines += ["", f"The same networks on `{other}`:", "", *table(load(data, other), main_methods, labels)]
    for caption, names in (
        ("The parts of the network, added one by one", components),
        ("One change each", [name for name in ablations if not name.startswith("components")]),
    ):
        if any(name in records for name in names):
            measured = {count for name in names if name in ablations for count in records.get(name, ())}
            lines += ["", f"{caption}:", "", *table(records, [*names, OURS], sorted(measured))]
    start, end = f"<!-- label_efficiency {data} -->", f"<!-- end label_efficiency {data} -->"
    block = "\n".join([start, *lines, end])
    text = DOCUMENT.read_text()
    if start in text:
        before, rest = text.split(start, 1)
        text = before + block + rest.split(end, 1)[1]
    else:
        text = text.rstrip() + f"\n\n## Label efficiency: {data}\n\n{block}\n"
    DOCUMENT.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(DATA), default="shapesworld")
    parser.add_argument("--labels", type=int, nargs="+", default=[16])
    parser.add_argument("--methods", nargs="+", default=["supervised", OURS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="runs at a time, sharing the cores")
    parser.add_argument("--output", type=Path, default=Path("output/label_efficiency"), help="folder of the runs")
    parser.add_argument("--only-tables", action="store_true", help="run nothing")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY VALUE", help="for every run")
    args = parser.parse_args()
    known = methods()
    if DATA[args.data].folders:  # there a preset says how many iterations there are
        del known[LONGER]
    names = list(known) if args.methods == ["all"] else args.methods
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no method {unknown[0]!r}; there are {', '.join(known)}")
    runs = [Run(args.data, count, name, seed) for seed in args.seeds for count in args.labels for name in names]
    missing = [] if args.only_tables else [run for run in runs if not run.path.exists()]
    threads = max(1, usable_cores() // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = [args.output / args.data / run.path.stem for run in missing]
        list(pool.map(lambda pair: train(*pair, args.overrides, threads), zip(missing, folders)))
    write_tables(args.data)


if __name__ == "__main__":
    main()
