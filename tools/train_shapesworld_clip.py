"""Train the small CLIP of ShapesWorld from captioned pictures alone; about ten minutes on 2 cores.

    python tools/train_shapesworld_clip.py [--output DIR] [--seed N] [--threads N]

Writes ``shapesworld.json`` (an open_clip model config), ``bpe.txt.gz`` (merges for open_clip's
``SimpleTokenizer``) and ``weights.safetensors`` (half precision). ``benchmarks/shapesworld_gate.py``
measures the result on scenes that no training ever saw.

No label map is read here. What a caption says is used three ways:
- contrast: picture and caption find each other, captions of the same classes count as equal;
- presence: a sigmoid loss of the phrase of each class on the pooled embedding;
- dense presence: the same on the soft maximum over patches of the dense embedding, which is the
  value path of the last block, as the product uses it.
Windows of 32 x 32 with one object come first, at random windows of the position grid, then whole
scenes. Captions of scenes pass over the background; pictures without an object, captioned "a photo
of a background.", and close-ups without background teach that word, so its presence follows from
the kind of picture.
"""

import argparse
import gzip
import json
import multiprocessing
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from hiervl.data import shapesworld
from hiervl.data.shapesworld import CAPTION_TEMPLATES, CLASS_NAMES

REPOSITORY = Path(__file__).resolve().parent.parent
TRAINING_SEED = 101  # of the scenes; no split of shapesworld.SPLIT_SEEDS uses it
PATCH, GRID = 8, 8  # pixels, patches a side of a 64 x 64 picture
WINDOW_GRID = 4  # patches a side of a 32 x 32 window
CONTEXT_LENGTH = 32
VISION = {"image_size": PATCH * GRID, "patch_size": PATCH, "width": 128, "layers": 6,
          "head_width": 32}  # fmt: skip
TEXT = {"context_length": CONTEXT_LENGTH, "width": 64, "heads": 2, "layers": 2}
EMBED_DIM = 128

PEAK_RATE, WEIGHT_DECAY, WARM_UP_STEPS = 1.5e-3, 0.05, 200
# Sharpness of the soft maximum over patches, in units of the presence logits.
SOFT_MAXIMUM_SHARPNESS = 1.0


class Stage(NamedTuple):
    """A stretch of training on one kind of picture."""

    grid: int  # patches a side
    objects: int  # captioned pictures with objects in the pool
    without_object: int
    close_ups: int
    batch: int
    steps: int


STAGES = (
    Stage(WINDOW_GRID, objects=8000, without_object=1000, close_ups=1000, batch=64, steps=1500),
    Stage(GRID, objects=9000, without_object=400, close_ups=400, batch=32, steps=900),
)


class Pool(NamedTuple):
    """Captioned pictures of one size.

    images (N, S, S, 3) uint8; presence (N, C) bool, of objects as the captions say, of the
    background in column 0 by the kind of picture.
    """

    images: np.ndarray
    captions: list[str]
    presence: np.ndarray


