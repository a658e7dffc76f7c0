"""``python -m hiervl predict``: masks, pictures and numbers for images and videos, from a checkpoint alone."""

import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hiervl.data.classes.definitions import read_classes
from hiervl.data.folders.kinds import describe_unused
from hiervl.data.loading.bands import Bands
from hiervl.inference.batch import BatchPredictor
from hiervl.inference.inputs import Item, left_out, list_items
from hiervl.inference.predictor import HierVLPredictor
from hiervl.inference.ranks import Ranks, torchrun_ranks
from hiervl.inference.restore import find_checkpoint
from hiervl.inference.results import KINDS, ResultFolder
from hiervl.utils.files import write_text

HELP = "predict images and videos with a trained network"

SOME_FAILED = 1
FAILED_FILE = "failed.txt"


def add_arguments(parser) -> None:
    parser.add_argument("--weights", required=True, metavar="RUN_OR_FILE", help="a checkpoint, or the folder of a run")
    parser.add_argument("--input", required=True, nargs="+", help="files, folders, patterns such as 'a/**/*.jpg'")
    parser.add_argument("--output", required=True, help="folder of the results")
    parser.add_argument("--save", nargs="+", choices=KINDS, default=["mask", "overlay"], help="what is written")
    parser.add_argument("--classes", help="class file of other classes than those of the training")
    parser.add_argument("--things", nargs="+", metavar="NAME", help="classes of separate objects (all but background)")
    parser.add_argument("--min-score", type=float, default=0.5, help="least score of an instance, 0 to 1")
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0], help="sizes that are averaged")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument("--overlap", type=float, help="share by which windows overlap (that of the run)")
    parser.add_argument("--window-batch", type=int, help="windows through the network at once (that of the run)")
    parser.add_argument("--network", choices=("teacher", "student"), default="", help="which of the two (as evaluated)")
    parser.add_argument("--bands", nargs=3, type=int, metavar="N", help="of TIFFs: red, green and blue (the run's)")
    parser.add_argument("--band-range", nargs=2, type=float, metavar="V", help="values that are black and white")
    parser.add_argument("--device", default="", help="such as cpu or cuda:1 (a CUDA device where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="predict files again that are already done")


def run(args) -> int:
    """Predict this process's share. 0: everything was predicted; 1: some files could not be predicted."""
    with torchrun_ranks() as ranks:
        predictor = _predictor(args, ranks)
        results = ResultFolder(args.output, predictor.classes, args.save, predictor.things)
        items = ranks.decide(lambda: _prepare(args, predictor, results))
        batch = BatchPredictor(predictor, results)
        failed = _predict(batch, ranks, ranks.share(items))
        failed = [failure for rank_failures in ranks.gather(failed) for failure in rank_failures]
        if ranks.rank == 0:
            results.write_coco(list(batch.names(items)))
            results.write_drafts(list(batch.names(items)))
            _report(args, results, len(items), failed)
        ranks.gather(None)  # all processes wait until the last file is written
    return SOME_FAILED if failed else 0


def _predictor(args, ranks: Ranks) -> HierVLPredictor:
    device = args.device
    if not device and torch.cuda.is_available():
        device = f"cuda:{ranks.local_rank % torch.cuda.device_count()}"
    bands = Bands.checked(args.bands or (), args.band_range or (), ("--bands", "--band-range"))
    options: dict[str, Any] = {"overlap": args.overlap, "window_batch": args.window_batch, "bands": bands}
    return HierVLPredictor.from_checkpoint(
        args.weights,
        classes=read_classes(args.classes) if args.classes else None,
        device=device,
        network=args.network,
        scales=args.scales,
        flip=args.flip,
        things=args.things,
        min_score=args.min_score,
        **{key: value for key, value in options.items() if value is not None},
    )


def _prepare(args, predictor: HierVLPredictor, results: ResultFolder) -> list[Item]:
    """List the inputs and create the output folder. One process does it for all."""
    items = list_items(args.input, args.output)
    others = describe_unused(left_out(args.input, args.output))
    if others:
        print(f"Left out: {others}.", file=sys.stderr)
    weights = find_checkpoint(args.weights)
    settings = {
        "weights": str(weights.absolute()),
        "weights written": weights.stat().st_mtime_ns,
        "network": args.network,
        "things": [predictor.classes[index].name for index in predictor.things],
        "min-score": predictor.min_score,
        "scales": list(predictor.scales),
        "flip": predictor.flip,
        "overlap": predictor.overlap,
        "bands": None if predictor.bands is None else [predictor.bands.numbers, predictor.bands.value_range],
    }
    results.prepare(settings, args.overwrite)
    return items


def _predict(batch: BatchPredictor, ranks: Ranks, items: list[Item]) -> list[tuple[str, str]]:
    """Predict the items that are not done. Returns failed files with the reason."""
    todo = [item for item in items if not batch.results.is_done(item.name)]
    failed = []
    is_quiet = ranks.rank != 0
    with tqdm(
        total=len(items), initial=len(items) - len(todo), unit="file", disable=is_quiet, smoothing=0.1
    ) as progress:
        for item, problem in batch.run(todo):
            if problem is not None:
                failed.append((item.path, problem))
                tqdm.write(f"failed: {problem}", file=sys.stderr)
            progress.update()
    return failed


def _report(args, results: ResultFolder, count: int, failed: list[tuple[str, str]]) -> None:
    path = Path(args.output) / FAILED_FILE
    if failed:
        write_text(path, "".join(f"{file}\t{problem}\n" for file, problem in failed))
    else:
        path.unlink(missing_ok=True)
    print(f"{count - len(failed)} of {count} files are predicted in {args.output} ({', '.join(results.kinds)}).")
    if failed:
        print(f"{len(failed)} could not be predicted; {path} says why.")
