"""``python -m hiervl split CONFIG --labels 50``: draw labelled images so that every class occurs."""

import argparse
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog

from hiervl.data.folders.files import write_list
from hiervl.data.folders.stratified import stratified_order
from hiervl.data.registered.datasets import UNLABELED_SUFFIX
from hiervl.engine.run_config import load_config, require_own_dataset
from hiervl.utils.errors import UserError

HELP = "draw labelled subsets of growing sizes and write them as list files"


def add_arguments(parser) -> None:
    parser.add_argument("config", help="YAML with a section DATASET, as configs/custom.yaml")
    parser.add_argument("--labels", type=_counts, required=True, help="how many: 50, or several: 10,25,50")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--output", default="", help="folder of the lists (lists below DATASET.ROOT)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config values")


def run(args) -> int:
    """Write ``labels_N.txt`` for every count. A smaller list is part of a larger one."""
    cfg = load_config(args.config, args.opts)
    if cfg.DATASETS.TRAIN and not cfg.DATASET.NAME:
        raise UserError(_why_not(cfg.DATASETS.TRAIN[0]))
    layout = require_own_dataset(cfg)
    parts = layout.division
    pool = dict(sorted({**parts["train"], **parts["rest"]}.items()))
    if args.labels[-1] > len(pool):
        raise UserError(
            f"--labels {args.labels[-1]}: only {len(pool)} images with masks are left for training, "
            f"{len(parts['val'])} being for validation and {len(parts['test'])} for test; ask for {len(pool)} at most."
        )
    names = list(pool)
    presence = layout.presence(list(pool.values()))
    order = stratified_order(presence, args.seed)
    folder = Path(args.output) if args.output else layout.source.root / "lists"
    for count in args.labels:
        path = folder / f"labels_{count}.txt"
        try:
            digest = write_list(path, sorted(names[index] for index in order[:count]))
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): name a folder by --output.") from None
        print(f"{path}  sha256 {digest[:16]}…  {_coverage(presence[order[:count]], layout.class_map.class_names)}")
    value = path.absolute() if args.output else path.relative_to(layout.source.root)
    print("\nTo train with it, write LIST beside IMAGES and MASKS of DATASET.LABELED, or after any command:")
    print(f"  DATASET.LABELED.LIST {value}")
    return 0


def _why_not(dataset: str) -> str:
    """Why a registered dataset is not divided, and what to use instead."""
    start = dataset.partition("_train")[0] + "_train_"
    known = DatasetCatalog.list()
    subsets = [name for name in known if name.startswith(start) and name + UNLABELED_SUFFIX in known]
    if not subsets:
        return (
            f"'{dataset}' is registered by a program, and split divides only what a section DATASET names: register "
            "subsets there, or describe the folders in a copy of configs/custom.yaml."
        )
    subsets.sort(key=lambda name: (len(name), name))
    return (
        f"'{dataset}' comes with labelled subsets, so there is nothing to draw: set DATASETS.TRAIN to one of "
        f"{', '.join(subsets)}, and DATASETS.UNLABELED to the same name with {UNLABELED_SUFFIX}."
    )


def _coverage(presence: np.ndarray, names: list[str]) -> str:
    """The class with the fewest images."""
    images = presence.sum(axis=0)
    absent = [name for name, count in zip(names, images) if not count]
    if absent:
        return f"without {', '.join(absent)}"
    rarest = int(np.argmin(images))
    return f"all {len(names)} classes; fewest images: {names[rarest]} ({images[rarest]})"


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise argparse.ArgumentTypeError(f"numbers from 1 on are expected, not '{text}'")
    return counts
