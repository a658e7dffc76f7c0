"""Load weights of Mask2Former's pixel and query decoder, from its own files or transformers', into HierVL's decoders.

HierVL's two decoders are Mask2Former's with added parts. Without text queries, mask prior and CMSAM they compute the
same. The parts that HierVL adds keep their initial weights.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hiervl.utils.errors import UserError
from hiervl.utils.foreign_weights import read_foreign_weights

logger = logging.getLogger(__name__)

KEY = "MODEL.DECODER_WEIGHTS"
PARTS = ("pixel_decoder", "query_decoder")
# Units that are loaded completely or not at all: a norm is useless without the convolution that it was trained with.
UNIT = re.compile(r"\w+\.(?:(?:layers|input_projections)\.\d+|\w+)")

_END = r"(weight|bias)"
# Names in the official code. Checkpoints of its first version have no "pixel_decoder.", and "static_query".
_PIXEL = r"sem_seg_head\.(?:pixel_decoder\.)?"
_QUERY = r"sem_seg_head\.predictor\."
# Names in transformers, with and without the head around the model.
_HF_PIXEL = r"(?:model\.)?pixel_level_module\.decoder\."
_HF_QUERY = r"(?:model\.)?transformer_module\."
_HF_LAYER = _HF_QUERY + r"decoder\.layers\.(\d+)\."

NAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (_PIXEL + rf"input_proj\.(\d)\.([01])\.{_END}", r"pixel_decoder.input_projections.\1.\2.\3"),
        (_PIXEL + r"transformer\.level_embed", r"pixel_decoder.map_embedding"),
        (
            _PIXEL + rf"transformer\.encoder\.layers\.(\d+)\.(self_attn\.\w+|norm[12]|linear[12])\.{_END}",
            r"pixel_decoder.layers.\1.\2.\3",
        ),
        (_PIXEL + rf"mask_features\.{_END}", r"pixel_decoder.mask_projection.\1"),
        (_PIXEL + r"adapter_1\.weight", r"pixel_decoder.lateral.0.weight"),
        (_PIXEL + rf"adapter_1\.norm\.{_END}", r"pixel_decoder.lateral.1.\1"),
        (_PIXEL + r"layer_1\.weight", r"pixel_decoder.output.0.weight"),
        (_PIXEL + rf"layer_1\.norm\.{_END}", r"pixel_decoder.output.1.\1"),
        (
            _QUERY + r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
            r"query_decoder.layers.\1.cross_attn.\2",
        ),
        (_QUERY + rf"transformer_cross_attention_layers\.(\d+)\.norm\.{_END}", r"query_decoder.layers.\1.norm1.\2"),
        (
            _QUERY + r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)",
            r"query_decoder.layers.\1.self_attn.\2",
        ),
        (_QUERY + rf"transformer_self_attention_layers\.(\d+)\.norm\.{_END}", r"query_decoder.layers.\1.norm2.\2"),
        (_QUERY + rf"transformer_ffn_layers\.(\d+)\.(linear[12])\.{_END}", r"query_decoder.layers.\1.\2.\3"),
        (_QUERY + rf"transformer_ffn_layers\.(\d+)\.norm\.{_END}", r"query_decoder.layers.\1.norm3.\2"),
        (_QUERY + rf"decoder_norm\.{_END}", r"query_decoder.norm.\1"),
        (_QUERY + r"(?:query_feat|static_query)\.weight", r"query_decoder.instance_queries.weight"),
        (_QUERY + r"query_embed\.weight", r"query_decoder.instance_position.weight"),
        (_QUERY + r"level_embed\.weight", r"query_decoder.map_embedding.weight"),
        (_QUERY + rf"class_embed\.{_END}", r"query_decoder.class_head.\1"),
        (_QUERY + rf"mask_embed\.layers\.(\d)\.{_END}", r"query_decoder.mask_head.layers.\1.\2"),
        (_HF_PIXEL + rf"input_projections\.(\d)\.([01])\.{_END}", r"pixel_decoder.input_projections.\1.\2.\3"),
        (_HF_PIXEL + r"level_embed", r"pixel_decoder.map_embedding"),
        (_HF_PIXEL + rf"encoder\.layers\.(\d+)\.(self_attn\.\w+)\.{_END}", r"pixel_decoder.layers.\1.\2.\3"),
        (_HF_PIXEL + rf"encoder\.layers\.(\d+)\.self_attn_layer_norm\.{_END}", r"pixel_decoder.layers.\1.norm1.\2"),
        (_HF_PIXEL + rf"encoder\.layers\.(\d+)\.fc([12])\.{_END}", r"pixel_decoder.layers.\1.linear\2.\3"),
        (_HF_PIXEL + rf"encoder\.layers\.(\d+)\.final_layer_norm\.{_END}", r"pixel_decoder.layers.\1.norm2.\2"),
        (_HF_PIXEL + rf"mask_projection\.{_END}", r"pixel_decoder.mask_projection.\1"),
        (_HF_PIXEL + rf"adapter_1\.([01])\.{_END}", r"pixel_decoder.lateral.\1.\2"),
        (_HF_PIXEL + rf"layer_1\.([01])\.{_END}", r"pixel_decoder.output.\1.\2"),
        (_HF_LAYER + r"(cross_attn|self_attn)\.(.+)", r"query_decoder.layers.\1.\2.\3"),
        (_HF_LAYER + rf"cross_attn_layer_norm\.{_END}", r"query_decoder.layers.\1.norm1.\2"),
        (_HF_LAYER + rf"self_attn_layer_norm\.{_END}", r"query_decoder.layers.\1.norm2.\2"),
        (_HF_LAYER + rf"fc([12])\.{_END}", r"query_decoder.layers.\1.linear\2.\3"),
        (_HF_LAYER + rf"final_layer_norm\.{_END}", r"query_decoder.layers.\1.norm3.\2"),
        (_HF_QUERY + rf"decoder\.layernorm\.{_END}", r"query_decoder.norm.\1"),
        (_HF_QUERY + r"queries_features\.weight", r"query_decoder.instance_queries.weight"),
        (_HF_QUERY + r"queries_embedder\.weight", r"query_decoder.instance_position.weight"),
        (_HF_QUERY + r"level_embed\.weight", r"query_decoder.map_embedding.weight"),
        (
            _HF_QUERY + rf"decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.{_END}",
            r"query_decoder.mask_head.layers.\1.\2",
        ),
        (rf"class_predictor\.{_END}", r"query_decoder.class_head.\1"),
    )
]


class Loaded(NamedTuple):
    """What happened to the parts of the two decoders, by their names in HierVL."""

    taken: list[str]
    unfit: dict[str, str]  # in the file, but not loaded → why
    kept: list[str]  # parts of HierVL that the file does not hold


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of both decoders under HierVL's names, without other parts such as the encoder."""
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        for pattern, replacement in NAMES:
            found = pattern.fullmatch(name)
            if found:
                converted.update(_split(found.expand(replacement), value))
                break
    return converted


