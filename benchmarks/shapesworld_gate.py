"""Measure whether ShapesWorld's CLIP knows its classes well enough to carry experiments.

    python -m benchmarks.shapesworld_gate [--weights DIR] [--output FILE]

On the validation split, which no training ever saw, with the prompt "a photo of a {name}.":
- presence AUC of each class: how well the cosine of pooled image embedding and text embedding
  ranks pictures with the class above pictures without it (0.5 is chance);
- object-pixel accuracy: the share of object pixels whose dense embedding is nearest, among the
  twelve object classes, to the right one (1/12 is chance). The dense embedding is the value path of
  the last block on the patch grid; its cosines are upsampled bilinearly.

Exits with status 1 where a figure misses its gate.
"""

import argparse
import datetime
import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiervl.data.shapesworld import (
    BACKGROUND,
    CLASS_NAMES,
    SPLIT_SEEDS,
    SPLITS,
    generate_scene,
)

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPT = "a photo of a {}."
GATES = {"presence_auc_mean": 0.95, "object_pixel_accuracy": 0.8}
BATCH = 50


def load_clip(folder: Path) -> tuple[nn.Module, open_clip.SimpleTokenizer]:
    """The model, frozen and in single precision, and its tokenizer."""
    config = json.loads((folder / "shapesworld.json").read_text())
    text = config["text_cfg"]
    tokenizer = open_clip.SimpleTokenizer(
        bpe_path=str(folder / text["tokenizer_kwargs"]["bpe_path"]),
        context_length=text["context_length"],
    )
    model = open_clip.CLIP(**config).eval().requires_grad_(False)
    open_clip.load_checkpoint(model, str(folder / "weights.safetensors"))
    return model, tokenizer


def presence_auc(scores: np.ndarray, present: np.ndarray) -> float:
    """Chance that a random picture with the class scores above one without; ties count half."""
    above = scores[present][:, None] - scores[~present][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def normalize(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 RGB to CLIP's (B, 3, H, W)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return (pixels - mean) / std


def dense_embedding(visual: nn.Module, images: Tensor) -> Tensor:
    """(B, D, H/8, W/8) of unit length: the last block's attention reduced to its value path.

    Attention in which every patch looks only at itself is that path, so a mask does it.
    """
    x = visual._embeds(images)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    only_itself = torch.full((x.shape[1],) * 2, float("-inf")).fill_diagonal_(0.0)
    values = last.attention(last.ln_1(x), attn_mask=only_itself)[:, 1:]
    embedding = F.normalize(visual.ln_post(values) @ visual.proj, dim=-1)
    return embedding.transpose(1, 2).unflatten(2, visual.grid_size)


def measure(folder: Path, split: str) -> dict:
    """All figures of the split; presence and pixels come from the label maps."""
    model, tokenizer = load_clip(folder)
    text = model.encode_text(tokenizer([PROMPT.format(n) for n in CLASS_NAMES]), normalize=True)
    scenes = [generate_scene(SPLIT_SEEDS[split], index) for index in range(SPLITS[split])]
    scores, right, right_with_background = [], [], []
    for start in range(0, len(scenes), BATCH):
        batch = scenes[start : start + BATCH]
        images = normalize(np.stack([scene.image for scene in batch]))
        truth = torch.from_numpy(np.stack([scene.semantic for scene in batch])).long()
        scores.append(model.encode_image(images, normalize=True) @ text.T)
        cosines = torch.einsum("bdhw,cd->bchw", dense_embedding(model.visual, images), text)
        cosines = F.interpolate(cosines, size=truth.shape[-2:], mode="bilinear", align_corners=False)
        objects = truth != BACKGROUND
        right.append((cosines[:, 1:].argmax(1) + 1 == truth)[objects])
        right_with_background.append((cosines.argmax(1) == truth).flatten())
    pooled = torch.cat(scores).numpy()
    auc = {}
    for label, name in enumerate(CLASS_NAMES):
        if label != BACKGROUND:
            present = np.array([label in scene.classes for scene in scenes])
            auc[name] = round(presence_auc(pooled[:, label], present), 4)
    return {
        "presence_auc_mean": round(float(np.mean(list(auc.values()))), 4),
        "presence_auc_min": min(auc.values()),
        "presence_auc": auc,
        "object_pixel_accuracy": round(torch.cat(right).float().mean().item(), 4),
        # Not gated: the same over all pixels, background as thirteenth class.
        "pixel_accuracy_with_background": round(torch.cat(right_with_background).float().mean().item(), 4),
    }


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=REPOSITORY / "hiervl/assets/shapesworld_clip")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks/results/shapesworld_gate.json")
    parser.add_argument("--split", default="val", choices=sorted(SPLITS))
    arguments = parser.parse_args()
    weights = (arguments.weights / "weights.safetensors").read_bytes()
    figures = measure(arguments.weights, arguments.split)
    passed = all(figures[name] >= gate for name, gate in GATES.items())
    result = {
        "passed": passed,
        "gates": GATES,
        **figures,
        "prompt": PROMPT,
        "split": arguments.split,
        "scenes": SPLITS[arguments.split],
        "seed": SPLIT_SEEDS[arguments.split],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "cpu": cpu_model(),
        "date": datetime.date.today().isoformat(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
