"""Learning rate and weight decay of every parameter, and the schedule."""

import pytest
import torch
from torch import nn

from hiervl.engine.solver import build_lr_scheduler, build_optimizer

SOLVER = ("SOLVER.BASE_LR", 0.5, "SOLVER.BACKBONE_MULTIPLIER", 0.25, "SOLVER.WEIGHT_DECAY", 0.125,
          "SOLVER.WEIGHT_DECAY_NORM", 0.0625)  # fmt: skip
DECAYING = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@pytest.mark.parametrize("architecture", ["HierVL", "PixelClassifier"])
def test_every_parameter_has_its_learning_rate_and_weight_decay(make_cfg, make_network, architecture):
    """CLIP's own image encoder learns more slowly, what is added around it does not. The weights of linear and
    convolution layers, and the projections of CLIP's attention, decay as weights; everything else as norms do."""
    overrides = (*SOLVER, "MODEL.META_ARCHITECTURE", architecture, "MODEL.CLIP.TRAINABLE", "all")
    cfg, network = make_cfg(*overrides), make_network(*overrides, trained=False)
    optimizer = build_optimizer(cfg, network)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    weights = {id(module.weight) for module in network.modules() if isinstance(module, DECAYING)}
    weights |= {id(m.in_proj_weight) for m in network.modules() if isinstance(m, nn.MultiheadAttention)}
    clip = {id(parameter) for parameter in network.backbone.visual.parameters()}
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    expected = {
        id(p): (0.125 if id(p) in clip else 0.5, 0.125 if id(p) in weights else 0.0625) for p in trained.values()
    }
    assert found == expected, [name for name, p in trained.items() if found.get(id(p)) != expected[id(p)]]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)  # each once
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"]  # several times faster on a CPU
    # By name, a few whose place matters: beside CLIP's encoder inside the backbone, and everything that is no weight.
    by_name = {name: found[id(p)] for name, p in trained.items()}
    assert by_name["backbone.to_res2.1.weight"] == (0.5, 0.125)
    assert by_name["backbone.visual.transformer.resblocks.0.attn.in_proj_weight"] == (0.125, 0.125)
    assert by_name["backbone.visual.positional_embedding"] == (0.125, 0.0625)
    if architecture == "HierVL":
        assert by_name["backbone.visual_prompts"] == by_name["text_encoder.prompts"] == (0.5, 0.0625)
        assert by_name["query_decoder.instance_queries.weight"] == (0.5, 0.0625)
        assert by_name["pixel_decoder.map_embedding"] == (0.5, 0.0625)


def test_schedule_by_hand(make_cfg):
    """(1 − t/T)^0.9; in the warm-up linearly from the factor to where that curve is at the warm-up's end."""
    cfg = make_cfg("SOLVER.MAX_ITER", 10, "SOLVER.POLY_POWER", 0.9, "SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR",
                   0.1)  # fmt: skip
    optimizer = torch.optim.AdamW([{"params": nn.Parameter(torch.zeros(1)), "lr": lr} for lr in (2.0, 0.5)])
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    end = 0.6**0.9
    start = 0.1 * 1.0  # the factor of the curve's first value
    expected = [start + (end - start) * t / 4 for t in range(4)] + [(1 - t / 10) ** 0.9 for t in range(4, 10)]
    for rate, factor in zip(rates, expected):
        assert rate == pytest.approx([2.0 * factor, 0.5 * factor])
    cfg.SOLVER.WARMUP_ITERS = 0
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2.0)
    build_lr_scheduler(cfg, optimizer)
    assert optimizer.param_groups[0]["lr"] == 2.0
