"""From a config file and the command line to a complete configuration."""

import contextlib
import difflib
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from hiervl.config.check import check_config, check_training
from hiervl.config.defaults import get_hiervl_cfg
from hiervl.config.files import find_config, folders_of_part, read_layers, written_keys
from hiervl.config.keys import get_value, nodes, note_keys_of_user, set_value
from hiervl.config.older import with_older_meaning
from hiervl.config.retired import check_not_retired, without_retired
from hiervl.config.safe_yaml import load_yaml
from hiervl.config.unread import refuse_unread_keys
from hiervl.data.checking.check import refuse_errors
from hiervl.data.checking.registered_layout import RegisteredLayout
from hiervl.data.checking.unreadable import refuse_unreadable
from hiervl.data.folders.dataset import register_from_config, settle_parts
from hiervl.data.folders.layout import FolderLayout
from hiervl.data.loading.loaders import iterations_per_epoch
from hiervl.data.registered.datasets import check_registered
from hiervl.engine.presets import apply_preset
from hiervl.modeling.clip import name_of_weights
from hiervl.modeling.encoders import check_clip
from hiervl.modeling.image_statistics import image_statistics
from hiervl.modeling.vision_encoder import check_vision_encoder
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

# For messages about keys of DATASETS that name a folder.
FOLDERS_ELSEWHERE = {
    "DATASETS.TRAIN": "; folders of your own belong in DATASET.LABELED",
    "DATASETS.UNLABELED": "; folders of your own belong in DATASET.UNLABELED",
    "DATASETS.TEST": "; folders of your own belong in DATASET.VAL or DATASET.TEST",
}
SEVERAL_FORMS = {"DATASET.UNLABELED", "DATASET.VAL", "DATASET.TEST"}  # a number, a path, a list, or two folders


def load_config(config_file: str = "", overrides: Sequence[str] = (), deltas: Sequence[str] = ()) -> CfgNode:
    """HierVL's defaults, then the file (and its ``_BASE_``), then each delta, then ``KEY VALUE`` pairs.

    Args:
        config_file: a path, or the name of a shipped config (:func:`find_config`).
        deltas: config files that change some values of any other config, such as those in ``configs/baselines``. Their
            names are added to OUTPUT_DIR, so a run with a delta does not overwrite the run without it.

    Raises:
        UserError: a file is missing or not YAML, a key is unknown or never read, a value has the wrong type.
    """
    cfg = get_hiervl_cfg()
    written: list[tuple[str, str]] = []
    for path in (config_file, *deltas):
        if not path:
            continue
        before = cfg.OUTPUT_DIR
        layers = read_layers(find_config(path))
        for layer in layers:
            settings = _numbers_as_floats(without_retired(layer.settings, str(layer.path)), cfg)
            _merge(cfg, str(layer.path), lambda: cfg.merge_from_other_cfg(CfgNode(settings)))  # noqa: B023
            written += [(str(layer.path), key) for key in written_keys([layer])]
        note_keys_of_user(cfg, written_keys(layers))
        if path in deltas and cfg.OUTPUT_DIR == before:
            cfg.OUTPUT_DIR = f"{before.rstrip('/')}_{Path(path).stem}"
    if config_file:
        cfg.DATASET.ROOT = cfg.DATASET.ROOT or str(find_config(config_file).parent.resolve())
    _merge_overrides(cfg, overrides)
    refuse_unread_keys(cfg, [*written, *_from_command_line(overrides)])
    _expand_home(cfg)
    return cfg


