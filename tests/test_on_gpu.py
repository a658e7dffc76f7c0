"""What only a CUDA device can show: the same numbers as on the CPU, mixed precision, resumption, memory."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.inference.predictor import HierVLPredictor
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.recompute import RECOMPUTABLE

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch):
    """TF32, which convolutions have by default, rounds to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def test_scores_and_gradients_are_those_of_the_cpu(make_network):
    network = make_network().eval()
    images = torch.randint(0, 256, (2, 3, 61, 70), dtype=torch.uint8)
    found = []
    for device in ("cpu", DEVICE):
        network.to(device).zero_grad()
        text = network.encode_text()
        batch = network.normalize(list(images.to(device)))
        scores = network.semantic_scores(network.segment(batch, text), text)
        scores.square().mean().backward()
        gradients = {name: p.grad.cpu() for name, p in network.named_parameters() if p.grad is not None}
        found.append((scores.detach().cpu(), gradients))
    (expected, gradients), (scores, device_gradients) = found
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-3)
    assert device_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        difference = (device_gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < 1e-2, name


def test_predictions_are_those_of_the_cpu(make_network):
    network = make_network().eval()
    classes = [ClassDefinition(name, (name,), (0, 0, 0), not index) for index, name in enumerate(network.class_names)]
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    options = {"crop_size": 64, "scales": (1.0, 0.5), "flip": True}
    expected, found = (HierVLPredictor(network.to(device), classes, **options)(image) for device in ("cpu", DEVICE))
    assert (found.semantic == expected.semantic).mean() > 0.99  # but for ties
    assert np.abs(found.confidence - expected.confidence).max() < 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_resumes(world, options, tmp_path, monkeypatch, dtype):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    settings = ("MODEL.DEVICE", DEVICE, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype)
    for iterations in (20, 40):
        lengths = ("SOLVER.EPOCHS", "0", "SOLVER.MAX_ITER", str(iterations))
        torch.manual_seed(0)
        trainer = SemiSupervisedTrainer(prepare_config(load_config("", options(world, tmp_path, *settings, *lengths))))
        trainer.resume_or_load(resume=True)
        assert trainer.start_iter == iterations - 20
        scores = trainer.train()["sem_seg"]
        assert 0 < scores["mIoU"] <= 100
    lines = map(json.loads, (tmp_path / "metrics.json").read_text().splitlines())
    losses = [row["total_loss"] for row in lines if "total_loss" in row]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def make_batch(side):
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    labels = torch.arange(side).div(side // 4, rounding_mode="floor").expand(side, side).contiguous()
    labeled = {"image": image, "sem_seg": labels}
    unlabeled = {"image_weak": image, "valid": torch.ones(side, side, dtype=torch.bool)}
    for view in "12":
        unlabeled.update({f"image_strong{view}": image, f"cutmix_box{view}": torch.tensor([0, 0, side // 2, side])})
    return {"labeled": [labeled] * 2, "unlabeled": [unlabeled] * 2}


def test_recomputing_takes_less_memory(make_cfg, make_network):
    found = []
    for recompute in (False, True):
        switches = ("MODEL.RECOMPUTE", list(RECOMPUTABLE) if recompute else [])
        student = make_network(*switches)
        step = SemiSupervisedStep.from_config(make_cfg(*switches), student).to(DEVICE).train()
        torch.manual_seed(0)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        losses = {}
        with torch.autocast(DEVICE, torch.bfloat16):
            for part in step.parts(make_batch(256)):
                losses.update({name: loss.item() for name, loss in part.items()})
                sum(part.values()).backward()
        norm = nn.utils.get_total_norm([p.grad for p in student.parameters() if p.grad is not None]).item()
        found.append((losses, norm, torch.cuda.max_memory_allocated() - before))
    (losses, norm, memory), (again, norm_again, less) = found
    assert again == pytest.approx(losses, rel=2e-2) and norm_again == pytest.approx(norm, rel=5e-2)
    assert less < 0.7 * memory
