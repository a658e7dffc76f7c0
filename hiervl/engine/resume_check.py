"""Which settings may change when a training is resumed."""

import logging
from pathlib import PurePath
from typing import Any

import yaml

from hiervl.config.keys import is_below, leaves
from hiervl.config.older import with_older_meaning
from hiervl.config.safe_yaml import load_yaml
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

# The network, and the meaning of positions in the data streams.
FIXED = ("MODEL", "DATASETS.TRAIN", "DATASETS.UNLABELED", "SEMI.ENABLED", "SEMI.TEACHER", "SEMI.THRESHOLD")
# Device, names and output do not change what is learnt. TEST.EVAL_PERIOD does: every evaluation calibrates the
# relevance threshold, which training then uses.
FREE = (
    "MODEL.DEVICE", "MODEL.WEIGHTS", "OUTPUT_DIR", "DATALOADER", "TEST.NETWORK", "TEST.OVERLAP", "TEST.WINDOW_BATCH",
    "TEST.PICTURES", "VIS_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.HALVE_ON_OUT_OF_MEMORY", "LOGGERS",
    "MODEL.RECOMPUTE",
)  # fmt: skip


def check_resumed_config(saved: str, current: str, path: str) -> None:
    """Compare the config of a checkpoint with that of the resumed run, both as YAML.

    Changes of the learning rate and the like are allowed and logged: they change what is learnt.

    Raises:
        UserError: a key of :data:`FIXED` differs.
    """
    old = leaves(with_older_meaning(load_yaml(saved or "{}", f"the config in '{path}'")))
    new = leaves(yaml.safe_load(current or "{}"))
    # A key in only one of them belongs to another version of HierVL.
    changed = [key for key in old if key in new and not _same(old[key], new[key]) and not is_below(key, FREE)]
    for key in changed:
        if is_below(key, FIXED):
            raise UserError(
                f"'{path}' was written with {key} {_short(old[key])}, but the config has {_short(new[key])}: resume "
                "with the config.yaml that lies beside it, or start anew with it as MODEL.WEIGHTS."
            )
    if changed:
        logger.warning("Resuming with other settings than before: %s.", ", ".join(changed))


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, str) and isinstance(new, str) and ("/" in old or "/" in new):
        return PurePath(old).name == PurePath(new).name  # files may move
    return old == new


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
