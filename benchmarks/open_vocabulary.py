"""How well names are found that the network never saw: ShapesWorld with held-out pairs of colour and pattern.

    python benchmarks/open_vocabulary.py [--seeds 0 1 2] [--jobs 2] [KEY VALUE …]

Three of the twelve pairs are ignored in the labelled images and missing from the class list of the training; each of
their words occurs in other pairs. The network then predicts all thirteen classes. Reported: mIoU of seen and unseen
classes and their harmonic mean, beside the dense prediction of the CLIP that training starts from. Trains what is
missing below ``--output`` and writes ``benchmarks/results/open_vocabulary.json``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import hiervl  # noqa: E402, F401, I001  prepares older Detectron2 versions for today's packages
import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.engine import default_argument_parser  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from PIL import Image  # noqa: E402

import train_net  # noqa: E402
from hiervl.data.datasets import IGNORE_LABEL, SHAPESWORLD, load_dataset  # noqa: E402
from hiervl.data.readers import read_image, read_label  # noqa: E402
from hiervl.evaluation.semantic_evaluator import confusion_matrix, mean_of_known, scores_from_confusion  # noqa: E402
from hiervl.inference.predictor import HierVLPredictor, pixels_of  # noqa: E402
from hiervl.modeling.frozen_clip import FrozenClip  # noqa: E402
from hiervl.run_config import load_config  # noqa: E402

CONFIG = str(REPOSITORY / "configs" / "quickstart.yaml")
LABELLED, TEST = "shapesworld_train_16", "shapesworld_val"
SEEN_ONLY = f"{LABELLED}_seen_only"
UNSEEN = ("plain orange shape", "striped green shape", "dotted blue shape")
SEEN = tuple(definition for definition in SHAPESWORLD.classes if definition.name not in UNSEEN)
NAMES = [definition.name for definition in SHAPESWORLD.classes]


def register_seen_only(folder: Path) -> None:
    """The labelled images with labels of the seen classes alone, written to ``folder`` when they are loaded."""
    renumbered = np.full(256, IGNORE_LABEL, np.uint8)
    for new, definition in enumerate(SEEN):
        renumbered[NAMES.index(definition.name)] = new

    def load() -> List[dict]:
        folder.mkdir(parents=True, exist_ok=True)
        dicts = []
        for entry in load_dataset(LABELLED):
            path = folder / f"{entry['image_id']}.png"
            Image.fromarray(renumbered[read_label(entry["sem_seg_file_name"], len(NAMES))]).save(path)
            kept = {key: value for key, value in entry.items() if key != "instance_file_name"}
            dicts.append({**kept, "sem_seg_file_name": str(path)})
        return dicts

    DatasetCatalog.register(SEEN_ONLY, load)
    MetadataCatalog.get(SEEN_ONLY).set(
        stuff_classes=[definition.name for definition in SEEN],
        stuff_colors=[list(definition.color) for definition in SEEN],
        class_phrases=[list(definition.phrases) for definition in SEEN],
        ignore_label=IGNORE_LABEL,
    )


def train(seed: int, folder: Path, opts: List[str]) -> None:
    """Train one network in a process of its own, unless it is there already."""
    if (folder / "model_final.pth").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    overrides = ["DATASETS.TRAIN", f"('{SEEN_ONLY}',)", "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0"]
    overrides += ["SEED", str(seed), "OUTPUT_DIR", str(folder), *opts]
    command = [sys.executable, __file__, "--train", "--config-file", CONFIG, *overrides]
    with open(folder / "output.txt", "w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def evaluate(label_map: Callable[[np.ndarray], np.ndarray], count: int) -> Dict[str, object]:
    """mIoU of seen and unseen classes and their harmonic mean, in percent, from a function image → labels."""
    confusion = np.zeros((len(NAMES), len(NAMES)), np.int64)
    for entry in load_dataset(TEST)[:count]:
        truth = read_label(entry["sem_seg_file_name"], len(NAMES))
        confusion += confusion_matrix(truth, label_map(read_image(entry["file_name"])), len(NAMES))
    iou = scores_from_confusion(confusion, NAMES)["IoU"]
    seen = mean_of_known([value for name, value in iou.items() if name not in UNSEEN])
    unseen = mean_of_known([iou[name] for name in UNSEEN])
    harmonic = 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else 0.0
    return {"seen": seen, "unseen": unseen, "harmonic": harmonic, "IoU": dict(iou)}


def trained(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The network of a run, asked for all classes."""
    predictor = HierVLPredictor.from_checkpoint(folder / "model_final.pth", classes=SHAPESWORLD.classes, device="cpu")
    return lambda image: predictor(image, instances=False, panoptic=False).semantic


def untrained() -> Callable[[np.ndarray], np.ndarray]:
    """The dense prediction of the CLIP that training starts from."""
    network = build_model(load_config(CONFIG, ["DATASETS.TRAIN", f"('{LABELLED}',)"])).eval()
    clip = FrozenClip(network.backbone, network.logit_scale)
    with torch.no_grad():
        text = network.encode_text()

    def predict(image: np.ndarray) -> np.ndarray:
        images = network.normalise([pixels_of(image)])
        scores = torch.nn.functional.interpolate(clip(images, text), images.shape[2:], mode="bilinear")
        return scores[0, :, : image.shape[0], : image.shape[1]].argmax(0).numpy()

    return predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("output/open_vocabulary"))
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="trainings at a time")
    parser.add_argument("--images", type=int, default=200, help="test images")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "open_vocabulary.json")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config values for all trainings")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    folders = {seed: args.output / f"seed_{seed}" for seed in args.seeds}
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda item: train(*item, args.opts), folders.items()))
    runs = {seed: evaluate(trained(folder), args.images) for seed, folder in folders.items()}
    keys = ("seen", "unseen", "harmonic")
    means = {key: float(np.mean([run[key] for run in runs.values()])) for key in keys}
    clip = evaluate(untrained(), args.images)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    record = {
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "opts": args.opts,
        "unseen_classes": UNSEEN,
        "mean": means,
        "untrained_clip": clip,
        "runs": runs,
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(record, indent=2) + "\n")
    for name, scores in (("trained", means), ("CLIP before training", clip)):
        print(f"{name}: " + ", ".join(f"{key} {scores[key]:.1f}" for key in keys))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        arguments = default_argument_parser().parse_args(sys.argv[2:])
        register_seen_only(Path(arguments.opts[arguments.opts.index("OUTPUT_DIR") + 1]) / "labels")
        train_net.run(arguments)
    else:
        main()
