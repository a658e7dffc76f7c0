"""``python -m hiervl demo``: train the quickstart with and without unlabelled images, and compare the two."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from hiervl.config.files import SHIPPED
from hiervl.utils.errors import UserError
from hiervl.visualization.report import write_report

HELP = "train the quickstart with and without unlabelled images and compare the two"

SUPERVISED, SEMI_SUPERVISED = "supervised-only", "semi-supervised"
RUNS: dict[str, list[str]] = {SUPERVISED: ["SEMI.ENABLED", "False"], SEMI_SUPERVISED: []}
POLL_SECONDS = 2.0
REPORT_SECONDS = 20.0


def add_arguments(parser) -> None:
    parser.add_argument("--config-file", default=str(SHIPPED / "quickstart.yaml"), help="what to train")
    parser.add_argument("--output", default="output/demo", help="folder of both runs and of the pictures")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config values for both runs")


def run(args) -> int:
    """Both trainings at the same time, each on half of the cores; then the two results and the pictures."""
    from hiervl.engine.run_config import load_config

    cfg = load_config(args.config_file, args.opts)  # so that mistakes there are reported at once
    output = Path(args.output)
    started = time.monotonic()
    folders = {name: output / name for name in RUNS}
    print(f"Training twice on {', '.join(cfg.DATASETS.TRAIN)}: {' and '.join(RUNS)}.", flush=True)
    processes = {name: _start(args.config_file, folders[name], RUNS[name] + args.opts) for name in RUNS}
    _wait(processes, folders)
    scores = {name: _score(folder) for name, folder in folders.items()}
    pictures = _draw(args, folders, output / "predictions.png")
    report = write_report(folders[SEMI_SUPERVISED], compare=folders[SUPERVISED])
    print(
        f"\nmIoU on unseen images, same labels and iterations ({time.monotonic() - started:.0f} s):\n"
        f"  {SEMI_SUPERVISED:<16} {scores[SEMI_SUPERVISED]:6.2f}\n"
        f"  {SUPERVISED:<16} {scores[SUPERVISED]:6.2f}\n"
        f"  unlabelled images gained {scores[SEMI_SUPERVISED] - scores[SUPERVISED]:+.2f}\n"
        f"pictures: {pictures}\n"
        f"report: {report}"
    )
    return 0


def _start(config_file: str, folder: Path, overrides: list[str]) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)  # of an earlier demo
    (folder / "results.json").unlink(missing_ok=True)
    threads = max(1, (os.cpu_count() or 1) // len(RUNS))
    with open(folder / "output.txt", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hiervl", "train", "--config-file", config_file]
            + [*overrides, "OUTPUT_DIR", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )


def _wait(processes: dict[str, subprocess.Popen], folders: dict[str, Path]) -> None:
    """Report the progress of both until they end; if one fails, end the other."""
    reported = time.monotonic()
    try:
        while any(process.poll() is None for process in processes.values()):
            for name, process in processes.items():
                if process.poll():
                    raise UserError(_failure(name, folders[name]))
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                print("  " + "   ".join(f"{name}: {_progress(folders[name])}" for name in processes), flush=True)
            time.sleep(POLL_SECONDS)
        for name, process in processes.items():
            if process.returncode:
                raise UserError(_failure(name, folders[name]))
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()


def _failure(name: str, folder: Path) -> str:
    lines = (folder / "output.txt").read_text(errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("error: ") if lines else "no output"
    return f"the {name} training failed: {last} ({folder / 'output.txt'} has the log)."


def _progress(folder: Path) -> str:
    latest: dict[str, float] = {}
    metrics = folder / "metrics.json"
    if metrics.exists():
        for line in metrics.read_text().splitlines():
            if line.endswith("}"):  # the last line may be incomplete
                latest.update(json.loads(line))
    if "iteration" not in latest:
        return "starting"
    score = f", mIoU {latest['sem_seg/mIoU']:.1f}" if "sem_seg/mIoU" in latest else ""
    return f"iteration {latest['iteration'] + 1}{score}"


def _score(folder: Path) -> float:
    score: float | None = json.loads((folder / "results.json").read_text())["sem_seg"]["mIoU"]
    return float("nan") if score is None else score


def _draw(args, folders: dict[str, Path], path: Path) -> Path:
    """Image, truth and both predictions, for some images from all over the test set."""
    from detectron2.data import MetadataCatalog

    from hiervl.data.loading.loaders import build_test_loader
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.evaluation import SlidingWindowSegmenter
    from hiervl.modeling import build_network
    from hiervl.utils.checkpoint_file import load_network
    from hiervl.visualization.pictures import draw_comparisons

    cfg = prepare_config(load_config(args.config_file, args.opts), training=False)
    models = {}
    for name, folder in folders.items():
        network = build_network(cfg).eval()
        load_network(network, str(folder / "model_final.pth"), cfg.TEST.NETWORK)
        models[name] = SlidingWindowSegmenter(network, cfg.INPUT.CROP_SIZE, overlap=cfg.TEST.OVERLAP)
    dataset = cfg.DATASETS.TEST[0]
    loader = build_test_loader(cfg, dataset, cfg.TEST.PICTURES)
    draw_comparisons(models, loader, MetadataCatalog.get(dataset), str(path), cfg.TEST.PICTURES)
    return path