def _numbers_as_floats(settings: dict[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """``settings`` with floats wherever ``cfg`` has a float, also for ``1`` and for ``1e-4``, which YAML reads as
    text."""
    return {
        key: _numbers_as_floats(value, cfg[key])
        if isinstance(value, dict) and isinstance(cfg.get(key), CfgNode)
        else _as_float(value, cfg.get(key))
        for key, value in settings.items()
    }


def _as_float(value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value) if math.isfinite(float(value)) else value
    return value


def _expand_home(cfg: CfgNode) -> None:
    """Replace ``~`` in paths, because no shell does so inside a YAML file."""
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = map(os.path.expanduser, (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS))
    cfg.MODEL.DECODER_WEIGHTS = os.path.expanduser(cfg.MODEL.DECODER_WEIGHTS)
    clip = cfg.MODEL.CLIP
    clip.NAME, clip.PRETRAINED, clip.TOKENIZER = map(os.path.expanduser, (clip.NAME, clip.PRETRAINED, clip.TOKENIZER))


def config_from_text(text: str, overrides: Sequence[str], source: str) -> CfgNode:
    """The config that a run saved as YAML, then ``KEY VALUE`` pairs. Errors are those of :func:`load_config`.

    Args:
        source: the file of the text, for error messages.
    """
    settings = with_older_meaning(without_retired(load_yaml(text, source), source, saved=True))
    cfg = get_hiervl_cfg()
    _merge(cfg, source, lambda: cfg.merge_from_other_cfg(CfgNode(settings)))
    _merge_overrides(cfg, overrides)
    refuse_unread_keys(cfg, _from_command_line(overrides))
    return prepare_config(cfg, training=False)


def _from_command_line(overrides: Sequence[str]) -> list[tuple[str, str]]:
    return [("the command line", key) for key in overrides[::2]]


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    if len(overrides) % 2:
        raise UserError(f"KEY VALUE pairs expected after the options, got {' '.join(overrides)}.")
    keys = _as_in_yaml(dict(zip(overrides[::2], overrides[1::2])), cfg)
    for key in keys:
        check_not_retired(key, "the command line")
    for name in SEVERAL_FORMS.intersection(keys):  # else only the form in the file would be accepted
        set_value(cfg, name, None)
    given = [word for key, value in keys.items() for word in (key, _as_float(value, get_value(cfg, key, None)))]
    _merge(cfg, f"the command line ({' '.join(overrides)})", lambda: cfg.merge_from_list(given))
    note_keys_of_user(cfg, keys)


def _as_in_yaml(given: dict[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """Values from the command line as in a YAML file: lists, true and false, and sections key by key.

    Text that YAML keeps as text stays text: yacs then reads Python's forms, such as tuples.
    """
    read: dict[str, Any] = {}
    for key, text in given.items():
        default = get_value(cfg, key, None)
        value: Any = text
        if isinstance(text, str) and isinstance(default, str) and key not in SEVERAL_FORMS:
            is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
            value = text if is_quoted else repr(text)  # yacs would read 12 as a number
        elif isinstance(text, str):
            with contextlib.suppress(yaml.YAMLError):
                parsed = yaml.safe_load(text)
                value = parsed if isinstance(parsed, (bool, int, float, list, dict, type(None))) else text
        if isinstance(default, CfgNode) and isinstance(value, dict):
            read.update(_as_in_yaml({f"{key}.{name}": inner for name, inner in value.items()}, cfg))
        elif isinstance(value, dict) and key in SEVERAL_FORMS:
            read[key] = folders_of_part(value, key, "the command line")
        else:
            read[key] = value
    return read


def prepare_config(cfg: CfgNode, training: bool = True) -> CfgNode:
    """Set what depends on the machine and, for training, on the data: device and iterations. Freezes ``cfg``."""
    cfg.defrost()
    settle_device(cfg)
    settle_clip(cfg)
    layout = register_own_dataset(cfg, training)
    if training:
        if layout is not None:
            refuse_errors(layout)
            for sentence in settle_parts(cfg, layout):
                _say(f"warning: {sentence}.")
            if _reads_unlabeled(cfg, layout):
                refuse_unreadable(layout, cfg.DATALOADER.MAX_DAMAGED)
        _check_dataset_names(cfg)
        if not (cfg.SEMI.ENABLED and cfg.SOLVER.UNLABELED_PER_BATCH):
            _say(f"This training is supervised only: {_why_supervised(cfg, layout)}.")
    apply_preset(cfg, layout)
    check_config(cfg)
    if training:
        check_training(cfg)
    check_clip(cfg.MODEL.CLIP.NAME)
    if cfg.MODEL.ENCODER.NAME:
        check_vision_encoder(cfg.MODEL.ENCODER.NAME)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = image_statistics(cfg)  # a checkpoint will provide them
    if training and cfg.SOLVER.EPOCHS:
        cfg.SOLVER.MAX_ITER = cfg.SOLVER.EPOCHS * iterations_per_epoch(cfg)
        logger.info("%d epochs are %d iterations.", cfg.SOLVER.EPOCHS, cfg.SOLVER.MAX_ITER)
    if training and cfg.SEMI.ENABLED and cfg.SEMI.BURN_IN >= cfg.SOLVER.MAX_ITER:
        _say(
            f"warning: unlabelled images are not used: SEMI.BURN_IN ({cfg.SEMI.BURN_IN}) trains on labelled images "
            f"alone until the end (SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}): lower SEMI.BURN_IN."
        )
    _check_output_dir(cfg.OUTPUT_DIR)
    cfg.freeze()
    return cfg


def _say(sentence: str) -> None:
    if comm.is_main_process():
        print(sentence, flush=True)


def _reads_unlabeled(cfg: CfgNode, layout: FolderLayout) -> bool:
    is_wanted = cfg.SEMI.ENABLED and cfg.SOLVER.UNLABELED_PER_BATCH > 0
    return is_wanted and f"{layout.source.name}_unlabeled" in cfg.DATASETS.UNLABELED


def _why_supervised(cfg: CfgNode, layout: FolderLayout | None) -> str:
    if layout is not None and not cfg.DATASETS.UNLABELED:
        return "no image is left beside those of train, val and test (DATASET.UNLABELED names folders of more)"
    return "SOLVER.UNLABELED_PER_BATCH is 0" if cfg.SEMI.ENABLED else "SEMI.ENABLED is off"


def _check_dataset_names(cfg: CfgNode) -> None:
    for key in ("TRAIN", "UNLABELED", "TEST"):
        if key == "UNLABELED" and not cfg.SEMI.ENABLED:
            continue
        for name in cfg.DATASETS[key]:
            if name not in DatasetCatalog.list() and Path(name).expanduser().exists():
                elsewhere = FOLDERS_ELSEWHERE[f"DATASETS.{key}"]
                raise UserError(f"DATASETS.{key}: '{name}' is not a registered dataset{elsewhere}.")
            check_registered(name, f"DATASETS.{key}")


def settle_device(cfg: CfgNode) -> None:
    """Use the CPU if there is no CUDA device, else the device with the given number.

    It becomes the current device, whose memory is logged and whose random numbers are saved. With several processes,
    each has its own device and the number is ignored.

    Raises:
        UserError: there is no device with that number.
    """
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s but this machine has no CUDA device: running on the CPU.", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    elif comm.get_world_size() > 1:
        cfg.MODEL.DEVICE = "cuda"
    elif cfg.MODEL.DEVICE != "cuda":
        try:
            torch.cuda.set_device(cfg.MODEL.DEVICE)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"MODEL.DEVICE {cfg.MODEL.DEVICE} cannot be used here ({reason}).") from None


def settle_clip(cfg: CfgNode) -> None:
    """Choose the CLIP with the activation of its file of weights, so that checkpoints name that one.

    Raises:
        UserError: there is no such model of ``MODEL.CLIP.NAME``.
    """
    cfg.MODEL.CLIP.NAME = name_of_weights(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)


def register_own_dataset(cfg: CfgNode, training: bool = True) -> FolderLayout | None:
    """Register the dataset of the section ``DATASET``, if there is one, and set ``DATASETS``.

    The config of a finished run already names its datasets. If it is not trained again, the files may be missing.
    """
    if not cfg.DATASET.NAME:
        if cfg.DATASET.LABELED.IMAGES or cfg.DATASET.CLASSES:
            raise UserError("DATASET.NAME is empty: give your dataset a name.")
        return None
    _check_own_folders(cfg)
    named_already = bool(cfg.DATASETS.TRAIN)
    try:
        return register_from_config(cfg)
    except UserError as error:
        if training or not named_already:
            raise
        logger.warning("The files of the dataset '%s' are missing: %s", cfg.DATASET.NAME, error)
        return None


def _check_own_folders(cfg: CfgNode) -> None:
    """Raise a UserError if registered datasets are named where your own folders belong."""
    for key, right in (("UNLABELED", "UNLABELED"), ("VAL", "TEST"), ("TEST", "TEST")):
        value = cfg.DATASET[key]
        given = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
        for name in given:
            if name in DatasetCatalog.list():
                raise UserError(
                    f"DATASET.{key} takes folders or list files, but '{name}' is a registered dataset: write it into "
                    f"DATASETS.{right}."
                )


def require_own_dataset(cfg: CfgNode) -> FolderLayout:
    """Register the dataset of the section ``DATASET``.

    Raises:
        UserError: the config has no such section.
    """
    layout = register_own_dataset(cfg)
    if layout is None:
        raise UserError("the config has no section DATASET: copy configs/custom.yaml and fill it in.")
    return layout


def find_layout(cfg: CfgNode) -> FolderLayout | RegisteredLayout:
    """The files of the section ``DATASET``, else of the registered datasets in ``DATASETS``.

    Raises:
        UserError: the config names no data, or a dataset is unknown, missing or wrong.
    """
    layout = register_own_dataset(cfg)
    if layout is None and not cfg.DATASETS.TRAIN:
        raise UserError(
            "the config names no data: fill in the section DATASET, as configs/custom.yaml does, or DATASETS.TRAIN."
        )
    return layout or RegisteredLayout.from_config(cfg)


def _merge(cfg: CfgNode, source: str, merge) -> None:
    try:
        merge()
    except (KeyError, AssertionError) as error:
        # For an unknown key yacs raises KeyError (file) or AssertionError (command line).
        unknown = re.search(r"Non-existent (?:config )?key: (\S+)", str(error.args[0] if error.args else ""))
        if unknown is None:
            raise UserError(f"{source}: {' '.join(str(error).split())}") from error
        key = unknown.group(1)
        _check_section_of_data(key, source)
        matches = difflib.get_close_matches(key, [name for name, _ in nodes(cfg)], n=1, cutoff=0.5)
        hint = f"; did you mean {matches[0]}?" if matches else "; hiervl/config/defaults.py lists all keys."
        raise UserError(f"{source}: there is no config key '{key}'{hint}") from error
    except (TypeError, AttributeError) as error:  # yacs's error for a section where a value belongs, or the reverse
        raise UserError(f"{source}: it is empty, or sets a section where a value belongs (or the reverse).") from error
    except (ValueError, yaml.YAMLError, OSError) as error:
        raise UserError(f"{source}: {_type_mismatch(str(error)) or ' '.join(str(error).split())}") from error


def _check_section_of_data(key: str, source: str) -> None:
    """Raise a UserError if a key of DATASET is written into DATASETS, or the reverse."""
    section, _, name = key.partition(".")
    other = {"DATASET": "DATASETS", "DATASETS": "DATASET"}.get(section)
    keys = [known for known, _ in nodes(get_hiervl_cfg()[other])] if other else []
    fitting = next((known for known in keys if f".{known}".endswith(f".{name}")), None)
    if fitting:
        raise UserError(
            f"{source}: there is no config key '{key}': write {other}.{fitting} (DATASET describes your own folders, "
            "DATASETS names registered datasets)."
        )


def _type_mismatch(message: str) -> str:
    """yacs's message about a value of another type, as a sentence; "" for other messages."""
    found = re.match(r"Type mismatch \(<class '(.+?)'> vs. <class '(.+?)'>\).*config key: (\S+)", message, re.DOTALL)
    if found is None:
        return ""
    expected, given = (f"a section ({name})" if "CfgNode" in name else f"a {name}" for name in found.group(1, 2))
    return f"{found.group(3)} takes {expected}, not {given}{FOLDERS_ELSEWHERE.get(found.group(3), '')}."


def _check_output_dir(path: str) -> None:
    """Raise a UserError before training if nothing can be saved."""
    try:
        os.makedirs(path, exist_ok=True)
        probe = Path(path) / f".writable-{os.getpid()}"  # several processes may check at once
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"OUTPUT_DIR '{path}' cannot be written ({error.strerror}).") from error
