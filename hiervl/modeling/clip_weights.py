"""CLIP's weights in files that open_clip does not read: OpenAI's TorchScript archives and transformers' layout.

Both become a state dict with open_clip's names. The activation is read from the file separately: GELU and QuickGELU
give different results, and the shapes of weights do not show which one is right.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors import safe_open
from torch import Tensor, nn

from hiervl.utils.errors import UserError
from hiervl.utils.torchscript_file import is_torchscript, read_torchscript

QUICK_GELU = "-quickgelu"  # end of open_clip's names of models with that activation
# Tensors in OpenAI's archives that are not weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
MAX_NAMED = 3  # how many models an error proposes

IN_TRANSFORMERS = "vision_model.embeddings.patch_embedding.weight"
NO_WEIGHTS_IN_TRANSFORMERS = "position_ids"
# transformers' name → open_clip's name. The second list is for names inside the blocks.
OF_CLIP = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    IN_TRANSFORMERS: "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # sic
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
TRANSPOSED = ("text_projection.weight", "visual_projection.weight")  # layers there, matrices here
BLOCK = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
BLOCK_PREFIXES = {"text": "transformer", "vision": "visual.transformer"}
OF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
PROJECTIONS = tuple(f"self_attn.{letter}_proj" for letter in "qkv")  # one tensor in open_clip


def read_foreign(path: str) -> dict[str, Tensor] | None:
    """Weights of an OpenAI archive or of transformers' layout, with open_clip's names; None for other files.

    Raises:
        UserError: the file is one of the two, but damaged.
    """
    if is_torchscript(path):
        try:
            state = read_torchscript(path)
        except ValueError as error:
            raise UserError(
                f"MODEL.CLIP.PRETRAINED: '{path}' is a TorchScript archive that cannot be read ({error}): it is "
                "damaged, or not OpenAI's; give another file."
            ) from error
        return {name: tensor for name, tensor in state.items() if name.split(".")[-1] not in NOT_WEIGHTS}
    if IN_TRANSFORMERS not in _names(path):
        return None
    return from_transformers(open_clip.factory.load_state_dict(path))


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' ``CLIPModel`` with open_clip's names. Unknown names stay."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = BLOCK.fullmatch(name)
        if name in OF_CLIP:
            found[OF_CLIP[name]] = tensor.T if name in TRANSPOSED else tensor
        elif block is None:
            if not name.endswith(NO_WEIGHTS_IN_TRANSFORMERS):
                found[name] = tensor
        else:
            side, number, part, kind = block.groups()
            prefix = f"{BLOCK_PREFIXES[side]}.resblocks.{number}"
            if part in OF_BLOCK:
                found[f"{prefix}.{OF_BLOCK[part]}.{kind}"] = tensor
            elif part == PROJECTIONS[0]:
                parts = [state.get(name.replace(part, projection)) for projection in PROJECTIONS]
                known = [projection for projection in parts if projection is not None]
                if len(known) == len(parts):
                    found[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(known)
    return found


def uses_quick_gelu(path: str) -> bool | None:
    """Whether the weights in a file were trained with QuickGELU; None: unknown.

    OpenAI's were, and only OpenAI published TorchScript archives. transformers puts a config.json beside its files.
    """
    if is_torchscript(path):
        return True
    config = Path(path).with_name("config.json")
    if IN_TRANSFORMERS not in _names(path) or not config.is_file():
        return None
    try:
        vision = json.loads(config.read_text(encoding="utf-8"))["vision_config"]
        return vision.get("hidden_act", "quick_gelu") == "quick_gelu"  # transformers' default
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def with_activation(name: str, quick_gelu: bool) -> str:
    """Name of the open_clip model ``name`` with QuickGELU, or without it."""
    other = name.removesuffix(QUICK_GELU) + QUICK_GELU * quick_gelu
    return other if open_clip.get_model_config(other) is not None else name


def has_quick_gelu(name: str) -> bool:
    """Whether an open_clip model computes with QuickGELU."""
    return bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))


def load_state(model: nn.Module, state: dict[str, Tensor], name: str, path: str) -> None:
    """Load weights with open_clip's names. Position embeddings of another image size are interpolated, as in open_clip.

    Raises:
        UserError: the weights are not of the architecture ``name``.
    """
    state = dict(state)
    if "visual.positional_embedding" in state:
        open_clip.model.resize_pos_embed(state, model)
    if "positional_embedding" in state:
        open_clip.model.resize_text_pos_embed(state, model)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(tuple(model.state_dict()["logit_scale"].shape))
    refuse_other_architecture(model, state, name, path)
    model.load_state_dict(state)


def refuse_other_architecture(model: nn.Module, state: dict[str, Tensor], name: str, path: str) -> None:
    """Raise a UserError that names a difference between weights and model, and models that fit."""
    difference = next(_differences(model.state_dict(), state), None)
    if difference is None:
        return
    fitting = ", ".join(models_of(state)[:MAX_NAMED])
    sizes = f"; its sizes are those of {fitting}" if fitting else ""
    raise UserError(
        f"MODEL.CLIP.PRETRAINED: '{path}' holds another architecture than MODEL.CLIP.NAME '{name}' ({difference})"
        f"{sizes}: set MODEL.CLIP.NAME to the model of the file, or give a file of '{name}'."
    )


def _differences(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        if name not in given:
            yield f"it has no {name}"
        elif given[name].shape != tensor.shape:
            sizes = ("×".join(map(str, shape)) or "one number" for shape in (given[name].shape, tensor.shape))
            yield f"{name} is {{}}, not {{}}".format(*sizes)
    yield from (f"{name} belongs to no part" for name in given if name not in wanted)


def models_of(state: dict[str, Tensor]) -> list[str]:
    """open_clip's models with the sizes of the weights, OpenAI's first."""
    try:
        sizes = {
            "embed_dim": state["visual.proj"].shape[1],
            "width": state["visual.conv1.weight"].shape[0],
            "patch_size": state["visual.conv1.weight"].shape[-1],
            "patches": state["visual.positional_embedding"].shape[0] - 1,
            "layers": _depth(state, "visual.transformer"),
            "text_width": state["token_embedding.weight"].shape[1],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "context_length": state["positional_embedding"].shape[0],
            "text_layers": _depth(state, "transformer"),
        }
    except (KeyError, IndexError):
        return []
    found = [name for name in open_clip.list_models() if _sizes(open_clip.get_model_config(name)) == sizes]
    return sorted(found, key=lambda name: (not name.endswith(QUICK_GELU), name))


def _sizes(config: dict[str, Any]) -> dict[str, int] | None:
    """The same sizes from a model config; None if a part is not of CLIP's own layout."""
    try:
        vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
        if vision.timm_model_name or text.hf_model_name or config.get("custom_text") or "multimodal_cfg" in config:
            return None
        return {
            "embed_dim": config["embed_dim"],
            "width": vision.width,
            "patch_size": vision.patch_size,
            "patches": (vision.image_size // vision.patch_size) ** 2,
            "layers": vision.layers,
            "text_width": text.width,
            "vocab_size": text.vocab_size,
            "context_length": text.context_length,
            "text_layers": text.layers,
        }
    except (KeyError, TypeError):
        return None


def _depth(state: Iterable[str], side: str) -> int:
    prefix = f"{side}.resblocks."
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _names(path: str) -> set[str]:
    """Names of the tensors in a file, without reading the tensors. Empty if the file is unreadable; open_clip then says
    why."""
    try:
        if path.endswith(".safetensors"):
            with safe_open(path, "pt") as file:
                return set(file.keys())
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return set(content) if isinstance(content, dict) else set()
    except Exception:  # safetensors and torch raise many kinds of errors for damaged or other files
        return set()
