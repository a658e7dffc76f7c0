"""Checks of config values. Each value that cannot work gives a sentence that names its key."""

import importlib.util
from collections.abc import Callable
from typing import Any

from hiervl.config.keys import get_value
from hiervl.utils.errors import UserError
from hiervl.utils.recompute import RECOMPUTABLE

Rule = tuple[Callable[[Any], bool], str]

AT_LEAST_0: Rule = (lambda value: value >= 0, "at least 0")
AT_LEAST_1: Rule = (lambda value: value >= 1, "at least 1")
POSITIVE: Rule = (lambda value: value > 0, "greater than 0")
SHARE: Rule = (lambda value: 0 <= value <= 1, "from 0 to 1")
BELOW_1: Rule = (lambda value: 0 <= value < 1, "at least 0 and less than 1")
MAPS: Rule = (lambda value: 0 <= value <= 4, "0 to 4")
RANGE: Rule = (lambda value: len(value) == 2 and 0 < value[0] <= value[1], "two numbers (lowest, highest) above 0")
JITTER: Rule = (
    lambda value: len(value) == 4 and min(value) >= 0 and value[3] <= 0.5,
    "four strengths from 0 on (brightness, contrast, saturation, hue), the last at most 0.5",
)


def _takes_a_name(template: str) -> bool:
    try:
        return template.format("a name") != template
    except (LookupError, ValueError, AttributeError):
        return False


PROMPT: Rule = (_takes_a_name, "a sentence with one {} where the class's name goes, and no other braces")

LOSS_WEIGHTS = (
    "CLASS", "MASK", "DICE", "PIXEL", "ALIGN", "RELEVANCE", "PROMPT_TOPOLOGY", "PROMPT_ANCHOR", "PROMPT_SEPARATION",
    "ENTROPY", "MASKED_CONSISTENCY", "PIXEL_TEXT", "NO_OBJECT", "JOINT_EMBEDDING",
)  # fmt: skip

RULES: dict[str, Rule] = {
    "MODEL.CLIP.VISUAL_PROMPTS": AT_LEAST_0,
    "MODEL.CLIP.FROZEN_STAGES": AT_LEAST_0,
    "MODEL.CLIP.DETAIL_MAPS": MAPS,
    "MODEL.TEXT.PROMPTS": AT_LEAST_0,
    "MODEL.TEXT.TEMPLATE": PROMPT,
    "MODEL.HSQG.LEVELS": AT_LEAST_1,
    "MODEL.HSQG.HARD_NEGATIVES": AT_LEAST_0,
    "MODEL.HSQG.MIN_ACTIVE": AT_LEAST_0,
    "MODEL.HSQG.THRESHOLD": SHARE,
    "MODEL.HSQG.CALIBRATED_RECALL": SHARE,
    "MODEL.PIXEL_DECODER.LAYERS": AT_LEAST_1,
    "MODEL.PIXEL_DECODER.HEADS": AT_LEAST_1,
    "MODEL.PIXEL_DECODER.POINTS": AT_LEAST_1,
    "MODEL.QUERY_DECODER.LAYERS": AT_LEAST_0,
    "MODEL.QUERY_DECODER.HEADS": AT_LEAST_1,
    "MODEL.QUERY_DECODER.INSTANCE_QUERIES": AT_LEAST_0,
    "MODEL.QUERY_DECODER.PRIOR_MIN_IOU": SHARE,
    "MODEL.QUERY_DECODER.TEMPERATURE": POSITIVE,
    **{f"LOSS.{name}": AT_LEAST_0 for name in LOSS_WEIGHTS},
    "LOSS.NUM_POINTS": AT_LEAST_1,
    "LOSS.OVERSAMPLE_RATIO": AT_LEAST_1,
    "LOSS.IMPORTANCE_SAMPLE_RATIO": SHARE,
    "LOSS.PIXEL_BALANCE": AT_LEAST_0,
    "LOSS.PIXEL_TEXT_TEMPERATURE": POSITIVE,
    "SEMI.EMA_DECAY": SHARE,
    "SEMI.BURN_IN": AT_LEAST_0,
    "SEMI.CONFIDENCE": SHARE,
    "SEMI.STRONG_WEIGHT": AT_LEAST_0,
    "SEMI.PERTURBATION_WEIGHT": AT_LEAST_0,
    "SEMI.GUIDANCE_WEIGHT": AT_LEAST_0,
    "SEMI.GUIDANCE_LAST_WEIGHT": AT_LEAST_0,
    "SEMI.PERTURBATION_DROPOUT": BELOW_1,
    "SEMI.GUIDANCE_CONFIDENCE": SHARE,
    "SEMI.GUIDANCE_MIN_IOU": SHARE,
    "SEMI.SUPERVISED_SHARE": SHARE,
    "SEMI.CLASS_MIX": SHARE,
    "SEMI.COLOR_TRANSFER": SHARE,
    "SEMI.CUTMIX_PROBABILITY": SHARE,
    "INPUT.CROP_SIZE": AT_LEAST_1,
    "INPUT.SHORT_SIDE": AT_LEAST_0,
    "INPUT.SCALE": RANGE,
    "INPUT.FLIP_PROBABILITY": SHARE,
    "INPUT.STRONG.JITTER_PROBABILITY": SHARE,
    "INPUT.STRONG.JITTER": JITTER,
    "INPUT.STRONG.GRAYSCALE_PROBABILITY": SHARE,
    "INPUT.STRONG.BLUR_PROBABILITY": SHARE,
    "INPUT.STRONG.BLUR_SIGMA": RANGE,
    "DATALOADER.NUM_WORKERS": AT_LEAST_0,
    "DATALOADER.MAX_DAMAGED": SHARE,
    "DATALOADER.TIMEOUT": AT_LEAST_0,
    "SOLVER.UNLABELED_PER_BATCH": AT_LEAST_0,
    "SOLVER.ACCUMULATION": AT_LEAST_1,
    "SOLVER.MAX_ITER": AT_LEAST_1,
    "SOLVER.EPOCHS": AT_LEAST_0,
    "SOLVER.BASE_LR": AT_LEAST_0,
    "SOLVER.BACKBONE_MULTIPLIER": AT_LEAST_0,
    "SOLVER.WEIGHT_DECAY": AT_LEAST_0,
    "SOLVER.WEIGHT_DECAY_NORM": AT_LEAST_0,
    "SOLVER.POLY_POWER": AT_LEAST_0,
    "SOLVER.MAX_SKIPPED_STEPS": AT_LEAST_0,
    "TEST.OVERLAP": BELOW_1,
    "TEST.WINDOW_BATCH": AT_LEAST_1,
    "TEST.PICTURES": AT_LEAST_0,
}
# Keys that take one of a few names, and keys whose mistakes would show only after training has begun.
CHOICES = {
    "TEST.NETWORK": ("teacher", "student"),
    "SEMI.THRESHOLD": ("fixed", "class", "adaptive"),
    "SEMI.LOSS": ("pixel", "set"),
}
# Lists and the names that they may contain.
LISTS = {"LOGGERS": ("csv", "wandb"), "MODEL.RECOMPUTE": RECOMPUTABLE}
# Widths that are divided between attention heads.
HEADS = ("MODEL.PIXEL_DECODER.HEADS", "MODEL.QUERY_DECODER.HEADS")


