"""Loading of CLIP models through open_clip: by name, from a model config file, or the one shipped with HierVL."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
from detectron2.utils.logger import log_first_n
from torch import nn

from hiervl.utils.errors import UserError
from hiervl.utils.placeholder import NOT_READABLE, refuse_placeholder
from hiervl.utils.text import reason_of

from .clip_weights import (
    has_quick_gelu,
    load_state,
    read_foreign,
    refuse_other_architecture,
    uses_quick_gelu,
    with_activation,
)
from .tokens import TextTokens, load_tokens

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent.parent / "assets"
SHIPPED = {  # the models that HierVL ships, each with weights and tokens beside its config
    "shapesworld": ASSETS / "shapesworld_clip" / "shapesworld.json",
    "imagenet-lite": ASSETS / "imagenet_lite" / "imagenet_lite.json",
}
SHIPPED_WEIGHTS = "weights.safetensors"
# Loggers of the hub's client, which report every attempt to reach the hub several times.
CHATTY = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
# The weights come from a checkpoint, so random ones are enough until it is loaded.
FROM_CHECKPOINT = "checkpoint"
ACTIVATIONS = ("GELU", "QuickGELU")


def load_clip(name: str, pretrained: str, tokenizer: str = "") -> tuple[nn.Module, TextTokens]:
    """Build a CLIP and its tokenizer.

    Args:
        name, pretrained: see :func:`load_model`.
        tokenizer: folder of a tokenizer, instead of the hub; "": open_clip finds it.

    Raises:
        UserError: model, weights or tokenizer are unknown, cannot be found or do not fit together.
    """
    config = model_config(name)
    check_text_side(name, config)
    tokens = load_tokens(config, config_file(name), tokenizer)
    return load_model(name, pretrained), tokens


def load_model(name: str, pretrained: str) -> Any:
    """Build a CLIP, without its tokenizer.

    Args:
        name: an open_clip model name, the path of an open_clip model config (.json), or a key of ``SHIPPED``.
        pretrained: an open_clip tag, a file of weights (open_clip's, OpenAI's or transformers'), a key of ``SHIPPED``,
            "checkpoint" if a checkpoint is loaded afterwards, or "" for random weights.

    Raises:
        UserError: the model or the weights are unknown, cannot be found or do not fit together.
    """
    model_config(name)
    config_path = config_file(name)
    if config_path is not None:
        open_clip.add_model_config(config_path)
        name = config_path.stem
    if pretrained in SHIPPED:
        pretrained = str(SHIPPED[pretrained].parent / SHIPPED_WEIGHTS)
    if pretrained == FROM_CHECKPOINT:
        pretrained = ""
    elif not pretrained:
        logger.warning(
            "MODEL.CLIP.PRETRAINED is empty: CLIP starts from random weights, so its text embeddings know nothing."
        )
    else:
        name = name_of_weights(name, pretrained)
    return _create(name, pretrained)


def check_text_side(name: str, config: dict[str, Any]) -> None:
    """Raises UserError: this model's text encoder cannot take learnable prompts. Downloads nothing."""
    text = config["text_cfg"]
    reason = None
    if "hf_model_name" in text:
        reason = f"its text encoder is a model of transformers ({text['hf_model_name']})"
    elif "multimodal_cfg" in config or text.get("embed_cls"):
        reason = "its text encoder (CoCa) reads the phrase from a token behind the padding"
    elif text.get("use_pad_mask"):
        reason = "its text encoder masks the padding"
    if reason:
        raise UserError(
            f"MODEL.CLIP.NAME '{name}': {reason}, which HierVL does not support; docs/encoders.md lists what it does."
        )


def name_of_weights(name: str, pretrained: str) -> str:
    """``MODEL.CLIP.NAME`` with the activation that a file of weights was trained with.

    OpenAI's weights need QuickGELU; open_clip's ViT-B-16 has GELU. If the file says which one it needs, the model with
    that activation is used. If not, the log says what to check.

    Args:
        name: a model that open_clip knows; other names are returned unchanged.

    Raises:
        UserError: there is no such model with the activation.
    """
    if not Path(pretrained).is_file() or open_clip.get_model_config(name) is None:
        return name
    has, needs = has_quick_gelu(name), uses_quick_gelu(pretrained)
    if needs is None:
        if not has and with_activation(name, True) != name:
            _say_once(
                f"MODEL.CLIP.NAME '{name}' computes with GELU, and '{pretrained}' does not say what it was trained "
                f"with: if it holds OpenAI's weights, set MODEL.CLIP.NAME to {with_activation(name, True)}."
            )
        return name
    if has == needs:
        return name
    fitting = with_activation(name, needs)
    if fitting == name:
        raise UserError(
            f"MODEL.CLIP.NAME '{name}' computes with {ACTIVATIONS[has]}, but '{pretrained}' was trained with "
            f'{ACTIVATIONS[needs]}: set "quick_gelu": {str(needs).lower()} in the model config.'
        )
    _say_once(
        f"'{pretrained}' was trained with {ACTIVATIONS[needs]}: MODEL.CLIP.NAME is {fitting} in this run, not {name}."
    )
    return fitting


def _say_once(message: str) -> None:
    log_first_n(logging.WARNING, message, name=__name__, key="message")


def read_clip_config(name: str) -> str | None:
    """Text of the open_clip model config at the path ``name``; None if ``name`` is a known model."""
    return Path(name).read_text(encoding="utf-8") if name.endswith(".json") else None


def model_config(name: str) -> dict[str, Any]:
    """open_clip's config of a model: embedding width, image and text encoder. Downloads nothing.

    Raises:
        UserError: there is no such model, or its config file is damaged.
    """
    path = config_file(name)
    if path is not None:
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if all(isinstance(config[side], dict) for side in ("vision_cfg", "text_cfg")):
                return config
        except (ValueError, KeyError, TypeError):
            pass
        raise UserError(
            f"MODEL.CLIP.NAME: '{path}' is not an open_clip model config (embed_dim, vision_cfg, text_cfg)."
        )
    config = None if ":" in name else open_clip.get_model_config(name)  # "hf-hub:…" would download a model
    if config is None:
        raise UserError(
            f"MODEL.CLIP.NAME '{name}' is neither an open_clip model (open_clip.list_models() names them) "
            "nor an existing .json model config."
        )
    return config


def config_file(name: str) -> Path | None:
    """Path of the open_clip model config of ``name``; None if open_clip knows the name.

    Raises:
        UserError: there is no such file.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    if name.endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"MODEL.CLIP.NAME: there is no model config at '{name}'.")
        return path
    return None


def _create(name: str, pretrained: str) -> nn.Module:
    known_tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in known_tags and Path(pretrained).is_file():
        return _from_file(name, pretrained)
    if pretrained and pretrained not in known_tags:
        tags = f"one of the tags {', '.join(known_tags)}" if known_tags else "empty (the model has no open_clip tags)"
        raise UserError(
            f"MODEL.CLIP.PRETRAINED: no weights at '{pretrained}'; give an existing file, or {tags}, or leave it empty."
        )
    try:
        if not pretrained:
            with _without("initialized randomly"):  # load_clip itself warns if that is wrong
                return open_clip.create_model(name)
        if pretrained in known_tags:
            logger.info("CLIP %s, weights '%s': read from the cache, or downloaded.", name, pretrained)
        with _without("Retrying in", "thrown while requesting", "Failed to download"):  # the error below says the same
            return open_clip.create_model(name, pretrained=pretrained, weights_only=True)
    except Exception as error:  # open_clip raises what its many back ends raise: network, hub, pickle, shapes
        raise UserError(
            f"MODEL.CLIP: the weights '{pretrained}' of '{name}' could not be loaded ({reason_of(error)}); download "
            "them on a machine with network access and give the file as MODEL.CLIP.PRETRAINED."
        ) from error


def _from_file(name: str, path: str) -> nn.Module:
    refuse_placeholder(path, "a file of weights", "MODEL.CLIP.PRETRAINED")
    state = read_foreign(path)
    if state is not None:
        with _without("initialized randomly"):
            model = open_clip.create_model(name)
        load_state(model, state, name, path)
        return model
    try:
        return open_clip.create_model(name, pretrained=path, weights_only=True)
    except Exception as error:  # open_clip raises what its many back ends raise: pickle, zip, shapes
        _refuse_other_weights(name, path)
        raise UserError(
            f"MODEL.CLIP.PRETRAINED: '{path}' cannot be read as weights of CLIP ({reason_of(error)}): it is "
            f"{NOT_READABLE}; give the file of weights itself."
        ) from error


def _refuse_other_weights(name: str, path: str) -> None:
    """Raise a UserError if a file that could not be loaded is intact, but of another architecture."""
    try:
        state = open_clip.factory.load_state_dict(path, weights_only=True)
        with _without("initialized randomly"):
            model = open_clip.create_model(name)
    except Exception:  # as above; nothing is known about the file
        return
    refuse_other_architecture(model, state, name, path)


@contextlib.contextmanager
def _without(*remarks: str) -> Iterator[None]:
    """Suppress log records of open_clip and the hub's client that contain one of ``remarks``."""

    def is_other(record: logging.LogRecord) -> bool:
        return not any(remark in record.getMessage() for remark in remarks)

    sources = [logging.getLogger(), *(logging.getLogger(name) for name in CHATTY)]
    for source in sources:
        source.addFilter(is_other)
    try:
        yield
    finally:
        for source in sources:
            source.removeFilter(is_other)
