"""What may change when a training goes on, and what may not."""

import logging
from pathlib import PurePath
from typing import Any

import yaml

from hiervl.config.keys import is_below, leaves
from hiervl.config.older import with_older_meaning
from hiervl.config.safe_yaml import load_yaml
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

# The network, and what the positions in the data streams stand for.
FIXED = ("MODEL", "DATASETS.TRAIN", "DATASETS.UNLABELED", "SEMI.ENABLED", "SEMI.TEACHER", "SEMI.THRESHOLD")
# Where it runs, what it is called and what it says change nothing of what is learnt. TEST.EVAL_PERIOD does: with every
# evaluation the relevance threshold is calibrated, which training goes on with.
FREE = (
    "MODEL.DEVICE", "MODEL.WEIGHTS", "OUTPUT_DIR", "DATALOADER", "TEST.NETWORK", "TEST.OVERLAP", "TEST.WINDOW_BATCH",
    "TEST.PICTURES", "VIS_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.HALVE_ON_OUT_OF_MEMORY", "LOGGERS",
    "MODEL.RECOMPUTE",
)  # fmt: skip


def check_resumed_config(saved: str, current: str, path: str) -> None:
    """Compare the config of a checkpoint with that of the run that goes on from it, both as YAML.

    Changes of the learning rate and its like are allowed and logged: the run is then another one than without.

    Raises:
        UserError: a key of :data:`FIXED` differs.
    """
    old = leaves(with_older_meaning(load_yaml(saved or "{}", f"the config in '{path}'")))
    new = leaves(yaml.safe_load(current or "{}"))
    # A key that only one of them knows belongs to another version of HierVL.
    changed = [key for key in old if key in new and not _same(old[key], new[key]) and not is_below(key, FREE)]
    for key in changed:
        if is_below(key, FIXED):
            raise UserError(
                f"'{path}' was written with {key} {_short(old[key])}, but the config has {_short(new[key])}: resume "
                "with the config.yaml that lies beside it, or start anew with it as MODEL.WEIGHTS."
            )
    if changed:
        logger.warning("Going on with other settings than before: %s.", ", ".join(changed))


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, str) and isinstance(new, str) and ("/" in old or "/" in new):
        return PurePath(old).name == PurePath(new).name  # files may move
    return old == new


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
