"""Tokenizers of CLIP models with one interface: CLIP's own, and those that open_clip takes from a hub (SigLIP's …)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip.tokenizer import HFTokenizer

from hiervl.utils.errors import UserError
from hiervl.utils.text import reason_of

HUB_OPTIONS = {"clean", "strip_sep_token", "language"}  # those of open_clip's HFTokenizer


class TextTokens(NamedTuple):
    """From text to token ids, and the tokens around them: ``prefix``, the text's ids, ``suffix``, then ``pad``."""

    encode: Callable[[str], list[int]]
    prefix: tuple[int, ...]  # such as the start token; none for SigLIP
    suffix: tuple[int, ...]  # begins with the end token
    pad: int


def load_tokens(config: dict[str, Any], config_path: Path | None, folder: str = "") -> TextTokens:
    """The tokenizer of a model.

    Args:
        config: open_clip's config of the model; config_path: its path, if it is not one of open_clip's own.
        folder: ``MODEL.CLIP.TOKENIZER``, a folder with the files of the tokenizer, instead of the hub.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    text_config = config["text_cfg"]
    on_hub = text_config.get("hf_tokenizer_name", "")
    if on_hub:
        return _from_hub(_hub_tokenizer(on_hub, text_config, folder))
    options = dict(text_config.get("tokenizer_kwargs", {}))
    if config_path is not None and "bpe_path" in options:  # relative to the config file
        options["bpe_path"] = str(config_path.parent / options["bpe_path"])
    tokenizer = open_clip.SimpleTokenizer(**options)
    return TextTokens(tokenizer.encode, (tokenizer.sot_token_id,), (tokenizer.eot_token_id,), 0)


def _hub_tokenizer(on_hub: str, text_config: dict[str, Any], folder: str) -> HFTokenizer:
    if folder and not Path(folder).is_dir():
        raise UserError(f"MODEL.CLIP.TOKENIZER: there is no folder '{folder}'.")
    options = dict(text_config.get("tokenizer_kwargs", {}))
    unknown = sorted(set(options) - HUB_OPTIONS)
    if unknown:  # they would go to transformers, which can be told to run code
        raise UserError(
            f"MODEL.CLIP.NAME: its config gives the tokenizer the option '{unknown[0]}', which is not read."
        )
    if folder:
        options["local_files_only"] = True
    try:
        return HFTokenizer(folder or on_hub, tokenizer_mode=text_config.get("tokenizer_mode"), **options)
    except ImportError as error:
        raise UserError(
            f"the tokenizer of this model ('{on_hub}') needs a package that is not installed ({error}): "
            "`pip install transformers`."
        ) from error
    except Exception as error:  # transformers raises the errors of its many back ends: network, hub, JSON
        raise UserError(
            f"the tokenizer '{folder or on_hub}' could not be loaded ({reason_of(error)}); download its files on a "
            "machine with network access and give their folder as MODEL.CLIP.TOKENIZER."
        ) from error


def _from_hub(tokenizer: HFTokenizer) -> TextTokens:
    """Find the tokens that transformers puts around a text, from one example."""
    inner = tokenizer.tokenizer

    def encode(text: str) -> list[int]:
        return list(inner(tokenizer.clean_fn(text), add_special_tokens=False).input_ids)

    probe = "a"
    whole, bare = list(inner(probe).input_ids), encode(probe)
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if start is None or inner.pad_token_id is None or inner.padding_side != "right":
        raise UserError(
            "MODEL.CLIP.NAME: its tokenizer does not put the text between fixed tokens, padded on the right."
        )
    suffix = whole[start + len(bare) :]
    if tokenizer.strip_sep_token:
        suffix = [0 if token == inner.sep_token_id else token for token in suffix]
    return TextTokens(encode, tuple(whole[:start]), tuple(suffix), inner.pad_token_id)
