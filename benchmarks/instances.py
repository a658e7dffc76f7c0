"""What the instance queries are worth on ShapesWorld: instance AP, panoptic quality, objects found, told apart.

    python -m benchmarks.instances [--seeds 0 1 2] [--jobs 2] [KEY VALUE …]

Three arms: with instance queries and the instance annotations of the labelled images; with instance queries and
without those annotations (they learn connected regions); without instance queries (objects are the connected regions
of the semantic map). Beside them the first arm's networks, whose rows are not asked. Trains what is missing below
``--output``; writes ``benchmarks/results/instances.json``.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from detectron2.engine import default_argument_parser
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import trainings
from hiervl.data.loading.readers import read_image, read_instances, read_label
from hiervl.data.registered.catalogs import register_in_catalogs, registered_classes
from hiervl.data.registered.datasets import load_dataset
from hiervl.engine.main import run as train
from hiervl.evaluation.panoptic_quality import PanopticQuality
from hiervl.inference.predictor import HierVLPredictor
from hiervl.inference.results import coco_annotation

REPOSITORY = Path(__file__).resolve().parents[1]
SHOWN = 0.5  # the predictor's usual min_score
TRAIN = ["-m", "benchmarks.instances", "--train"]
CONFIG = str(REPOSITORY / "configs" / "quickstart.yaml")
LABELED, TEST = "shapesworld_train_16", "shapesworld_val"
UNANNOTATED = f"{LABELED}_without_instances"
ANNOTATED, NOT_ASKED = "instance queries, instance annotations", "the same networks, rows not asked"
ARMS: dict[str, list[str]] = {
    ANNOTATED: [],
    "instance queries": ["DATASETS.TRAIN", f"('{UNANNOTATED}',)"],
    "no instance queries": ["MODEL.QUERY_DECODER.INSTANCE_QUERIES", "0"],
}


def register_unannotated() -> None:
    """The labelled images without their instance files."""

    def load() -> list[dict]:
        return [
            {key: value for key, value in entry.items() if key != "instance_file_name"}
            for entry in load_dataset(LABELED)
        ]

    register_in_catalogs(UNANNOTATED, load, registered_classes(LABELED))


def truth_of(entry: dict, num_classes: int):
    """Instance numbers (H, W) and the class of each."""
    labels = read_label(entry["sem_seg_file_name"], num_classes)
    instances = read_instances(entry["instance_file_name"], labels.shape)
    return instances, {int(n): int(labels[instances == n][0]) for n in np.unique(instances) if n}


def touching_pairs(instances: np.ndarray, labels: dict[int, int]) -> list[tuple]:
    """Pairs of objects of one class whose masks touch."""
    grown = {n: cv2.dilate((instances == n).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for n in labels}
    numbers = sorted(labels)
    return [
        (a, b)
        for a in numbers
        for b in numbers
        if a < b and labels[a] == labels[b] and (grown[a] & (instances == b)).any()
    ]


class RegionPredictor(HierVLPredictor):
    """Objects are connected regions of the semantic map, whatever rows the network has."""

    has_instance_queries = False


def evaluate(folder: Path, count: int, kind: type[HierVLPredictor] = HierVLPredictor) -> dict[str, float]:
    """AP, PQ, F1 of the objects above the usual ``min_score``, share of touching objects told apart; in percent."""
    predictor = kind.from_checkpoint(folder / "model_final.pth", device="cpu", min_score=0.0)
    things = list(predictor.things)
    quality = PanopticQuality(len(predictor.classes))
    truths, found = [], []
    pairs = apart = shown = right = 0
    entries = load_dataset(TEST)[:count]
    for image_id, entry in enumerate(entries, start=1):
        instances, labels = truth_of(entry, len(predictor.classes))
        prediction = predictor(read_image(entry["file_name"]))
        for number, label in labels.items():
            mask = coco_mask.encode(np.asfortranarray((instances == number).astype(np.uint8)))
            truths.append(
                {"id": len(truths) + 1, "image_id": image_id, "category_id": label + 1, "segmentation": mask}
                | {"area": int((instances == number).sum()), "bbox": coco_mask.toBbox(mask).tolist(), "iscrowd": 0}
            )
        found += [
            {"image_id": image_id, **coco_annotation(instance, instances.shape)} for instance in prediction.instances
        ]
        # The background is a segment of the truth as well.
        whole = np.where(instances > 0, instances, instances.max() + 1).astype(int)
        background = int(instances.max()) + 1
        segments = {segment.id: segment.label for segment in prediction.panoptic.segments}
        matches = quality.add(whole, {**labels, background: 0}, prediction.panoptic.ids, segments)
        sure = {s.id for s in prediction.panoptic.segments if s.is_thing and s.score >= SHOWN}
        shown += len(sure)
        right += len(sure & set(matches.values()))
        for a, b in touching_pairs(instances, labels):
            pairs += 1
            apart += a in matches and b in matches
    return {
        **average_precision(truths, found, len(entries), instances.shape, things),
        "PQ": quality.score(range(len(predictor.classes))),
        "PQ of objects": quality.score(things),
        "F1": 200 * right / (shown + len(truths)),
        "touching pairs of one class": pairs,
        "of them apart": 100 * apart / pairs if pairs else float("nan"),
    }


def average_precision(truths, found, images: int, size, things) -> dict[str, float]:
    """COCO's AP over IoUs 0.5 … 0.95, and at 0.5."""
    if not found:
        return {"AP": 0.0, "AP50": 0.0}
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i + 1, "height": size[0], "width": size[1]} for i in range(images)],
        "annotations": truths,
        "categories": [{"id": thing + 1} for thing in things],
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {"AP": 100 * float(evaluation.stats[0]), "AP50": 100 * float(evaluation.stats[1])}


def main() -> None:
    args = trainings.parser(__doc__, "instances").parse_args()
    names = {arm: arm.replace(",", "").replace(" ", "_") for arm in ARMS}
    folders = {(arm, seed): args.output / f"{names[arm]}_{seed}" for arm in ARMS for seed in args.seeds}
    commands = {
        folder: [*TRAIN, "--config-file", CONFIG, *ARMS[arm], "SEED", str(seed), *args.opts]
        for (arm, seed), folder in folders.items()
    }
    trainings.train_missing(commands, args.jobs)
    runs = {arm: {seed: evaluate(folders[arm, seed], args.images) for seed in args.seeds} for arm in ARMS}
    runs[NOT_ASKED] = {seed: evaluate(folders[ANNOTATED, seed], args.images, RegionPredictor) for seed in args.seeds}
    means = {
        arm: {key: float(np.mean([run[key] for run in arm_runs.values()])) for key in next(iter(arm_runs.values()))}
        for arm, arm_runs in runs.items()
    }
    trainings.write_results(args.results, args.opts, mean=means, runs=runs)
    for arm, mean in means.items():
        print(f"{arm}: " + ", ".join(f"{key} {value:.1f}" for key, value in mean.items()))


if __name__ == "__main__":
    register_unannotated()
    if sys.argv[1:2] == ["--train"]:
        train(default_argument_parser().parse_args(sys.argv[2:]))
    else:
        main()
