"""One small model of every family of image encoders: trains, is saved, restored without a network, and predicts."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from tests.families import FAMILIES, shake, write_clip, write_tokenizer

# The same code reads the others; tests/modeling/test_encoder_families.py has them all.
TRAINED = [family for family in FAMILIES if family not in ("vit", "gap", "mobileclip")]


@pytest.mark.parametrize("family", TRAINED)
def test_a_family_trains_is_saved_restored_and_predicts(family, world, tmp_path, options):
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer
    from hiervl.inference.predictor import HierVLPredictor
    from hiervl.modeling.clip import load_model

    torch.set_num_threads(1)
    os.environ["DETECTRON2_DATASETS"] = str(world)
    name, weights = write_clip(family, tmp_path), str(tmp_path / "weights.pt")
    tokenizer = write_tokenizer(tmp_path) if family == "siglip" else ""
    clip = load_model(name, "")
    shake(clip)
    torch.save(clip.state_dict(), weights)
    extra = [
        "MODEL.CLIP.NAME", name, "MODEL.CLIP.PRETRAINED", weights, "MODEL.CLIP.TOKENIZER", tokenizer,
        "MODEL.CLIP.BLOCKS", "[]", "MODEL.CLIP.TRAINABLE", "all", "MODEL.CLIP.FROZEN_STAGES", "1",
        "LOSS.MASKED_CONSISTENCY", "0.5", "SEMI.GUIDANCE_WEIGHT", "0.5", "SOLVER.MAX_ITER", "2",
        "SOLVER.BACKBONE_MULTIPLIER", "1.0", "TEST.NETWORK", "student", "MODEL.TEXT.PROMPT_INIT", "a photo of a",
        "MODEL.TEXT.PROMPTS", "3", "MODEL.TEXT.TEMPLATE", "a {}.",
    ]  # fmt: skip
    cfg = prepare_config(load_config("", options(world, tmp_path / "run", *extra)))
    trainer = SemiSupervisedTrainer(cfg)
    visual = trainer.student.backbone.visual
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    trainer.resume_or_load(False)
    assert np.isfinite(trainer.train()["sem_seg"]["mIoU"])
    trained = {name for name, parameter in visual.named_parameters() if parameter.requires_grad}
    changed = {name for name, value in visual.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and changed <= trained and trained < set(before)

    for file in (name, weights):  # the checkpoint brings them
        Path(file).unlink()
    predictor = HierVLPredictor.from_checkpoint(tmp_path / "run" / "model_final.pth", device="cpu")
    image = 255 * torch.rand(3, 40, 72, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trainer.student.eval().semantic_maps(image[None])
        torch.testing.assert_close(predictor.network.semantic_maps(image[None]), expected)
    assert predictor(image.byte()).semantic.shape == (40, 72)


@pytest.mark.parametrize("trunk", ["test_vit", "test_convnext"])
def test_an_encoder_without_language_learns_beside_a_frozen_clip(trunk, world, tmp_path, options):
    """Grid, statistics and padding are not CLIP's; CLIP's weights come from their file, not from the run."""
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.solver import build_optimizer
    from hiervl.engine.trainer import SemiSupervisedTrainer
    from hiervl.inference.predictor import HierVLPredictor
    from hiervl.modeling.clip import load_model

    torch.set_num_threads(1)
    os.environ["DETECTRON2_DATASETS"] = str(world)
    clip = load_model(str(world / "tiny_clip.json"), "")
    shake(clip)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    pretrained = timm.create_model(trunk, num_classes=0)
    shake(pretrained)
    torch.save(pretrained.state_dict(), tmp_path / "trunk.pth")
    extra = [
        "MODEL.CLIP.PRETRAINED", str(tmp_path / "clip.pt"), "MODEL.ENCODER.NAME", trunk,
        "MODEL.ENCODER.PRETRAINED", str(tmp_path / "trunk.pth"),
        "MODEL.CLIP.BLOCKS", "[]", "MODEL.CLIP.TRAINABLE", "all", "MODEL.CLIP.FROZEN_STAGES", "1",
        "LOSS.MASKED_CONSISTENCY", "0.5", "SEMI.GUIDANCE_WEIGHT", "0.5", "SOLVER.MAX_ITER", "2", "TEST.NETWORK",
        "student",
    ]  # fmt: skip
    cfg = prepare_config(load_config("", options(world, tmp_path / "run", *extra)))
    assert list(cfg.MODEL.PIXEL_MEAN) == [127.5] * 3
    trainer = SemiSupervisedTrainer(cfg)
    network = trainer.student
    for name, value in pretrained.state_dict().items():
        torch.testing.assert_close(network.backbone.visual.trunk.state_dict()[name], value)
    head = network.backbone.visual.head.proj.weight
    rates = {id(p): group["lr"] for group in build_optimizer(cfg, network).param_groups for p in group["params"]}
    assert rates[id(head)] == cfg.SOLVER.BASE_LR > max(rates[id(p)] for p in network.backbone.visual.trunk.parameters()
                                                       if id(p) in rates)  # fmt: skip
    before, frozen = head.detach().clone(), network.frozen_clip
    trainer.resume_or_load(False)
    trainer.train()
    assert not torch.equal(head, before)
    logged = (tmp_path / "run" / "metrics.json").read_text()
    assert "loss_joint_embedding" in logged and "loss_clip_guidance" in logged

    # What the network asks CLIP is what CLIP itself says of the image, resized to a size that it can take.
    image = 255 * torch.rand(1, 3, 40, 72, generator=torch.Generator().manual_seed(0))
    batch = network.normalize(list(image))
    pixels = batch * network.pixel_std + network.pixel_mean
    mean, std = (255 * torch.tensor(part).view(3, 1, 1) for part in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    size = [round(side / 16) * 16 for side in batch.shape[2:]]
    seen = torch.nn.functional.interpolate((pixels - mean) / std, size=size, mode="bilinear", align_corners=False)
    with torch.no_grad():
        output = network.eval().segment(batch, network.encode_text())
        torch.testing.assert_close(output.features["pooled_embedding"], frozen.encoder.embeddings(seen)[1])
        joint = output.features["joint_embedding"]
        assert joint.shape[2:] != output.features["dense_embedding"].shape[2:]
        expected = network.semantic_maps(image)
        predictor = HierVLPredictor.from_checkpoint(tmp_path / "run" / "model_final.pth", device="cpu")
        torch.testing.assert_close(predictor.network.semantic_maps(image), expected)