def _split(name: str, value: Tensor) -> dict[str, Tensor]:
    """PyTorch's attention keeps the query, key and value projections in one tensor; split it."""
    start, joint, end = name.partition("in_proj_")
    if not joint:
        return {name: value}
    return {f"{start}{letter}_proj.{end}": part for letter, part in zip("qkv", value.chunk(3))}


def load_decoder_weights(network: nn.Module, path: str) -> Loaded:
    """Load from a Mask2Former checkpoint what fits into ``network.pixel_decoder`` and ``network.query_decoder``.

    Args:
        path: a .pkl of the official code, or a .bin, .pth or .safetensors file with its or transformers' names.

    Raises:
        UserError: the file is missing or damaged, holds no such decoders, or nothing fits.
    """
    converted = convert(read_foreign_weights(path, KEY))
    if not converted:
        raise UserError(f"{KEY}: '{path}' holds no pixel or query decoder of Mask2Former.")
    loaded = copy_fitting(network, converted)
    if not loaded.taken:
        name, reason = next(iter(loaded.unfit.items()))
        raise UserError(
            f"{KEY}: nothing in '{path}' fits, {name} for example {reason}; published models have "
            "MODEL.PIXEL_DECODER.DIM 256 and FEEDFORWARD 1024, MODEL.QUERY_DECODER.FEEDFORWARD 2048."
        )
    logger.info("%s: taken from %s: %s.", KEY, path, _listed(loaded.taken))
    if loaded.unfit:
        reasons = [f"{name} {reason}" for name, reason in loaded.unfit.items()]
        logger.warning("%s: not taken from %s: %s.", KEY, path, "; ".join(reasons))
    if loaded.kept:
        logger.info("%s: not in %s, so left as initialized: %s.", KEY, path, _listed(loaded.kept))
    return loaded


@torch.no_grad()
def copy_fitting(network: nn.Module, converted: Mapping[str, Tensor]) -> Loaded:
    """Copy weights unit by unit (a layer, a projection …) where every shape of the unit fits."""
    own = {name: value for name, value in network.state_dict().items() if name.startswith(PARTS)}
    units: dict[str, list[str]] = {}
    for name in converted:
        units.setdefault(_unit(name), []).append(name)
    taken, unfit = [], {}
    for unit, names in units.items():
        reason = next(filter(None, (_misfit(unit, name, converted[name], own.get(name)) for name in names)), "")
        if reason:
            unfit[unit] = reason
            continue
        for name in names:
            own[name].copy_(converted[name])
        taken.append(unit)
    kept = dict.fromkeys(unit for unit in map(_unit, own) if unit not in units)
    return Loaded(taken, unfit, list(kept))


def _unit(name: str) -> str:
    found = UNIT.match(name)
    return found.group() if found else name


def _misfit(unit: str, name: str, value: Tensor, own: Tensor | None) -> str:
    part = name[len(unit) + 1 :]
    if own is None:
        return "is not in this network"
    if value.shape == own.shape:
        return ""
    sizes = ("×".join(map(str, shape)) for shape in (value.shape, own.shape))
    return "has {} of {} in place of {}".format(part, *sizes)


def _listed(units: Iterable[str]) -> str:
    """For the log: layers with their count, everything else by name."""
    counts: dict[str, int] = {}
    for unit in units:
        name = re.sub(r"\.\d+$", "", unit)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in counts.items())
