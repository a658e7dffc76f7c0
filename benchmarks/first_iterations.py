"""What the twenty configs of the paper make of unlabelled photographs in their first iterations.

    python -m benchmarks.first_iterations [--configs coco_232 pascal_92] [--iterations 30] [KEY VALUE …]

The benchmarks' images and CLIP's weights are stood in for: by CamVid with 46 labels and the ImageNet encoder that
HierVL brings, which knows few of its classes by name, or by ShapesWorld and its CLIP, which knows them all. Images
and batches are small, so that it runs on a CPU. Losses, weights, thresholds, decoders and learning rates
are the config's, and so is the number of classes: those that the stand-in lacks have the benchmark's names and never
occur. Configs that differ in nothing of this are trained once. Shown are the share of pixels whose pseudo-label is
kept, of how many classes, how large the gradient of unlabelled images is beside that of labelled ones, and the
teacher's mIoU on validation images at the end. Options (``SEMI.BURN_IN 50``) are for all configs. Results are written
to ``results/first_iterations/camvid.json``, or where ``--results`` says.
"""

import argparse
import json
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from fvcore.common.config import CfgNode

from hiervl.data.registered.datasets import CAMVID, SHAPESWORLD, FolderDataset, class_names_of, register_all
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer

from .trainings import RESULTS, write_results

PATTERNS = ("pascal_*", "coco_*", "ade20k_*", "cityscapes_*")
CONFIGS = [path.stem for pattern in PATTERNS for path in sorted(Path("configs").glob(f"{pattern}.yaml"))]
ALIKE = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLIP.BLOCKS": [],
    "MODEL.RECOMPUTE": [],
    "TEST.EVAL_PERIOD": 0,
    "SOLVER.CHECKPOINT_PERIOD": 50000,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.UNLABELED_PER_BATCH": 2,
    "SOLVER.EPOCHS": 0,
    "SOLVER.MAX_ITER": 50000,  # the learning rate hardly falls
    "SOLVER.AMP.ENABLED": False,
    "DATALOADER.NUM_WORKERS": 0,
    "SEMI.BURN_IN": 0,  # to see what an untrained teacher would say
    "SEED": 0,
}
STAND_INS: dict[str, tuple[FolderDataset, dict]] = {
    "camvid": (CAMVID, {
        "MODEL.CLIP.NAME": "imagenet-lite",
        "MODEL.CLIP.PRETRAINED": "imagenet-lite",
        "DATASETS.TRAIN": ("camvid_train_46",),
        "DATASETS.UNLABELED": ("camvid_train_46_unlabeled",),
        "DATASETS.TEST": ("camvid_val",),
        "INPUT.SHORT_SIDE": 180,
        "INPUT.CROP_SIZE": 160,
    }),
    "shapesworld": (SHAPESWORLD, {
        "MODEL.CLIP.NAME": "shapesworld",
        "MODEL.CLIP.PRETRAINED": "shapesworld",
        "MODEL.CLIP.BLOCKS": [1, 2, 3, 5],
        "MODEL.CLIP.DENSE": "value",
        "DATASETS.TRAIN": ("shapesworld_train_16",),
        "DATASETS.UNLABELED": ("shapesworld_train_16_unlabeled",),
        "DATASETS.TEST": ("shapesworld_val",),
        "INPUT.SHORT_SIDE": 0,
        "INPUT.CROP_SIZE": 64,
    }),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="names in configs/")
    parser.add_argument("--stand-in", choices=STAND_INS, default="camvid")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--period", type=int, default=15, help="iterations between two looks at the pseudo-labels")
    parser.add_argument("--output", type=Path, default=Path("output/first_iterations"))
    parser.add_argument("--results", type=Path, default=RESULTS / "first_iterations" / "camvid.json")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config values for all configs")
    args = parser.parse_args()
    register_all()
    alike: dict[str, list[str]] = {}
    for config in args.configs:
        alike.setdefault(str(stand_in(config, args)), []).append(config)
    rows = []
    for configs in alike.values():
        rows.append({"configs": configs, **first_iterations(stand_in(configs[0], args), args.iterations)})
        print(json.dumps(rows[-1]), flush=True)
        write_results(args.results, args.opts, stand_in=args.stand_in, iterations=args.iterations, rows=rows)


def stand_in(config: str, args: argparse.Namespace) -> CfgNode:
    """A config of the paper for other images on a CPU."""
    dataset, settings = STAND_INS[args.stand_in]
    cfg = load_config(f"configs/{config}.yaml", ["OUTPUT_DIR", str(args.output / config.partition("_")[0])])
    cfg.defrost()
    theirs = class_names_of(cfg.DATASETS.TEST[0])
    names = [definition.name for definition in dataset.classes]
    names += [name for name in theirs if name not in names]
    cfg.MODEL.CLASS_NAMES = names[: len(theirs)]
    cfg.merge_from_list([item for pair in {**ALIKE, **settings}.items() for item in pair])
    cfg.SEMI.HEALTH_PERIOD = args.period
    cfg.merge_from_list(args.opts)
    return prepare_config(cfg)


def first_iterations(cfg: CfgNode, iterations: int) -> dict[str, list[dict] | float]:
    """Train for so long. → what ``health.json`` says, of every period, and the teacher's mIoU in percent."""
    seed_all_rng(cfg.SEED)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = SemiSupervisedTrainer(cfg)
    trainer.max_iter = iterations
    looks = Looks(cfg)
    trainer.register_hooks([looks])
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer.test(cfg, trainer.evaluated_network)
    return {"looks": looks.found, "mIoU": round(results["sem_seg"]["mIoU"], 2)}


class Looks(HookBase):
    """Collects what the hook before it writes into ``health.json``."""

    def __init__(self, cfg: CfgNode):
        self.path, self.period = Path(cfg.OUTPUT_DIR) / "health.json", cfg.SEMI.HEALTH_PERIOD
        self.found: list[dict[str, float]] = []

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period:
            return
        health = json.loads(self.path.read_text())
        classes = health["classes"].values()
        self.found.append(
            {
                "iteration": health["iteration"],
                "kept_share": rounded(health["kept_share"], 4),
                "classes_kept": sum(each["kept_pixels"] > 0 for each in classes),
                "gradient_ratio": rounded(health["gradient_ratio"], 3),
                "problems": health["problems"],
            }
        )


def rounded(figure: float | None, digits: int) -> float | None:
    """None stays: there is no figure before the first pseudo-label."""
    return None if figure is None else round(figure, digits)


if __name__ == "__main__":
    main()
