"""Build a network for prediction from a checkpoint alone: config, classes and CLIP's weights come from the file."""

import json
import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from detectron2.config import CfgNode

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.config.older import with_older_meaning
from hiervl.config.retired import without_retired
from hiervl.config.safe_yaml import load_yaml
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.classes.records import from_records
from hiervl.data.registered.catalogs import definitions_of
from hiervl.modeling import HierVL, build_network
from hiervl.modeling.clip import FROM_CHECKPOINT
from hiervl.utils.checkpoint_file import checkpoints_by_age, load_weights, read_checkpoint
from hiervl.utils.errors import UserError

# Names of checkpoints in a run's folder, in this order; the other way round where the best was chosen by chance.
CHECKPOINT_NAMES = ("model_best.pth", "model_final.pth")
FEW_IMAGES = 10  # the best of several evaluations on fewer images is chance
FOREIGN_PARTS = ("hf_", "timm_model_pretrained")  # open_clip's keys that make other libraries download by name
HUB_TOKENIZER = "hf_tokenizer_name"
TIMM_MODEL = "timm_model_name"  # only its architecture, without weights
LOCAL_NAME = re.compile(r"[\w.]+")  # "hf-hub:…" and the like would be downloaded


class Restored(NamedTuple):
    """A trained network with its config and classes."""

    network: HierVL  # in evaluation mode
    cfg: CfgNode
    classes: list[ClassDefinition]
    path: Path  # the checkpoint's config


def find_checkpoint(run_or_file: str) -> Path:
    """The checkpoint file: ``run_or_file`` itself, or the best, final or last checkpoint in a run's folder. The final
    one goes first if the run was evaluated on fewer than ``FEW_IMAGES`` images.

    Raises:
        UserError: there is none.
    """
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"there is neither a checkpoint nor a run's folder at '{run_or_file}'.")
    by_chance = _evaluated_images(path) < FEW_IMAGES
    candidates = [path / name for name in (CHECKPOINT_NAMES[::-1] if by_chance else CHECKPOINT_NAMES)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        found = next(iter(checkpoints_by_age(run_or_file)), None)
    if found is None:
        raise UserError(f"the folder '{run_or_file}' holds no checkpoint ({', '.join(CHECKPOINT_NAMES)}).")
    return found


def _evaluated_images(folder: Path) -> float:
    """The smallest number of images that an evaluation during training was on; infinite if unknown."""
    try:  # not results.json, which a later --eval-only on other images replaces
        metrics = (folder / "metrics.json").read_text()
    except (OSError, UnicodeError):
        return math.inf
    return min(map(float, re.findall(r'sem_seg/images": ([0-9.]+)', metrics)), default=math.inf)


def restore_network(run_or_file: str, network: str = "", device: str = "") -> Restored:
    """Build the network of a checkpoint and load its weights.

    Args:
        run_or_file: a checkpoint, or the folder of a run.
        network: "teacher" or "student"; "": TEST.NETWORK of the run.
        device: such as "cpu" or "cuda:1"; "": a CUDA device where there is one.

    Raises:
        UserError: there is no checkpoint, or it is damaged or of another kind.
    """
    path = find_checkpoint(run_or_file)
    checkpoint = read_checkpoint(str(path))
    cfg = config_of(checkpoint, path)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(cfg.MODEL.DEVICE)
    classes = classes_of_checkpoint(checkpoint, cfg)
    cfg.MODEL.CLASS_NAMES = [definition.name for definition in classes]
    if cfg.MODEL.ENCODER.NAME:
        cfg.MODEL.ENCODER.PRETRAINED = FROM_CHECKPOINT
    else:
        cfg.MODEL.CLIP.PRETRAINED = FROM_CHECKPOINT
    with tempfile.TemporaryDirectory() as folder:
        if "clip_config" in checkpoint and not Path(cfg.MODEL.CLIP.NAME).is_file():
            clip_file = Path(folder) / f"{Path(cfg.MODEL.CLIP.NAME).stem}.json"
            clip_file.write_text(clip_config_of(checkpoint, path, cfg.MODEL.CLIP.TOKENIZER), encoding="utf-8")
            cfg.MODEL.CLIP.NAME = str(clip_file)
        model = build_network(cfg).eval()
    load_weights(model, checkpoint, str(path), network or cfg.TEST.NETWORK)
    describe_classes(model, classes)
    return Restored(model, cfg, classes, path)


def config_of(checkpoint: dict[str, Any], path: Path) -> CfgNode:
    """The config in a checkpoint, not frozen."""
    if "config" not in checkpoint:
        raise UserError(f"'{path}' carries no config, so its network cannot be rebuilt; train again with this version.")
    cfg = get_hiervl_cfg()
    saved = load_yaml(checkpoint["config"], f"the config in '{path}'")
    settings = with_older_meaning(without_retired(saved, str(path), saved=True))
    try:
        cfg.merge_from_other_cfg(CfgNode(settings))
    except (KeyError, ValueError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(
            f"'{path}' was written by another version of HierVL ({' '.join(str(error).split())}): use that version."
        ) from error
    return cfg


def clip_config_of(checkpoint: dict[str, Any], path: Path, tokenizer: str = "") -> str:
    """The open_clip model config in a checkpoint.

    Args:
        tokenizer: folder of the tokenizer. It is read from there, so nothing is downloaded that the config names.

    Raises:
        UserError: it is damaged, or names parts of other libraries, which would download them.
    """
    try:
        config = json.loads(checkpoint["clip_config"])
        keys = [key for side in ("vision_cfg", "text_cfg") for key in config[side].keys()]
        trunk = config["vision_cfg"].get(TIMM_MODEL, "")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"the config of CLIP in '{path}' is damaged.") from None
    foreign = [key for key in keys if key.startswith(FOREIGN_PARTS) and not (tokenizer and key == HUB_TOKENIZER)]
    if foreign:
        raise UserError(f"the CLIP in '{path}' is not one of open_clip's own parts ({foreign[0]}): it is not loaded.")
    if trunk and not (isinstance(trunk, str) and LOCAL_NAME.fullmatch(trunk) and timm.is_model(trunk)):
        raise UserError(f"the CLIP in '{path}' has an image encoder that timm does not know ({trunk!r}).")
    return checkpoint["clip_config"]


def classes_of_checkpoint(checkpoint: dict[str, Any], cfg: CfgNode) -> list[ClassDefinition]:
    """Names, phrases and colours of the classes of the training."""
    if "classes" in checkpoint:
        try:
            return from_records(checkpoint["classes"])
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint's classes are damaged ({type(error).__name__}: {error}).") from None
    dataset = next(iter(cfg.DATASETS.TRAIN), None)  # an older checkpoint: its dataset may be registered here
    return definitions_of(checkpoint["class_names"], dataset, cfg.MODEL.HSQG.ALWAYS_ACTIVE)


def describe_classes(network: HierVL, classes: Sequence[ClassDefinition]) -> None:
    """Let ``network`` predict ``classes``, which may be others than those of the training."""
    network.set_classes(
        [definition.name for definition in classes],
        [definition.phrases for definition in classes],
        [index for index, definition in enumerate(classes) if definition.background],
    )


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the device '{device}' cannot be used here ({reason}).") from None
