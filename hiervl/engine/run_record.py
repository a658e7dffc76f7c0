"""``OUTPUT_DIR/run.json``: everything needed to repeat a run, beside its ``config.yaml``."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

import hiervl
from hiervl.data.loading.loaders import load_labeled, load_unlabeled
from hiervl.engine.launch import is_under_torchrun
from hiervl.utils.files import write_json
from hiervl.utils.program import interpreter, offers_commands, program, script

logger = logging.getLogger(__name__)

FILE_NAME = "run.json"
PACKAGES = ("torch", "torchvision", "detectron2", "open_clip_torch", "numpy", "scipy", "pillow")
HASH_SHOWN = 16  # hexadecimal digits of a hash in messages


def start_record(cfg, resumed: bool, iteration: int, run: str | None = None) -> str:
    """Write the record of a new run, or add a start to the record of a resumed run. Returns the run's identity.

    Every process calls it; the main one writes. It warns if the splits of a resumed run hold other images than before.

    Args:
        run: the identity in the resumed checkpoint, in case the record is lost.
    """
    path = Path(cfg.OUTPUT_DIR) / FILE_NAME
    record: dict[str, Any] | None = read_record(cfg.OUTPUT_DIR) if resumed else None
    if comm.is_main_process():
        inputs = _inputs(cfg)
        if record is None:
            record = {"run": run or uuid.uuid4().hex, **inputs, "starts": []}
        changed = _changed_splits(record, inputs["splits"])
        start = {"iteration": iteration, **_circumstances()}
        record["starts"].append({**start, "splits": changed} if changed else start)
        write_json(path, record, indent=2)
    return comm.all_gather(record)[0]["run"]


def read_record(output_dir: str) -> dict[str, Any] | None:
    """The record of an earlier run in that folder; None if there is no readable one."""
    try:
        record = json.loads((Path(output_dir) / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    parts = [record, *record["starts"]] if isinstance(record, dict) and isinstance(record.get("starts"), list) else []
    is_whole = bool(parts) and all(isinstance(part, dict) and _has_splits(part) for part in parts)
    return record if is_whole and isinstance(record.get("run"), str) else None


def _has_splits(part: dict[str, Any]) -> bool:
    """Whether the splits of a record, or of one of its starts, have the form of :func:`_split`."""
    splits = part.get("splits", {})
    return isinstance(splits, dict) and all(
        isinstance(split, dict) and {"datasets", "images", "sha256"} <= split.keys() for split in splits.values()
    )


def resume_command() -> str:
    """The command that continues this training."""
    is_command = offers_commands()
    given = [argument for argument in sys.argv[2 if is_command else 1 :] if argument != "--resume"]
    if is_under_torchrun():
        start = f"torchrun --nproc-per-node {comm.get_local_size()} {script()}"
    else:
        start = program() if is_command else f"{interpreter()} {script()}"
    return f"{start} {shlex.join([*(['train'] if is_command else []), '--resume', *given])}"


def split_hash(dicts: Sequence[dict]) -> str:
    """SHA-256 of the sorted names of a split's images. Equal splits have equal hashes."""
    # Bytes, not joined, because there may be millions.
    names = sorted(os.fsencode(_image_id(entry)) for entry in dicts)
    digest = hashlib.sha256()
    for index, name in enumerate(names):
        digest.update(b"\n" + name if index else name)
    return digest.hexdigest()


def _image_id(entry: dict) -> str:
    return str(entry["image_id"]) if "image_id" in entry else Path(entry["file_name"]).stem


def _inputs(cfg) -> dict[str, Any]:
    splits = {"labeled": _split(cfg.DATASETS.TRAIN, load_labeled(cfg))}
    if cfg.SEMI.ENABLED and cfg.DATASETS.UNLABELED and cfg.SOLVER.UNLABELED_PER_BATCH > 0:
        splits["unlabeled"] = _split(cfg.DATASETS.UNLABELED, load_unlabeled(cfg))
    return {"seed": cfg.SEED, "config": "config.yaml", "splits": splits}


def _split(names, dicts: Sequence[dict]) -> dict[str, Any]:
    return {"datasets": list(names), "images": len(dicts), "sha256": split_hash(dicts)}


def _changed_splits(record: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """The current splits with other images than at the previous start. Warns of each."""
    known: dict[str, Any] = {}
    for part in (record, *record["starts"]):
        known.update(part.get("splits", {}))
    changed = {}
    for name, split in current.items():
        before = known.get(name, split)
        if before["sha256"] == split["sha256"]:
            continue
        changed[name] = split
        logger.warning(
            "The split '%s' (%s) is not what this run was last started with: it has %d images with the SHA-256 %s…, "
            "but had %d with %s…; what follows learns from other images than what came before.",
            name, ", ".join(split["datasets"]), split["images"], split["sha256"][:HASH_SHOWN],
            before["images"], before["sha256"][:HASH_SHOWN],
        )  # fmt: skip
    return changed


def _circumstances() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "hiervl": hiervl.__version__, **_versions()},
        "machine": {
            "system": platform.platform(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
            "processes": comm.get_world_size(),
        },
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _commit() -> str | None:
    """Commit of the running checkout, with "+changes" if files differ from it; None outside a checkout."""
    folder = Path(hiervl.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
