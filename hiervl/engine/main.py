"""The command line of training and evaluation, which ``hiervl train`` and ``train_net.py`` call."""

import argparse
import contextlib
import errno
import functools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hiervl.config.files import find_config
from hiervl.config.keys import keys_of_user
from hiervl.engine.comparison import train_both
from hiervl.engine.earlier_run import refuse_earlier_run, remove_earlier_run
from hiervl.engine.failures import out_of_memory
from hiervl.engine.launch import launch
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.run_lock import RunLock
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_bytes, write_text
from hiervl.utils.freed_memory import keep_freed_memory

HELPS = {
    "opts": "config values, such as SOLVER.MAX_ITER 500; they win over all files",
    "resume": "continue from the newest intact checkpoint in OUTPUT_DIR, or start if there is none",
    "eval_only": "evaluate MODEL.WEIGHTS on DATASETS.TEST, without training",
    "num_gpus": "processes on this machine: GPUs, or with MODEL.DEVICE cpu any number",
}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, ``--with`` and ``--replay``."""
    parser = default_argument_parser(
        epilog="README.md and docs/data.md have examples, hiervl/config/defaults.py all keys."
    )
    actions = {action.dest: action for action in parser._actions}
    actions["opts"].metavar = "KEY VALUE"
    for name, text in HELPS.items():  # Detectron2's own text describes more than there is here
        actions[name].help = text
    parser.add_argument(
        "--with", dest="deltas", action="append", default=[], metavar="FILE",
        help="a config file whose values replace those of --config-file, such as configs/baselines/unimatch.yaml; "
        "may be given several times",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="remove a run in OUTPUT_DIR and train from the start")
    parser.add_argument("--replay", default="", metavar="FILE", help="repeat the step that left this broken_step_….pth")
    return parser


def is_short(record: logging.LogRecord) -> bool:
    """Log filter: drop the entries in which Detectron2's set-up repeats the config. They are hundreds of lines that are
    also in config.yaml."""
    return not record.getMessage().startswith(("Contents of args.config_file=", "Running with full config:"))


@contextlib.contextmanager
def kept_config(output_dir: str) -> Iterator[None]:
    """Keep the config.yaml of an earlier training: Detectron2's set-up would overwrite it in any case."""
    path = Path(output_dir) / "config.yaml"
    before = path.read_bytes() if comm.is_main_process() and path.is_file() else None
    yield
    if before is not None:
        write_bytes(path, before)


def main(args, trainer: type[SemiSupervisedTrainer] = SemiSupervisedTrainer) -> dict | None:
    """The work of one process.

    Args:
        trainer: the class that trains and evaluates.

    Raises:
        UserError: a mistake of the user, a full GPU or a full disk.
    """
    try:
        return work(args, trainer)
    except torch.cuda.OutOfMemoryError as error:
        raise out_of_memory() from error
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = f"'{error.filename}'" if error.filename else "OUTPUT_DIR"
        raise UserError(
            f"{place} cannot be written ({error.strerror}): free some space and repeat the command (a training with "
            "--resume)."
        ) from error


def work(args, trainer: type[SemiSupervisedTrainer] = SemiSupervisedTrainer) -> dict | None:
    """Train, evaluate or repeat a step, as the command line says."""
    if getattr(args, "replay", ""):
        print("\n".join(trainer.replay(args.replay, args.opts)))
        return None
    cfg = load_config(args.config_file, args.opts, getattr(args, "deltas", ()))
    cfg = prepare_config(cfg, training=not args.eval_only)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    with contextlib.nullcontext() if args.eval_only else RunLock(cfg.OUTPUT_DIR):
        overwrite = getattr(args, "overwrite", False)
        if not (args.eval_only or args.resume or overwrite):
            refuse_earlier_run(cfg.OUTPUT_DIR)
        logging.getLogger("detectron2").addFilter(is_short)
        with kept_config(cfg.OUTPUT_DIR):
            default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hiervl")
        logging.raiseExceptions = False  # on a full disk every log line would print a traceback
        if args.eval_only:
            return trainer.evaluate_checkpoint(cfg)
        if cfg.SEMI.COMPARE_SUPERVISED and cfg.SEMI.ENABLED:
            return train_both(cfg, functools.partial(train, trainer_class=trainer), args.resume)
        return train(cfg, args.resume, trainer)


def train(cfg, resume: bool, trainer_class: type[SemiSupervisedTrainer] = SemiSupervisedTrainer) -> dict | None:
    """Train one config; returns the results of the last evaluation, None if a signal stopped it before its end.

    Without ``resume`` it removes an earlier run from the folder, but only once everything else is known to work.
    """
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    if not resume and comm.is_main_process():  # a failure before this point leaves an earlier run unchanged
        remove_earlier_run(cfg.OUTPUT_DIR)
        write_text(Path(cfg.OUTPUT_DIR) / "config.yaml", cfg.dump())
    results = trainer.train()
    return None if trainer.was_stopped else results


def run(args, trainer: type[SemiSupervisedTrainer] = SemiSupervisedTrainer) -> None:
    """Train or evaluate as the command line and torchrun say. A mistake of the user ends it with one sentence.

    Args:
        trainer: the class that does it; scripts may give their own.
    """
    try:
        if getattr(args, "replay", ""):
            main(args, trainer)
            return
        if args.config_file:  # Detectron2's set-up opens it
            args.config_file = str(find_config(args.config_file))
        cfg = load_config(args.config_file, args.opts, getattr(args, "deltas", ()))
        chooses_cpu = cfg.SOLVER.PRESET == "cpu" and "MODEL.DEVICE" not in keys_of_user(cfg)
        launch(functools.partial(main, trainer=trainer), args, device="cpu" if chooses_cpu else cfg.MODEL.DEVICE)
    except UserError as error:
        sys.exit(f"error: {error}")