def check_config(cfg) -> None:
    """Raise a :class:`UserError` for the first value that cannot work."""
    for key, (is_fine, wanted) in RULES.items():
        value = get_value(cfg, key)
        if not is_fine(value):
            raise UserError(f"{key} is {value}, but must be {wanted}.")
    width = cfg.MODEL.PIXEL_DECODER.DIM
    if width < 4 or width % 4:
        raise UserError(f"MODEL.PIXEL_DECODER.DIM is {width}, but must be a multiple of 4.")
    for key in HEADS:
        if width % get_value(cfg, key):
            raise UserError(f"MODEL.PIXEL_DECODER.DIM ({width}) must be a multiple of {key} ({get_value(cfg, key)}).")
    if cfg.INPUT.FORMAT != "RGB":
        raise UserError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT}, but CLIP was trained on RGB: leave the key out.")
    for key, names in LISTS.items():
        unknown = [name for name in get_value(cfg, key) if name not in names]
        if unknown:
            raise UserError(f"{key}: '{unknown[0]}' is not one of {', '.join(names)}.")
    if "wandb" in cfg.LOGGERS and importlib.util.find_spec("wandb") is None:
        raise UserError("LOGGERS has 'wandb', which is not installed: `pip install wandb`, or leave it out.")
    for key, choices in CHOICES.items():
        value = get_value(cfg, key)
        if value not in choices:
            raise UserError(f"{key} is {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, not '{value}'.")


def check_training(cfg) -> None:
    """Raise a :class:`UserError` if the values do not fit together for a training."""
    if cfg.SEMI.ADAPT_WEIGHT and not (cfg.SEMI.HEALTH_PERIOD > 0 and cfg.DATASETS.TEST):
        raise UserError(
            "SEMI.ADAPT_WEIGHT looks at pseudo-labels of validation images: set SEMI.HEALTH_PERIOD to a number of "
            "iterations, and DATASETS.TEST (or DATASET.VAL)."
        )
