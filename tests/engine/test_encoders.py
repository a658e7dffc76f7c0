"""One small model of every family of image encoders: trains, is saved, restored without a network, and predicts."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

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
