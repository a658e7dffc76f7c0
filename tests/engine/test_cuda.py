"""A training step and predictions as on CUDA, without a GPU: no operation mixes devices, no value becomes NumPy's."""

import contextlib

import numpy as np
import pytest
import torch

from benchmarks.fake_cuda import fake_cuda, move_to_cuda
from hiervl.semi_supervised.step import SemiSupervisedStep

SIDE = 32
SHALLOW = ("MODEL.PIXEL_DECODER.LAYERS", 1, "MODEL.QUERY_DECODER.LAYERS", 1)  # every further layer is as the first
EVERYTHING = (
    "SEMI.THRESHOLD", "class", "LOSS.PIXEL_BALANCE", 0.5, "MODEL.HSQG.GROUND_TRUTH_PRESENCE", True,
    "MODEL.QUERY_DECODER.CLASSIFIER", "mean", "MODEL.CLIP.DETAIL_MAPS", 4,
    "SEMI.COLOR_TRANSFER", 1.0, "SEMI.COLOR_AGREEMENT", True, "SEMI.CLASS_MIX", 1.0,
)  # fmt: skip


def batch():
    """As the loader hands it over, on the CPU."""
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    valid = torch.ones(SIDE, SIDE, dtype=torch.bool)
    labeled = {"image": image, "sem_seg": labels, "instance_ids": labels, "valid": valid}
    unlabeled = {"image_weak": image, "valid": valid}
    for view in "12":
        unlabeled.update({f"image_strong{view}": image, f"cutmix_box{view}": torch.zeros(4, dtype=torch.int64)})
    return {"labeled": [labeled] * 2, "unlabeled": [unlabeled] * 2}


@pytest.mark.parametrize(
    "dtype, overrides",
    [
        (torch.bfloat16, EVERYTHING),
        (torch.float16, ("LOSS.ASSIGNMENT", "hungarian", "SEMI.TEACHER", "student")),
        (None, ("MODEL.META_ARCHITECTURE", "PixelClassifier", "LOSS.MASKED_CONSISTENCY", 0.0, "LOSS.PIXEL_TEXT", 0.0)),
    ],
)
def test_a_step_stays_on_the_device(make_cfg, make_network, monkeypatch, dtype, overrides):
    """The losses come in float32 there, whatever the mixed precision."""
    student = make_network(*SHALLOW, *overrides, trained=False)
    step = SemiSupervisedStep.from_config(make_cfg(*SHALLOW, *overrides), student).train()
    with fake_cuda(monkeypatch) as mode:
        move_to_cuda(step, mode)
        with torch.autocast("cuda", dtype) if dtype else contextlib.nullcontext():
            losses = step(batch())
        step.update_teacher()
        assert {"loss_pixel", "loss_strong1", "loss_strong2", "loss_feature_perturbation"} <= losses.keys()
        for name, value in {**losses, **step.statistics}.items():
            assert (value.device.type, value.dtype) == ("cuda", torch.float32), name
        scores = student.eval().semantic_maps(torch.zeros(2, 3, SIDE - 3, SIDE + 5, dtype=torch.uint8))
        assert scores.device.type == "cuda" and tuple(scores.shape[2:]) == (SIDE - 3, SIDE + 5)
        assert step.teacher.network.eval()([{"image": torch.zeros(3, 20, 20, dtype=torch.uint8)}])


@pytest.mark.parametrize("overrides", [(), ("MODEL.QUERY_DECODER.INSTANCE_QUERIES", 0, "LOSS.ALIGN", 0.0)])
def test_predictions_come_from_the_device(make_network, monkeypatch, overrides):
    from hiervl.data.classes.definitions import ClassDefinition
    from hiervl.inference.predictor import HierVLPredictor

    network = make_network(*SHALLOW, *overrides, trained=False).eval()
    classes = [ClassDefinition(name, (name,), (0, 0, 0), not index) for index, name in enumerate(network.class_names)]
    image = np.zeros((40, 50, 3), np.uint8)
    with fake_cuda(monkeypatch) as mode:
        predictor = HierVLPredictor(move_to_cuda(network, mode), classes, crop_size=SIDE, scales=(1.0, 0.5), flip=True)
        found = predictor(image)
        assert found.semantic.shape == found.confidence.shape == (40, 50)


def test_evaluation_has_the_precision_of_the_training_on_cuda_alone(make_cfg, monkeypatch):
    from hiervl.engine.test_sets import evaluation_precision

    monkeypatch.setattr(torch.amp.autocast_mode, "is_autocast_available", lambda *_: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    for device, amp, expected in (("cuda", True, True), ("cuda", False, False), ("cpu", True, False)):
        with evaluation_precision(make_cfg("MODEL.DEVICE", device, "SOLVER.AMP.ENABLED", amp)):
            assert torch.is_autocast_enabled("cuda") == expected and not torch.is_autocast_enabled("cpu")
            assert not expected or torch.get_autocast_dtype("cuda") == torch.bfloat16
