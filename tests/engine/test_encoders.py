"""One small model of every family of image encoders: trains, is saved, restored without a network, and predicts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
FAMILIES = {  # the image side; trunks are timm's own for tests
    "efficientnet": {"image_size": 64, "timm_model_name": "test_efficientnet", "timm_pool": "", "timm_proj": "linear"},
    "convnext": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
}


def write_clip(family: str, folder: Path) -> tuple[str, str]:
    """An open_clip model config of the family, and weights whose biases are not 0 either."""
    from hiervl.modeling.clip import load_clip

    path, weights = folder / f"tiny_{family}.json", folder / "weights.pt"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": FAMILIES[family], "text_cfg": TEXT}))
    torch.manual_seed(0)
    clip, *_ = load_clip(str(path), "")
    with torch.no_grad():
        for parameter in clip.visual.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(clip.state_dict(), weights)
    return str(path), str(weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_is_saved_restored_and_predicts(family, world, tmp_path, options):
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer
    from hiervl.inference.predictor import HierVLPredictor

    torch.set_num_threads(1)
    os.environ["DETECTRON2_DATASETS"] = str(world)
    name, weights = write_clip(family, tmp_path)
    extra = [
        "MODEL.CLIP.NAME", name, "MODEL.CLIP.PRETRAINED", weights, "MODEL.CLIP.BLOCKS", "[]",
        "MODEL.CLIP.TRAINABLE", "all", "MODEL.CLIP.FROZEN_STAGES", "1", "LOSS.MASKED_CONSISTENCY", "0.5",
        "SEMI.GUIDANCE_WEIGHT", "0.5", "SOLVER.MAX_ITER", "2", "SOLVER.BACKBONE_MULTIPLIER", "1.0",
        "TEST.NETWORK", "student",
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
