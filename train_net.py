#!/usr/bin/env python3
"""Train or evaluate HierVL: ``train_net.py --config-file configs/quickstart.yaml [--eval-only] [KEY VALUE …]``.

``--with configs/baselines/unimatch.yaml`` lays a delta on the config: a baseline or an ablation on the same data.
"""

import sys

import hiervl  # noqa: F401  prepares older Detectron2 versions for today's packages

# isort: split
import torch
from detectron2.engine import default_argument_parser, default_setup, launch

from hiervl.errors import UserError
from hiervl.run_config import load_config, prepare_config
from hiervl.semi_supervised import SemiSupervisedTrainer
from hiervl.semi_supervised.comparison import train_both


def main(args) -> dict:
    cfg = load_config(args.config_file, args.opts, getattr(args, "deltas", ()))
    cfg = prepare_config(cfg, training=not args.eval_only)
    default_setup(cfg, args)
    if args.eval_only:
        return SemiSupervisedTrainer.evaluate_checkpoint(cfg)
    if cfg.SEMI.COMPARE_SUPERVISED and cfg.SEMI.ENABLED:
        return train_both(cfg, train, args.resume)
    return train(cfg, args.resume)


def train(cfg, resume: bool) -> dict:
    """Train one config; returns the results of the last evaluation."""
    trainer = SemiSupervisedTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def worker(args) -> None:
    """One process: a user's mistake ends it with a sentence instead of a traceback."""
    try:
        main(args)
    except UserError as error:
        sys.exit(f"error: {error}")


def run(args) -> None:
    """Train or evaluate as Detectron2's command-line arguments say, on one or several devices."""
    devices = torch.cuda.device_count()
    if args.num_gpus > max(1, devices):
        sys.exit(f"error: --num-gpus {args.num_gpus}, but this machine has {devices} CUDA devices.")
    launch(
        worker,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def argument_parser():
    """Detectron2's arguments, and ``--with``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--with", dest="deltas", action="append", default=[], metavar="FILE",
        help="a config file whose values replace those of --config-file, such as configs/baselines/unimatch.yaml; "
        "may be given several times",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    run(argument_parser().parse_args())
