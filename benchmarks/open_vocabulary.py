"""How well names are found that the network never saw.

    python -m benchmarks.open_vocabulary [--data shapesworld] [--seeds 0 1 2] [--jobs 2] [KEY VALUE …]

Three classes are ignored in the labelled images and missing from the class list of the training: of ShapesWorld pairs
of colour and pattern whose words occur in other pairs, of CamVid kinds of objects. The network then predicts all
classes. Reported: mIoU of seen and unseen classes and their harmonic mean, beside the dense prediction of the CLIP that
training starts from; the same without CLIP's say in what is new; and all classes under names that were never trained.
Trains what is missing below ``--output`` and writes ``benchmarks/results/open_vocabulary_{data}.json``.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.engine import default_argument_parser
from PIL import Image

from benchmarks import trainings
from hiervl.data.classes import ClassDefinition
from hiervl.data.loading.readers import read_image, read_label
from hiervl.data.registered.catalogs import IGNORE_LABEL, register_in_catalogs
from hiervl.data.registered.datasets import CAMVID, SHAPESWORLD, FolderDataset, load_dataset
from hiervl.engine.main import run as train
from hiervl.engine.run_config import load_config
from hiervl.evaluation.semantic_evaluator import confusion_matrix, mean_known, scores_from_confusion
from hiervl.inference.predictor import HierVLPredictor, pixels_of
from hiervl.modeling import build_network
from hiervl.modeling.frozen_clip import FrozenClip

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINED, WITHOUT_CLIP, RENAMED = KINDS = ("trained", "without CLIP's say in what is new", "all under new names")
KEYS = ("seen", "unseen", "harmonic", "all", "objects")


class World(NamedTuple):
    """What is trained on, and which of its classes are held out."""

    dataset: FolderDataset
    config: str
    labeled: str
    test: str
    unseen: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [definition.name for definition in self.dataset.classes]

    @property
    def seen(self) -> tuple[ClassDefinition, ...]:
        return tuple(definition for definition in self.dataset.classes if definition.name not in self.unseen)

    @property
    def config_file(self) -> str:
        return str(REPOSITORY / "configs" / f"{self.config}.yaml")


WORLDS = {
    "shapesworld": World(
        SHAPESWORLD, "quickstart", "shapesworld_train_16", "shapesworld_val",
        ("plain orange shape", "striped green shape", "dotted blue shape"),
    ),
    "camvid": World(
        CAMVID, "camvid_46_cpu", "camvid_train_46", "camvid_val", ("car", "sign", "bicyclist"),
        ("MODEL.QUERY_DECODER.INSTANCE_QUERIES", "16"),  # which open vocabulary needs
    ),
}  # fmt: skip


def register_seen_only(world: World, name: str, folder: Path) -> None:
    """The labelled images with labels of the seen classes alone, written to ``folder`` when they are loaded."""
    names = world.names
    renumbered = np.full(256, IGNORE_LABEL, np.uint8)
    for new, definition in enumerate(world.seen):
        renumbered[names.index(definition.name)] = new

    def load() -> list[dict]:
        folder.mkdir(parents=True, exist_ok=True)
        dicts = []
        for entry in load_dataset(world.labeled):
            path = folder / f"{entry['image_id']}.png"
            Image.fromarray(renumbered[read_label(entry["sem_seg_file_name"], len(names))]).save(path)
            kept = {key: value for key, value in entry.items() if key != "instance_file_name"}
            dicts.append({**kept, "sem_seg_file_name": str(path)})
        return dicts

    register_in_catalogs(name, load, world.seen)


def evaluate(world: World, label_map: Callable[[np.ndarray], np.ndarray], count: int) -> dict[str, object]:
    """mIoU of seen and unseen classes and their harmonic mean, in percent, from a function image → labels."""
    names = world.names
    confusion = np.zeros((len(names), len(names)), np.int64)
    for entry in load_dataset(world.test)[:count]:
        truth = read_label(entry["sem_seg_file_name"], len(names))
        confusion += confusion_matrix(truth, label_map(read_image(entry["file_name"])), len(names))
    iou = scores_from_confusion(confusion, names)["IoU"]
    foreground = [definition.name for definition in world.dataset.classes if not definition.background]
    seen = mean_known([value for name, value in iou.items() if name not in world.unseen])
    unseen = mean_known([iou[name] for name in world.unseen])
    harmonic = 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else 0.0
    return {
        "seen": seen,
        "unseen": unseen,
        "harmonic": harmonic,
        "all": mean_known(list(iou.values())),
        "objects": mean_known([iou[name] for name in foreground]),
        "IoU": dict(iou),
    }


def trained(world: World, folder: Path, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The network of a run, asked for all classes, as ``kind`` of KINDS says."""
    classes = world.dataset.classes
    if kind == RENAMED:
        classes = tuple(replace(definition, name=f"new {definition.name}") for definition in classes)
    predictor = HierVLPredictor.from_checkpoint(folder / "model_final.pth", classes=classes, device="cpu")
    if kind == WITHOUT_CLIP:
        predictor.network.open_vocabulary.share_pixels = lambda scores, by_clip: scores
    return lambda image: predictor(image, instances=False, panoptic=False).semantic


