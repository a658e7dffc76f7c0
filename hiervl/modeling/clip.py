"""Loading of CLIP models through open_clip: by name, from a model config file, or the one shipped with HierVL."""

import contextlib
import json
import logging
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
from detectron2.utils.logger import log_first_n
from torch import nn

from hiervl.utils.errors import UserError

from .clip_weights import (
    has_quick_gelu,
    load_state,
    read_foreign,
    refuse_other_architecture,
    uses_quick_gelu,
    with_activation,
)

logger = logging.getLogger(__name__)

SHIPPED_CLIP = Path(__file__).parent.parent / "assets" / "shapesworld_clip"
SHIPPED_NAME = "shapesworld"
# Loggers of the hub's client that tell of every attempt to reach it, each several times.
CHATTY = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
# Weights that a checkpoint brings: random ones are as good until it is loaded.
FROM_CHECKPOINT = "checkpoint"
ACTIVATIONS = ("GELU", "QuickGELU")


def load_clip(name: str, pretrained: str) -> tuple[nn.Module, Callable[[str], list[int]], int, int]:
    """Build a CLIP and its tokenizer.

    Args:
        name: an open_clip model name, the path of an open_clip model config (.json), or "shapesworld".
        pretrained: an open_clip tag, a file of weights (open_clip's, OpenAI's or transformers'), "shapesworld",
            "checkpoint" where a checkpoint is loaded afterwards, or "" for random weights.

    Returns:
        the model, a function from text to token ids (without the start and end tokens), and the ids of those two.

    Raises:
        UserError: the model or the weights are unknown, cannot be found or do not fit together.
    """
    config_path = _config_file(name)
    if config_path is not None:
        open_clip.add_model_config(config_path)
        name = config_path.stem
    elif ":" in name or open_clip.get_model_config(name) is None:  # "hf-hub:…" would fetch what a checkpoint asks for
        raise UserError(
            f"MODEL.CLIP.NAME '{name}' is neither an open_clip model (open_clip.list_models() names them) "
            "nor an existing .json model config."
        )
    if pretrained == SHIPPED_NAME:
        pretrained = str(SHIPPED_CLIP / "weights.safetensors")
    if pretrained == FROM_CHECKPOINT:
        pretrained = ""
    elif not pretrained:
        logger.warning(
            "MODEL.CLIP.PRETRAINED is empty: CLIP starts from random weights, so its language carries no knowledge."
        )
    else:
        name = name_of_weights(name, pretrained)
    model = _create(name, pretrained)
    tokenizer = _tokenizer(name, config_path)
    return model, tokenizer.encode, tokenizer.sot_token_id, tokenizer.eot_token_id


def name_of_weights(name: str, pretrained: str) -> str:
    """``MODEL.CLIP.NAME`` with the activation that a file of weights was trained with.

    OpenAI's weights need QuickGELU, open_clip's ViT-B-16 has GELU. Where the file says which one it needs, the model
    with that one is taken; where it does not, the log says what to look at.

    Args:
        name: a model that open_clip knows; others are returned as they are.

    Raises:
        UserError: no model of that name has the activation.
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
    """Text of the open_clip model config that ``name`` is the path of; None for models that are known by name."""
    return Path(name).read_text(encoding="utf-8") if name.endswith(".json") else None


def _config_file(name: str):
    if name == SHIPPED_NAME:
        return SHIPPED_CLIP / "shapesworld.json"
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
            with _without("initialized randomly"):  # where that is a fault, load_clip says so itself
                return open_clip.create_model(name)
        if pretrained in known_tags:
            logger.info("CLIP %s, weights '%s': read from the cache, or downloaded.", name, pretrained)
        with _without("Retrying in", "thrown while requesting", "Failed to download"):  # the error below says it
            return open_clip.create_model(name, pretrained=pretrained, weights_only=True)
    except Exception as error:  # open_clip raises what its many back ends raise: network, hub, pickle, shapes
        reason = textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
        raise UserError(
            f"MODEL.CLIP: the weights '{pretrained}' of '{name}' could not be loaded ({reason}); download them on a "
            "machine with network access and give the file as MODEL.CLIP.PRETRAINED."
        ) from error


def _from_file(name: str, path: str) -> nn.Module:
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
        reason = textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
        raise UserError(
            f"MODEL.CLIP.PRETRAINED: '{path}' cannot be read as weights of CLIP ({reason}): it is damaged, or of "
            "another program; give the file of weights itself."
        ) from error


def _refuse_other_weights(name: str, path: str) -> None:
    """A UserError if a file that could not be loaded is whole, but of another architecture."""
    try:
        state = open_clip.factory.load_state_dict(path, weights_only=True)
        with _without("initialized randomly"):
            model = open_clip.create_model(name)
    except Exception:  # as above: the file says nothing
        return
    refuse_other_architecture(model, state, name, path)


@contextlib.contextmanager
def _without(*remarks: str) -> Iterator[None]:
    """Keep back log records of open_clip and of the hub's client that hold one of ``remarks``."""

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


def _tokenizer(name: str, config_path) -> Any:
    if config_path is None:
        tokenizer = open_clip.get_tokenizer(name)
    else:
        text_config = json.loads(config_path.read_text())["text_cfg"]
        options = dict(text_config.get("tokenizer_kwargs", {}))
        if "bpe_path" in options:  # relative to the config file
            options["bpe_path"] = str(config_path.parent / options["bpe_path"])
        tokenizer = open_clip.SimpleTokenizer(context_length=text_config.get("context_length", 77), **options)
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        raise UserError(f"MODEL.CLIP.NAME '{name}' does not use CLIP's own tokenizer; choose a ViT of the CLIP layout.")
    return tokenizer
