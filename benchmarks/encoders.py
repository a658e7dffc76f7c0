"""Every family of image encoders that HierVL reads, as the table of docs/encoders.md.

    python -m benchmarks.encoders [--families NAME …] [--threads N]

Weights are random: the table says what is built and that it computes what open_clip computes, not what it knows.
"""

import argparse
import time
from typing import NamedTuple

import torch
from torch.nn import functional as F

from hiervl.modeling.clip import load_model
from hiervl.modeling.encoders import encoder_class
from hiervl.modeling.text_encoder import PromptedTextEncoder
from hiervl.modeling.tokens import TextTokens, load_tokens


class Family(NamedTuple):
    """A row of the table."""

    title: str
    model: str  # of open_clip, the smallest of the family
    dense: str  # what the dense embedding is


LONE, POOL, LAST = "last block, each patch alone", "value path of the attention pool", "last map through the head"
FAMILIES = {
    "clip": Family("CLIP's ViTs (OpenAI, LAION, DataComp, MetaCLIP, DFN)", "ViT-B-32", LONE),
    "resnet": Family("OpenAI's ResNets", "RN50", POOL),
    "convnext": Family("ConvNeXt-CLIP", "convnext_base", LAST),
    "eva02": Family("EVA, EVA02", "EVA02-B-16", LONE),
    "siglip": Family("SigLIP, SigLIP 2", "ViT-B-16-SigLIP", POOL),
    "mobileclip_s": Family("MobileCLIP-S, MobileCLIP2-S", "MobileCLIP-S1", LAST),
    "mobileclip_b": Family("MobileCLIP-B, MobileCLIP2-B, -L", "MobileCLIP-B", LONE),
    "pe": Family("Perception Encoder (PE-Core)", "PE-Core-B-16", POOL),
    "vitamin": Family("ViTamin", "ViTamin-S", "patches through the head"),
    "lite": Family("EfficientNet, and other convolutions of timm", "imagenet-lite", LAST),
}
SIDE, REPEATS = 224, 2
TEXTS = ("a photo of a cat.", "a photo of a traffic light.")


@torch.no_grad()
def measure(family: Family) -> str:
    """One row of the table."""
    torch.manual_seed(0)
    clip = load_model(family.model, "").eval()
    text = text_difference(clip, family.model)
    sizes = clip.visual.image_size
    height, width = sizes if isinstance(sizes, tuple) else (sizes, sizes)
    images = torch.randn(1, 3, height, width)
    expected = clip.encode_image(images, normalize=True)
    parameters = sum(parameter.numel() for parameter in clip.visual.parameters())
    options = {} if family.dense == LAST or family.model.startswith("RN") else {"num_prompts": 0}
    encoder = encoder_class(clip.visual, family.model)(clip.visual, **options).eval()
    pooled = (encoder(images)["pooled_embedding"] - expected).abs().max().item()
    side = -(-SIDE // encoder.size_divisibility) * encoder.size_divisibility
    images = torch.randn(1, 3, side, side)
    encoder(images)
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        encoder(images)
        seconds.append(time.process_time() - started)
    cells = [family.title, family.model, encoder.dense_stride, family.dense, f"{parameters / 1e6:.1f}",
             f"{1000 * min(seconds):.0f}", f"{pooled:.0e}", text]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def text_difference(clip: torch.nn.Module, name: str) -> str:
    """Largest difference of the text embeddings; with a tokenizer that is on a hub, of made-up token ids."""
    from hiervl.modeling.clip import config_file, model_config

    config = model_config(name)
    context = clip.context_length
    if "hf_tokenizer_name" in config["text_cfg"]:
        ids = {text: torch.randint(2, clip.vocab_size, (7,)).tolist() for text in TEXTS}
        tokens = TextTokens(lambda text: ids[text], (), (1,), 0)
        whole = torch.zeros(len(TEXTS), context, dtype=torch.long)
        for row, text in zip(whole, TEXTS):
            row[:8] = torch.tensor([*ids[text], 1])
    else:
        tokens = load_tokens(config, config_file(name))
        whole = torch.zeros(len(TEXTS), context, dtype=torch.long)
        for row, text in zip(whole, TEXTS):
            found = [*tokens.prefix, *tokens.encode(text), *tokens.suffix]
            row[: len(found)] = torch.tensor(found)
    encoder = PromptedTextEncoder(clip, tokens, [[text] for text in TEXTS], num_prompts=0, template="{}").eval()
    difference = encoder().text_embeddings - F.normalize(clip.encode_text(whole), dim=-1)
    return f"{difference.abs().max().item():.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        "| family | measured with | grid stride | dense embedding | M parameters | CPU ms | pooled | text |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.families:
        print(measure(FAMILIES[name]), flush=True)


if __name__ == "__main__":
    main()
