#!/usr/bin/env python3
"""Train or evaluate HierVL: ``train_net.py --config-file configs/quickstart.yaml [--eval-only] [KEY VALUE …]``."""

import sys

import hiervl  # noqa: F401  prepares older Detectron2 versions for today's packages

# isort: split
from detectron2.engine import default_argument_parser, default_setup, launch

from hiervl.errors import UserError
from hiervl.run_config import load_config, prepare_config
from hiervl.semi_supervised import SemiSupervisedTrainer


def main(args) -> dict:
    cfg = prepare_config(load_config(args.config_file, args.opts))
    default_setup(cfg, args)
    if args.eval_only:
        return SemiSupervisedTrainer.evaluate_checkpoint(cfg)
    trainer = SemiSupervisedTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    try:
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
