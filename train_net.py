#!/usr/bin/env python3
"""Train or evaluate HierVL: ``train_net.py --config-file configs/quickstart.yaml [--eval-only] [KEY VALUE …]``."""

import sys

import hiervl  # noqa: F401  prepares older Detectron2 versions for today's packages

# isort: split
import torch
from detectron2.engine import default_argument_parser, default_setup, launch

from hiervl.errors import UserError
from hiervl.run_config import load_config, prepare_config
from hiervl.semi_supervised import SemiSupervisedTrainer


def main(args) -> dict:
    cfg = prepare_config(load_config(args.config_file, args.opts), training=not args.eval_only)
    default_setup(cfg, args)
    if args.eval_only:
        return SemiSupervisedTrainer.evaluate_checkpoint(cfg)
    trainer = SemiSupervisedTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
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


if __name__ == "__main__":
    run(default_argument_parser().parse_args())
