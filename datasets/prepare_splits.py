#!/usr/bin/env python3
"""Fetch the published lists of labelled images of Pascal VOC, COCO, ADE20K and Cityscapes.

    python datasets/prepare_splits.py                # download, 4 MB
    python datasets/prepare_splits.py --source PATH  # the folder splits/ of a copy of the repository

The lists are those of https://github.com/google-research/semivl (Apache-2.0) at one commit. Written is ROOT/splits;
every list is checked against its sha256 in configs/splits.sha256. What is there and right stays.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

from hiervl.config.files import SHIPPED
from hiervl.data.preparation.archives import download
from hiervl.data.preparation.script import run_script, say
from hiervl.data.registered.benchmarks import SPLITS_FOLDER
from hiervl.data.registered.datasets import dataset_root
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_bytes

COMMIT = "13ee65d6f27e197e0b55d987b346fc880fc811ca"
URL = f"https://raw.githubusercontent.com/google-research/semivl/{COMMIT}/splits"
SUMS = SHIPPED / "splits.sha256"


def read_sums(path: Path) -> dict[str, str]:
    """sha256 of every list, by its path below the folder of the lists."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name: digest for digest, name in lines}


def has_sum(path: Path, digest: str) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == digest


def read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} does not exist: --source names the folder that holds ade, cityscapes, coco, pascal.")
    return path.read_bytes()


def fetch(url: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / url.rpartition("/")[2]
        download(url, target, "copy the repository elsewhere and name its folder splits/ with --source")
        return target.read_bytes()


def prepare(folder: Path, source: Path | None = None, url: str = URL, sums: dict[str, str] | None = None) -> None:
    """Make ``folder``; ``url`` and ``sums`` are the published ones unless a test has its own."""
    sums = read_sums(SUMS) if sums is None else sums
    right = {name for name, digest in sums.items() if (folder / name).is_file() and has_sum(folder / name, digest)}
    for name in sorted(set(sums) - right):
        say(f"getting {name}")
        content = fetch(f"{url}/{name}") if source is None else read(source / name)
        if hashlib.sha256(content).hexdigest() != sums[name]:
            raise UserError(f"{name} of {source or url} is not the published list: its sha256 is not {sums[name]}.")
        write_bytes(folder / name, content)
    say(f"{folder} is ready")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=dataset_root(), help=f"folder in which {SPLITS_FOLDER} is made")
    parser.add_argument("--source", type=Path, help="folder that holds the lists already; none: they are downloaded")
    arguments = parser.parse_args()
    prepare(arguments.root / SPLITS_FOLDER, arguments.source)


if __name__ == "__main__":
    run_script(main)