def untrained(world: World) -> Callable[[np.ndarray], np.ndarray]:
    """The dense prediction of the CLIP that training starts from, at the size of the training."""
    cfg = load_config(world.config_file, ["DATASETS.TRAIN", f"('{world.labeled}',)"])
    network = build_network(cfg).eval()
    clip = FrozenClip(network.backbone, network.logit_scale)
    with torch.no_grad():
        text = network.encode_text()

    def predict(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = cfg.INPUT.SHORT_SIDE / min(height, width) if cfg.INPUT.SHORT_SIDE else 1.0
        size = (round(width * scale), round(height * scale))
        images = network.normalize([pixels_of(cv2.resize(image, size, interpolation=cv2.INTER_AREA))])
        scores = torch.nn.functional.interpolate(clip(images, text), images.shape[2:], mode="bilinear")
        seen = scores[:, :, : size[1], : size[0]]
        return torch.nn.functional.interpolate(seen, (height, width), mode="bilinear")[0].argmax(0).numpy()

    return predict


def main() -> None:
    parser = trainings.parser(__doc__, "open_vocabulary")
    parser.add_argument("--data", choices=sorted(WORLDS), default="shapesworld")
    args = parser.parse_args()
    world = WORLDS[args.data]
    results = args.results.with_name(f"{args.results.stem}_{args.data}.json")
    settings = ["DATASETS.TRAIN", f"('{seen_only(world)}',)", "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0"]
    settings += [*world.options, *args.opts]
    folders = {seed: args.output / args.data / f"seed_{seed}" for seed in args.seeds}
    program = ["-m", "benchmarks.open_vocabulary", "--train", args.data, "--config-file", world.config_file]
    commands = {folder: [*program, *settings, "SEED", str(seed)] for seed, folder in folders.items()}
    trainings.train_missing(commands, args.jobs)
    runs = {
        kind: {seed: evaluate(world, trained(world, folder, kind), args.images) for seed, folder in folders.items()}
        for kind in KINDS
    }
    means = {
        kind: {key: float(np.mean([run[key] for run in kind_runs.values()])) for key in KEYS}
        for kind, kind_runs in runs.items()
    }
    clip = evaluate(world, untrained(world), args.images)
    trainings.write_results(results, args.opts, unseen_classes=world.unseen, mean=means, untrained_clip=clip, runs=runs)
    for name, scores in (*means.items(), ("CLIP before training", clip)):
        print(f"{name}: " + ", ".join(f"{key} {scores[key]:.1f}" for key in KEYS))


def seen_only(world: World) -> str:
    """Name of the labelled images with labels of the seen classes alone."""
    return f"{world.labeled}_seen_only"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        chosen = WORLDS[sys.argv[2]]
        arguments = default_argument_parser().parse_args(sys.argv[3:])
        output = Path(arguments.opts[arguments.opts.index("OUTPUT_DIR") + 1])
        register_seen_only(chosen, seen_only(chosen), output / "labels")
        train(arguments)
    else:
        main()
