"""The files that an encoder of a config consists of, and which of them are there. Nothing is fetched."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import open_clip
from huggingface_hub.constants import HF_HUB_CACHE
from timm.models import get_pretrained_cfg

from .clip import SHIPPED, SHIPPED_WEIGHTS, model_config
from .vision_encoder import FETCHED

URL_CACHE = "~/.cache/clip"  # of open_clip, for weights that have a URL and no repository
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
TOKENIZERS = ("tokenizer.json", ".model", "vocab.txt")


class EncoderFile(NamedTuple):
    """One thing that a network needs.

    Attributes:
        key: of the config, which names it; label: what it is.
        where: the file or folder, or what will be fetched.
        defect: what is wrong with it, as "… is missing", and what to do; "": it is there.
        is_fetched: the first training fetches it, so that it may be missing.
    """

    key: str
    label: str
    where: str
    defect: str = ""
    is_fetched: bool = False


def encoder_files(cfg) -> list[EncoderFile]:
    """What ``MODEL.CLIP`` and ``MODEL.ENCODER`` need: weights and tokenizer.

    Raises:
        UserError: open_clip has no such model.
    """
    found = [_clip_weights(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)]
    on_hub = model_config(cfg.MODEL.CLIP.NAME)["text_cfg"].get("hf_tokenizer_name", "")
    if on_hub:
        found.append(_tokenizer(on_hub, cfg.MODEL.CLIP.TOKENIZER))
    if cfg.MODEL.ENCODER.NAME:
        found.append(_trunk_weights(cfg.MODEL.ENCODER.NAME, cfg.MODEL.ENCODER.PRETRAINED))
    return found


def _clip_weights(name: str, pretrained: str) -> EncoderFile:
    key, label = "MODEL.CLIP.PRETRAINED", "weights"
    if pretrained in SHIPPED:
        path = SHIPPED[pretrained].parent / SHIPPED_WEIGHTS
        restore = f"{path.name} is missing: restore it with `git checkout -- hiervl/assets`, or install HierVL again"
        return EncoderFile(key, label, str(path), "" if path.is_file() else restore)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        return _fetched(key, label, f"{name} '{pretrained}'", *_source(open_clip.get_pretrained_cfg(name, pretrained)))
    choices = f"an existing file, or one of {', '.join(tags)}" if tags else "an existing file"
    return _file_or_nothing(key, label, pretrained, choices)


def _trunk_weights(name: str, pretrained: str) -> EncoderFile:
    key, label = "MODEL.ENCODER.PRETRAINED", "its weights"
    if pretrained != FETCHED:
        return _file_or_nothing(key, label, pretrained, f"an existing file, or '{FETCHED}' to fetch them")
    known = get_pretrained_cfg(name)
    return _fetched(key, label, name, (known and known.hf_hub_id) or "", str((known and known.url) or ""))


def _tokenizer(on_hub: str, folder: str) -> EncoderFile:
    key, label = "MODEL.CLIP.TOKENIZER", "tokenizer"
    if folder:
        return EncoderFile(key, label, folder, "" if Path(folder).is_dir() else "is missing: name an existing folder")
    if importlib.util.find_spec("transformers") is None:
        return EncoderFile(key, label, on_hub, "needs a package that is not installed: `pip install transformers`")
    return _fetched(key, label, f"{on_hub}, by transformers", on_hub, "", TOKENIZERS)


def _file_or_nothing(key: str, label: str, path: str, choices: str) -> EncoderFile:
    if not path:
        return EncoderFile(key, label, "none", f"is empty, so that training starts from random weights: give {choices}")
    return EncoderFile(key, label, path, "" if Path(path).is_file() else f"'{path}' is missing: give {choices}")


def _fetched(key: str, label: str, what: str, repository: str, url: str, endings=WEIGHTS) -> EncoderFile:
    cached = _in_cache(repository, url, endings)
    if cached is not None:
        return EncoderFile(key, label, str(cached))
    instead = "its folder" if endings is TOKENIZERS else "a file"
    source = repository or url or what
    advice = f"is not in the cache: the first training fetches {source}; without network give {instead}"
    return EncoderFile(key, label, what, advice, is_fetched=True)


def _source(known: dict) -> tuple[str, str]:
    """The repository and the URL of open_clip's entry; "org/name/" or "org/name/file" is how it names the first."""
    return known.get("hf_hub", "").rpartition("/")[0], known.get("url", "")


def _in_cache(repository: str, url: str, endings) -> Path | None:
    if repository:
        snapshots = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
        files = sorted(file for file in snapshots.glob("*/*") if file.is_file())  # no link that leads nowhere
        return next((file for file in files if file.name.endswith(endings)), None)
    path = Path(URL_CACHE).expanduser() / Path(url).name
    return path if url and path.is_file() else None
