"""How well names are found that the network never saw: ShapesWorld with held-out pairs of colour and pattern.

    python -m benchmarks.open_vocabulary [--seeds 0 1 2] [--jobs 2] [KEY VALUE …]

Three of the twelve pairs are ignored in the labelled images and missing from the class list of the training; each of
their words occurs in other pairs. The network then predicts all thirteen classes. Reported: mIoU of seen and unseen
classes and their harmonic mean, beside the dense prediction of the CLIP that training starts from; the same without
CLIP's say in what is new; and all classes under names that were never trained. Trains what is missing below
``--output`` and writes ``benchmarks/results/open_vocabulary.json``.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import default_argument_parser
from PIL import Image

from benchmarks import trainings
from hiervl.data.loading.readers import read_image, read_label
from hiervl.data.registered.catalogs import IGNORE_LABEL, register_in_catalogs
from hiervl.data.registered.datasets import SHAPESWORLD, load_dataset
from hiervl.engine.main import run as train
from hiervl.engine.run_config import load_config
from hiervl.evaluation.semantic_evaluator import confusion_matrix, mean_known, scores_from_confusion
from hiervl.inference.predictor import HierVLPredictor, pixels_of
from hiervl.modeling import build_network
from hiervl.modeling.frozen_clip import FrozenClip

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = str(REPOSITORY / "configs" / "quickstart.yaml")
LABELED, TEST = "shapesworld_train_16", "shapesworld_val"
SEEN_ONLY = f"{LABELED}_seen_only"
UNSEEN = ("plain orange shape", "striped green shape", "dotted blue shape")
SEEN = tuple(definition for definition in SHAPESWORLD.classes if definition.name not in UNSEEN)
TRAINED, WITHOUT_CLIP, RENAMED = KINDS = ("trained", "without CLIP's say in what is new", "all under new names")
KEYS = ("seen", "unseen", "harmonic", "all", "objects")
NAMES = [definition.name for definition in SHAPESWORLD.classes]


def register_seen_only(folder: Path) -> None:
    """The labelled images with labels of the seen classes alone, written to ``folder`` when they are loaded."""
    renumbered = np.full(256, IGNORE_LABEL, np.uint8)
    for new, definition in enumerate(SEEN):
        renumbered[NAMES.index(definition.name)] = new

    def load() -> list[dict]:
        folder.mkdir(parents=True, exist_ok=True)
        dicts = []
        for entry in load_dataset(LABELED):
            path = folder / f"{entry['image_id']}.png"
            Image.fromarray(renumbered[read_label(entry["sem_seg_file_name"], len(NAMES))]).save(path)
            kept = {key: value for key, value in entry.items() if key != "instance_file_name"}
            dicts.append({**kept, "sem_seg_file_name": str(path)})
        return dicts

    register_in_catalogs(SEEN_ONLY, load, SEEN)


def evaluate(label_map: Callable[[np.ndarray], np.ndarray], count: int) -> dict[str, object]:
    """mIoU of seen and unseen classes and their harmonic mean, in percent, from a function image → labels."""
    confusion = np.zeros((len(NAMES), len(NAMES)), np.int64)
    for entry in load_dataset(TEST)[:count]:
        truth = read_label(entry["sem_seg_file_name"], len(NAMES))
        confusion += confusion_matrix(truth, label_map(read_image(entry["file_name"])), len(NAMES))
    iou = scores_from_confusion(confusion, NAMES)["IoU"]
    seen = mean_known([value for name, value in iou.items() if name not in UNSEEN])
    unseen = mean_known([iou[name] for name in UNSEEN])
    harmonic = 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else 0.0
    return {
        "seen": seen,
        "unseen": unseen,
        "harmonic": harmonic,
        "all": mean_known(list(iou.values())),
        "objects": mean_known([value for name, value in iou.items() if name != NAMES[0]]),
        "IoU": dict(iou),
    }


def trained(folder: Path, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The network of a run, asked for all classes, as ``kind`` of KINDS says."""
    classes = SHAPESWORLD.classes
    if kind == RENAMED:
        classes = [replace(definition, name=f"new {definition.name}") for definition in classes]
    predictor = HierVLPredictor.from_checkpoint(folder / "model_final.pth", classes=classes, device="cpu")
    if kind == WITHOUT_CLIP:
        predictor.network.open_vocabulary.share_pixels = lambda scores, by_clip: scores
    return lambda image: predictor(image, instances=False, panoptic=False).semantic


def untrained() -> Callable[[np.ndarray], np.ndarray]:
    """The dense prediction of the CLIP that training starts from."""
    network = build_network(load_config(CONFIG, ["DATASETS.TRAIN", f"('{LABELED}',)"])).eval()
    clip = FrozenClip(network.backbone, network.logit_scale)
    with torch.no_grad():
        text = network.encode_text()

    def predict(image: np.ndarray) -> np.ndarray:
        images = network.normalize([pixels_of(image)])
        scores = torch.nn.functional.interpolate(clip(images, text), images.shape[2:], mode="bilinear")
        return scores[0, :, : image.shape[0], : image.shape[1]].argmax(0).numpy()

    return predict


def main() -> None:
    args = trainings.parser(__doc__, "open_vocabulary").parse_args()
    settings = ["DATASETS.TRAIN", f"('{SEEN_ONLY}',)", "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0", *args.opts]
    folders = {seed: args.output / f"seed_{seed}" for seed in args.seeds}
    commands = {
        folder: ["-m", "benchmarks.open_vocabulary", "--train", "--config-file", CONFIG, *settings, "SEED", str(seed)]
        for seed, folder in folders.items()
    }
    trainings.train_missing(commands, args.jobs)
    runs = {
        kind: {seed: evaluate(trained(folder, kind), args.images) for seed, folder in folders.items()} for kind in KINDS
    }
    means = {
        kind: {key: float(np.mean([run[key] for run in kind_runs.values()])) for key in KEYS}
        for kind, kind_runs in runs.items()
    }
    clip = evaluate(untrained(), args.images)
    trainings.write_results(args.results, args.opts, unseen_classes=UNSEEN, mean=means, untrained_clip=clip, runs=runs)
    for name, scores in (*means.items(), ("CLIP before training", clip)):
        print(f"{name}: " + ", ".join(f"{key} {scores[key]:.1f}" for key in KEYS))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        arguments = default_argument_parser().parse_args(sys.argv[2:])
        register_seen_only(Path(arguments.opts[arguments.opts.index("OUTPUT_DIR") + 1]) / "labels")
        train(arguments)
    else:
        main()
