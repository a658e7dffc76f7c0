"""Errors for keys that nothing reads, such as most of Detectron2's keys for detectors."""

import fnmatch
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.config.keys import get_value
from hiervl.config.keys_read import as_read, keys_read
from hiervl.utils.errors import UserError

OWN_SCHEDULE = "WarmupPolyLR"
DETECTRON2_SCHEDULES = "detectron2.solver.build_lr_scheduler"
SCHEDULE_HINT = f"SOLVER.LR_SCHEDULER_NAME is {OWN_SCHEDULE}, whose shape is SOLVER.POLY_POWER"

# For keys of Detectron2: the key with the same effect, or why there is none. Whether a key is read is found elsewhere.
HINTS = {
    "INPUT.RANDOM_FLIP": "use INPUT.FLIP_PROBABILITY",
    "INPUT.CROP.*": "use INPUT.CROP_SIZE",
    "INPUT.M??_SIZE_*": "use INPUT.SHORT_SIDE and INPUT.SCALE",
    "INPUT.MASK_FORMAT": "use DATASET.MASK_VALUES",
    "DATALOADER.ASPECT_RATIO_GROUPING": "all crops have the size INPUT.CROP_SIZE",
    "DATALOADER.SAMPLER_TRAIN": "images are drawn evenly",
    "DATALOADER.REPEAT_THRESHOLD": "images are drawn evenly; LOSS.PIXEL_BALANCE weighs rare classes",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "images without labels belong to DATASETS.UNLABELED",
    "SOLVER.MOMENTUM": "the optimizer is AdamW",
    "SOLVER.NESTEROV": "the optimizer is AdamW",
    "SOLVER.BIAS_LR_FACTOR": "only the image encoder has a rate of its own, SOLVER.BACKBONE_MULTIPLIER",
    "SOLVER.WEIGHT_DECAY_BIAS": "use SOLVER.WEIGHT_DECAY_NORM, which holds for biases too",
    "SOLVER.REFERENCE_WORLD_SIZE": "SOLVER.IMS_PER_BATCH counts the images of all processes",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "the norm is Euclidean",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "the classes come with the dataset or from MODEL.CLASS_NAMES",
    "MODEL.BACKBONE.FREEZE_AT": "use MODEL.CLIP.FROZEN_STAGES and MODEL.CLIP.TRAINABLE",
    "MODEL.RESNETS.*": "use MODEL.CLIP.NAME",
    "MODEL.FPN.*": "use MODEL.PIXEL_DECODER.DIM and its neighbors",
    "TEST.AUG.*": "use --scales and --flip of the command predict",
    "TEST.PRECISE_BN.*": "batch norms of an encoder keep the statistics of its pretraining",
    "VIS_PERIOD": "use SEMI.PICTURES_PERIOD",
}


def refuse_unread_keys(cfg: CfgNode, written: Iterable[tuple[str, str]]) -> None:
    """Raise if nothing reads a key that the user wrote. Keys with their default value are allowed.

    Args:
        cfg: the config with everything that the user wrote.
        written: where and what: a file or "the command line", and a dotted key of ``cfg``.

    Raises:
        UserError: names all these keys and, if there is one, the key with the same effect.
    """
    own_schedule = cfg.SOLVER.LR_SCHEDULER_NAME == OWN_SCHEDULE
    read = keys_read(unused=[DETECTRON2_SCHEDULES] if own_schedule else [])
    defaults = get_hiervl_cfg()
    unread: dict[str, list[str]] = {}
    for source, key in written:
        if as_read(key) in read or _as_list(get_value(cfg, key, None)) == _as_list(get_value(defaults, key, None)):
            continue
        hint = _hint(key) or (SCHEDULE_HINT if as_read(key) in keys_read() else "")
        text = f"{key} ({hint})" if hint else key
        if text not in unread.setdefault(source, []):
            unread[source].append(text)
    if unread:
        parts = [f"{source}: nothing reads {', '.join(keys)}" for source, keys in unread.items()]
        raise UserError(f"{'; '.join(parts)}; leave out what has no effect.")


def _hint(key: str) -> str:
    return next((hint for pattern, hint in HINTS.items() if fnmatch.fnmatchcase(key, pattern)), "")


def _as_list(value: Any) -> Any:
    """A tuple inside a tuple becomes a list in a file."""
    return [_as_list(item) for item in value] if isinstance(value, (list, tuple)) else value
