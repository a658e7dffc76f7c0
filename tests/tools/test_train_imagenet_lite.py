"""The script that makes ``imagenet-lite`` writes the same bytes every time. Few steps, random weights."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
# In place of the package: a classifier whose weights are drawn with a seed.
PROGRAM = """
import timm, torch
import train_imagenet_lite as script

def read_package(path):
    torch.manual_seed(3)
    return timm.create_model(script.TRUNK).state_dict(), b"a licence"

phrases = [phrase for phrase in script.read_phrases() if max(phrase.classes) < 80]
script.read_package, script.read_phrases = read_package, lambda: phrases
script.STEPS, script.BATCH, script.MERGES = 3, 8, 60
script.main()
"""


def make(folder: Path, hash_seed: str) -> dict[str, bytes]:
    """Contents of the files that the script writes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--package", "none", "--output", str(folder)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tools'}:{ROOT}", "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_made_twice_it_is_the_same_bytes(tmp_path):
    """Whatever order sets have in a process."""
    first, second = make(tmp_path / "1", "1"), make(tmp_path / "2", "2")
    assert set(first) == {"imagenet_lite.json", "bpe.txt.gz", "weights.safetensors", "LICENSE", "evaluation.json"}
    assert first == second


def test_what_ships_is_loaded_and_small():
    from hiervl.modeling.clip import SHIPPED, load_clip

    folder = SHIPPED["imagenet-lite"].parent
    assert (folder / "weights.safetensors").stat().st_size < 14e6
    clip, tokens = load_clip("imagenet-lite", "imagenet-lite")
    assert clip.visual.trunk.conv_stem.weight.dtype == torch.float32 and tokens.encode("mountain bike")