# ---------------------------------------------------------------------------- tokens


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order, under which each word becomes a single token."""
    split = [tuple(word[:-1]) + (word[-1] + "</w>",) for word in sorted(set(words))]
    merges = []
    while any(len(parts) > 1 for parts in split):
        pairs = Counter(pair for parts in split for pair in zip(parts, parts[1:]))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merge(parts, best) for parts in split]
    return merges


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    i = 0
    while i < len(parts):
        step = 2 if parts[i : i + 2] == pair else 1
        merged.append("".join(parts[i : i + step]))
        i += step
    return tuple(merged)


def write_merges(path: Path) -> None:
    """Write the merges of the captions' words as open_clip's tokenizer reads them."""
    text = " ".join(CAPTION_TEMPLATES).format(*[""] * len(CAPTION_TEMPLATES))
    words = [word.strip(".,") for word in (text + " and " + " ".join(CLASS_NAMES)).split()]
    lines = ["#version: ShapesWorld"] + [" ".join(m) for m in learn_merges([w for w in words if w])]
    # The tokenizer takes every line after the first for a merge: no newline at the end. A fixed
    # time stamp and no file name keep the bytes equal from run to run.
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write("\n".join(lines).encode("utf-8"))


# ---------------------------------------------------------------------------- pictures


def _draw(kind: str, size: int, index: int) -> shapesworld.Scene:
    if kind == "close_up":
        return shapesworld.generate_close_up(TRAINING_SEED, index, size)
    most = 0 if kind == "without_object" else 1 if size < PATCH * GRID else 4
    return shapesworld.generate_scene(TRAINING_SEED, index, size, most)


def draw_pool(stage: Stage, first_index: int, workers: int) -> Pool:
    """Draw the pictures of a stage, scene indices from ``first_index`` on."""
    images, captions, presence = [], [], []
    with multiprocessing.get_context("fork").Pool(workers) as processes:
        for kind, count in (("objects", stage.objects), ("without_object", stage.without_object),
                            ("close_up", stage.close_ups)):  # fmt: skip
            draw = partial(_draw, kind, PATCH * stage.grid)
            for scene in processes.imap(draw, range(first_index, first_index + count), 64):
                images.append(scene.image)
                captions.append(scene.caption)
                named = [name in scene.caption for name in CLASS_NAMES]
                # A picture of objects has a background though its caption passes over it.
                presence.append([kind != "close_up"] + named[1:])
            first_index += count
    return Pool(np.stack(images), captions, np.array(presence))


def augment(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """One of the eight symmetries for each picture, and brightness; no hue changes, because the
    classes are named by colour. (B, S, S, 3) uint8 to (B, 3, S, S), normalised for CLIP."""
    turned = [np.rot90(image[:, :: rng.choice((1, -1))], rng.integers(4)) for image in images]
    pixels = torch.from_numpy(np.stack(turned)).permute(0, 3, 1, 2).float() / 255.0
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(images), 1, 1, 1)).astype(np.float32))
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return ((pixels * gain).clamp(0, 1) - mean) / std


# ---------------------------------------------------------------------------- model


def model_config(vocabulary: int) -> dict:
    """The open_clip model config; the tokenizer's file is relative to the config's folder."""
    tokens = {"vocab_size": vocabulary, "tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"}}
    return {"embed_dim": EMBED_DIM, "vision_cfg": VISION, "text_cfg": {**TEXT, **tokens}}


def encode_image(visual: nn.Module, images: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled (B, D) and dense (B, P, D) embeddings, both of unit length.

    Args:
        images: (B, 3, S, S), at most as large as the model's own size.
        corners: (B, 2) upper left cell of each picture's window in the position grid.
    """
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, P, width)
    side = images.shape[-1] // PATCH
    cells = torch.arange(side)
    rows, columns = corners[:, :1] + cells, corners[:, 1:] + cells
    places = (rows[:, :, None] * GRID + columns[:, None, :]).flatten(1)  # (B, P)
    x = x + visual.positional_embedding[1:][places]
    class_token = visual.class_embedding + visual.positional_embedding[0]
    x = visual.ln_pre(torch.cat([class_token.expand(len(x), 1, -1), x], dim=1))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    _, _, weight = last.attn.in_proj_weight.chunk(3)
    _, _, bias = last.attn.in_proj_bias.chunk(3)
    dense = last.attn.out_proj(F.linear(last.ln_1(x[:, 1:]), weight, bias))
    pooled = last(x)[:, 0]
    return tuple(F.normalize(visual.ln_post(y) @ visual.proj, dim=-1) for y in (pooled, dense))


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """(N, D) embeddings of unit length; cut to the longest sequence, which changes no result
    because the text encoder looks only backwards."""
    tokens = tokens[:, : int((tokens != 0).sum(1).max())]
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
    return F.normalize(ends @ model.text_projection, dim=-1)


