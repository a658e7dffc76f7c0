#!/usr/bin/env python3
"""Train or evaluate HierVL: ``train_net.py --config-file configs/quickstart.yaml [--eval-only] [KEY VALUE …]``.

``--with configs/baselines/unimatch.yaml`` lays a delta on the config: a baseline or an ablation on the same data.
"""

import argparse
import sys

import hiervl  # noqa: F401  prepares older Detectron2 versions for today's packages

# isort: split
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hiervl.errors import UserError
from hiervl.launch import launch
from hiervl.run_config import load_config, prepare_config
from hiervl.semi_supervised import SemiSupervisedTrainer
from hiervl.semi_supervised.comparison import train_both


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, ``--with`` and ``--replay``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--with", dest="deltas", action="append", default=[], metavar="FILE",
        help="a config file whose values replace those of --config-file, such as configs/baselines/unimatch.yaml; "
        "may be given several times",
    )  # fmt: skip
    parser.add_argument("--replay", default="", metavar="FILE", help="repeat the step that left this broken_step_….pth")
    return parser


def main(args) -> dict:
    """The work of one process."""
    cfg = load_config(args.config_file, args.opts, getattr(args, "deltas", ()))
    cfg = prepare_config(cfg, training=not args.eval_only)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hiervl")
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


def run(args) -> None:
    """Train or evaluate as the command line and torchrun say; a user's mistake ends it with a sentence."""
    try:
        if getattr(args, "replay", ""):
            print("\n".join(SemiSupervisedTrainer.replay(args.replay, args.opts)))
            return
        cfg = load_config(args.config_file, args.opts, getattr(args, "deltas", ()))
        launch(main, args, device=cfg.MODEL.DEVICE)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run(argument_parser().parse_args())
