"""One small model of every family of image encoders, built here with random weights and small trunks of timm."""

import json
from pathlib import Path
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer

CONTEXT, WIDTH = 24, 16
CLIP_TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 1}
SIGLIP_TEXT = {
    "context_length": CONTEXT, "vocab_size": 64, "width": WIDTH, "heads": 2, "layers": 1, "pool_type": "last",
    "no_causal_mask": True, "proj_bias": True, "hf_tokenizer_name": "someone/tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip


@register_model
def tiny_siglip_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Like the trunks of SigLIP, and unlike timm's own small models, it has no token beside the patches."""
    sizes = {"img_size": 160, "patch_size": 16, "embed_dim": 96, "depth": 9, "num_heads": 3, "mlp_ratio": 2}
    options = {**sizes, "class_token": False, "global_pool": "map", **options}
    return build_model_with_cfg(VisionTransformer, "tiny_siglip_vit", pretrained, **options)


def timm_visual(trunk: str, pool: str = "", proj: str | None = "linear", size: int = 160) -> dict[str, Any]:
    return {"image_size": size, "timm_model_name": trunk, "timm_pool": pool, "timm_proj": proj}


# name → image side, text side, further keys of the model
FAMILIES: dict[str, tuple[dict, dict, dict]] = {
    "vit": ({"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}, CLIP_TEXT, {}),
    "resnet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}, CLIP_TEXT, {}),
    "efficientnet": (timm_visual("test_efficientnet"), CLIP_TEXT, {}),
    "convnext": (timm_visual("test_convnext", proj="mlp"), CLIP_TEXT, {}),
    "mobileclip": (
        timm_visual("fastvit_t8", "avg", None, 64),
        {**CLIP_TEXT, "no_causal_mask": True},
        {"custom_text": True},
    ),
    "eva": (timm_visual("eva02_tiny_patch14_224", "token", None, 224), CLIP_TEXT, {"custom_text": True}),
    "siglip": (timm_visual("tiny_siglip_vit", "map", "none"), SIGLIP_TEXT, {"custom_text": True}),
    "gap": (timm_visual("test_vit2", "avg", None), CLIP_TEXT, {}),
}


def write_clip(family: str, folder: Path) -> str:
    """An open_clip model config of the family; SigLIP's embedding is as wide as its trunk."""
    vision, text, further = FAMILIES[family]
    path = folder / f"tiny_{family}.json"
    embed_dim = 96 if family == "siglip" else WIDTH
    path.write_text(json.dumps({"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, **further}))
    return str(path)


def write_tokenizer(folder: Path) -> str:
    """A folder with a tokenizer as the hub has them: no start token, an end token, padded on the right."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<pad>", "</s>", "<unk>", *letters, *(f"##{letter}" for letter in letters)]
    model = models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    path = folder / "tokenizer"
    fast.save_pretrained(str(path))
    return str(path)


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Move all weights and statistics, so that no bias is 0 and no scale 1: a part left out then shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.1 * torch.rand_like(buffer))