class PresenceHead(nn.Module):
    """Scale and offset from cosine to presence logit, used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.offset = nn.Parameter(torch.tensor(-4.0))

    def forward(self, cosine: Tensor) -> Tensor:
        return self.log_scale.exp() * cosine + self.offset


# ---------------------------------------------------------------------------- losses


def contrastive_loss(logits: Tensor, presence: Tensor) -> Tensor:
    """Cross-entropy both ways between pictures and captions (B, B); captions that name the same
    classes share the target."""
    same = (presence[:, None] == presence[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def soft_maximum(logits: Tensor) -> Tensor:
    """(B, P, C) to (B, C): a maximum over patches whose gradient reaches several of them."""
    sharp = SOFT_MAXIMUM_SHARPNESS * logits
    return (sharp.softmax(dim=1) * logits).sum(dim=1)


def training_step(
    model: nn.Module, heads: nn.ModuleList, images: Tensor, corners: Tensor,
    captions: Tensor, phrases: Tensor, presence: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """The three losses of the module's docstring."""
    pooled, dense = encode_image(model.visual, images, corners)
    text = encode_text(model, torch.cat([phrases, captions]))
    phrases, captions = text[: len(CLASS_NAMES)], text[len(CLASS_NAMES) :]
    present = presence.float()
    # Captions pass over the background, so those of a close-up and of a scene can be the same.
    named = presence[:, 1:]
    return {
        "contrast": contrastive_loss(model.logit_scale.exp() * pooled @ captions.T, named),
        "presence": F.binary_cross_entropy_with_logits(heads[0](pooled @ phrases.T), present),
        "dense": F.binary_cross_entropy_with_logits(soft_maximum(heads[1](dense @ phrases.T)), present),
    }


LOSS_WEIGHTS = {"contrast": 0.5, "presence": 4.0, "dense": 4.0}


# ---------------------------------------------------------------------------- training


def learning_rate(step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to zero; as a factor of ``PEAK_RATE``."""
    return min((step + 1) / WARM_UP_STEPS, 0.5 * (1 + np.cos(np.pi * step / total)))


def train(model: nn.Module, tokenizer, pools: list[Pool], seed: int) -> None:
    """Run all stages with one schedule; the model is changed in place."""
    rng = np.random.default_rng(seed)
    heads = nn.ModuleList([PresenceHead(), PresenceHead()])
    parameters = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    total = sum(stage.steps for stage in STAGES)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate(s, total))
    templates = [tokenizer([t.format(n) for n in CLASS_NAMES]) for t in CAPTION_TEMPLATES]
    phrase_tokens = torch.stack(templates)  # (templates, C, context)
    started, done = time.monotonic(), 0
    for stage, pool in zip(STAGES, pools):
        caption_tokens = tokenizer(pool.captions)
        for _ in range(stage.steps):
            chosen = rng.choice(len(pool.images), stage.batch, replace=False)
            corners = rng.integers(0, GRID - stage.grid + 1, (stage.batch, 2))
            wording = rng.integers(0, len(CAPTION_TEMPLATES), len(CLASS_NAMES))
            losses = training_step(
                model, heads,
                augment(pool.images[chosen], rng), torch.from_numpy(corners),
                caption_tokens[chosen], phrase_tokens[wording, np.arange(len(CLASS_NAMES))],
                torch.from_numpy(pool.presence[chosen]),
            )  # fmt: skip
            optimizer.zero_grad(set_to_none=True)
            sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items()).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=np.log(100.0))
            done += 1
            if done % 50 == 0:
                figures = "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
                print(f"{done:5d}/{total}  {time.monotonic() - started:5.0f} s  {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "hiervl/assets/shapesworld_clip")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and batches")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)

    started = time.monotonic()
    bpe_path = arguments.output / "bpe.txt.gz"
    write_merges(bpe_path)
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(bpe_path), context_length=CONTEXT_LENGTH)
    config = model_config(tokenizer.vocab_size)
    (arguments.output / "shapesworld.json").write_text(json.dumps(config, indent=2) + "\n")

    pools, first_index = [], 0
    for stage in STAGES:
        pools.append(draw_pool(stage, first_index, arguments.threads))
        first_index += len(pools[-1].images)
    print(f"drew {first_index} pictures in {time.monotonic() - started:.0f} s", flush=True)

    model = open_clip.CLIP(**config)
    train(model, tokenizer, pools, arguments.seed)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    (arguments.output / "weights.safetensors").write_bytes(save(weights))
    print(f"finished after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
