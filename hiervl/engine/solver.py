"""Optimiser and learning-rate schedule (design §3)."""

from collections.abc import Iterator

import torch
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the trained parameters.

    The image encoder has ``SOLVER.BACKBONE_MULTIPLIER`` × the base rate. Norms, biases, embeddings and prompts
    (everything except weights of linear and convolution layers) have ``SOLVER.WEIGHT_DECAY_NORM``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter, decays in _trained_parameters(model):
        is_new = not name.startswith("backbone.visual.") or (
            cfg.MODEL.ENCODER.NAME and name.startswith("backbone.visual.head.")
        )
        multiplier = 1.0 if is_new else cfg.SOLVER.BACKBONE_MULTIPLIER
        decay = cfg.SOLVER.WEIGHT_DECAY if decays else cfg.SOLVER.WEIGHT_DECAY_NORM
        groups.setdefault((cfg.SOLVER.BASE_LR * multiplier, decay), []).append(parameter)
    on_cpu = all(parameter.device.type == "cpu" for parameters in groups.values() for parameter in parameters)
    return torch.optim.AdamW(
        [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()],
        lr=cfg.SOLVER.BASE_LR,
        fused=True if on_cpu else None,  # a fifth of the time; on other devices PyTorch chooses
    )


def _trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name, parameter, and whether weight decay applies to it. Every parameter comes once."""
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            decays = parameter.dim() > 1 and "weight" in name and not isinstance(module, (*NORMS, nn.Embedding))
            yield f"{module_name}.{name}", parameter, decays


def build_lr_scheduler(cfg, optimizer: torch.optim.Optimizer):
    """``WarmupPolyLR``: (1 − t/T)^``SOLVER.POLY_POWER`` after a linear warm-up; else one of Detectron2's."""
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    schedule = PolynomialDecayParamScheduler(1.0, cfg.SOLVER.POLY_POWER)
    warmup = min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0)
    if warmup:
        schedule = WarmupParamScheduler(schedule, cfg.SOLVER.WARMUP_FACTOR, warmup, cfg.SOLVER.WARMUP_METHOD)
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=cfg.SOLVER.MAX_ITER)
