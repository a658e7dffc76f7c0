"""The losses of the step beyond the strong views, compared with separate passes of the network."""

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hiervl.losses.masked_consistency import hide_random_class, masked_consistency_loss, pixel_text_loss
from hiervl.semi_supervised import step as step_module
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.errors import UserError

SIZE = 40  # no multiple of 16, to which images are padded
PADDED = 48
SHARE = 0.3
SETTINGS = (
    "SEMI.CONFIDENCE", 0.0, "SEMI.SUPERVISED_SHARE", SHARE, "SEMI.PERTURBATION_WEIGHT", 0.7, "LOSS.ENTROPY", 0.2,
    "SEMI.PERTURBATION_DROPOUT", 0.0, "LOSS.MASKED_CONSISTENCY", 0.6, "LOSS.PIXEL_TEXT", 0.4, "SEMI.GUIDANCE_WEIGHT",
    0.0, "MODEL.QUERY_DECODER.LAYERS", 1, "MODEL.PIXEL_DECODER.LAYERS", 1,
)  # fmt: skip
NO_BOX = (0, 0, 0, 0)


def image(seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(1, 3, 5, 5, generator=generator)
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="nearest")[0].to(torch.uint8)


def make_batch():
    labeled, unlabeled = [], []
    for index in range(2):
        sem_seg = torch.full((SIZE, SIZE), 1 + index)
        sem_seg[:, SIZE // 2 :] = 4
        sem_seg[:4] = 255
        labeled.append({"image": image(index), "sem_seg": sem_seg})
        valid = torch.ones(SIZE, SIZE, dtype=torch.bool)
        valid[24:] = False
        views = {f"image_{view}": image(10 * n + index) for n, view in enumerate(("weak", "strong1", "strong2"), 1)}
        boxes = {"cutmix_box1": torch.tensor(NO_BOX), "cutmix_box2": torch.tensor(NO_BOX)}
        unlabeled.append({**views, **boxes, "valid": valid})
    return {"labeled": labeled, "unlabeled": unlabeled}


@pytest.fixture
def step(make_cfg, make_network):
    return SemiSupervisedStep.from_config(make_cfg(*SETTINGS), make_network(*SETTINGS)).train()


def run(step):
    torch.manual_seed(3)
    return step(make_batch())


def scores_of(step, view):
    """The student's semantic map of one view, in training mode, not normalised: (2, C, 24, 24)."""
    images = step.student.normalize([item[f"image_{view}"] for item in make_batch()["unlabeled"]])
    text = step.student.encode_text()
    with torch.no_grad():
        return step.student.semantic_scores(step.student.segment(images, text), text)


def test_feature_perturbation_that_drops_nothing_is_the_weak_view(step):
    """Cross-entropy of the student on the weak view to the teacher's labels, over the valid pixels."""
    losses = run(step)
    weak = torch.stack([item["image_weak"] for item in make_batch()["unlabeled"]])
    labels = step.teacher.network.semantic_maps(weak).argmax(1)
    resized = F.interpolate(scores_of(step, "weak"), size=(PADDED, PADDED), mode="bilinear", align_corners=False)
    probability = resized[:, :, :SIZE, :SIZE] / resized[:, :, :SIZE, :SIZE].sum(1, keepdim=True)
    at_label = probability.gather(1, labels.unsqueeze(1)).squeeze(1)
    expected = (1 - SHARE) * 0.7 * step.student.loss_scale * -at_label[:, :24].log().mean()
    torch.testing.assert_close(losses["loss_feature_perturbation"], expected, atol=1e-4, rtol=1e-3)
    step.objective = replace(step.objective, perturbation_dropout=0.5)
    assert abs(run(step)["loss_feature_perturbation"] - losses["loss_feature_perturbation"]) > 1e-3


def test_entropy_is_the_mean_over_both_strong_views(step):
    """The upper 24 of 40 rows are valid: 12 of 24 rows of the padded map, and of its columns the first 20."""
    expected = 0.0
    for view in ("strong1", "strong2"):
        scores = scores_of(step, view)[:, :, :12, :20]
        p = scores / scores.sum(1, keepdim=True)
        expected = expected + 0.5 * -(p * p.log()).sum(1).mean()
    expected = (1 - SHARE) * 0.2 * step.student.loss_scale * expected
    torch.testing.assert_close(run(step)["loss_entropy"], expected, atol=1e-4, rtol=1e-3)


def test_entropy_counts_what_the_box_brought_in(step):
    """The first image is all valid, the second nowhere: a box moves whole pixels of the maps with their validity."""

    def batch(boxes):
        made = make_batch()
        for item, is_valid, box in zip(made["unlabeled"], (True, False), boxes):
            item["valid"] = torch.full((SIZE, SIZE), is_valid)
            item.update(cutmix_box1=torch.tensor(box), cutmix_box2=torch.tensor(box))
        return made

    def mean_entropy(boxes):
        """Mean of both views over the pixels that are valid, all pasted by slices: the maps are half as fine."""
        found = 0.0
        for view in ("strong1", "strong2"):
            images = torch.stack([item[f"image_{view}"] for item in make_batch()["unlabeled"]]).float()
            pasted = images.clone()
            valid = torch.zeros(2, PADDED // 2, PADDED // 2, dtype=torch.bool)
            valid[0, : SIZE // 2, : SIZE // 2] = True
            pasted_valid = valid.clone()
            for b, (x0, y0, x1, y1) in enumerate(boxes):
                pasted[b, :, y0:y1, x0:x1] = images[1 - b, :, y0:y1, x0:x1]
                half = (slice(y0 // 2, y1 // 2), slice(x0 // 2, x1 // 2))
                pasted_valid[b][half] = valid[1 - b][half]
            with torch.no_grad():
                text = step.student.encode_text()
                scores = step.student.semantic_scores(
                    step.student.segment(step.student.normalize(list(pasted)), text), text
                )
            p = scores / scores.sum(1, keepdim=True)
            found += (-(p * p.log()).sum(1) * pasted_valid).sum() / pasted_valid.sum() / 2
        return found

    def loss(boxes):
        torch.manual_seed(3)
        return step(batch(boxes))["loss_entropy"].detach()

    boxes = ((8, 16, 24, 40), (0, 0, 32, 24))
    plain = (NO_BOX, NO_BOX)
    # The ratio of two runs, whatever the loss is weighed with.
    expected = mean_entropy(boxes) / mean_entropy(plain)
    assert abs(expected - 1) > 1e-3
    torch.testing.assert_close(loss(boxes) / loss(plain), expected, atol=1e-5, rtol=1e-4)


def test_hidden_class_losses(step, monkeypatch):
    """Weights whole, not times the share; the student sees the hidden images, the frozen encoder all of them."""
    seen = []

    def watched(*args):
        seen.append(hide_random_class(*args))
        return seen[-1]

    monkeypatch.setattr("hiervl.semi_supervised.masked.hide_random_class", watched)
    losses = run(step)
    (hidden,) = seen
    images = step.student.normalize([item["image"] for item in make_batch()["labeled"]])
    with torch.no_grad():
        masked = step.student.backbone.dense_embedding(hidden.images)
        whole = step.frozen_clip.embed(images).dense
        text = step.student.encode_text()
    assert hidden.patches.any() and not torch.equal(hidden.images, images)
    expected = 0.6 * masked_consistency_loss(masked, whole, hidden.patches)
    torch.testing.assert_close(losses["loss_masked_consistency"], expected, atol=1e-5, rtol=1e-4)
    similarity = torch.einsum("bdhw,cd->bhwc", masked, text.text_embeddings)
    expected = 0.4 * pixel_text_loss(similarity, hidden.classes, hidden.patches, 0.07)
    torch.testing.assert_close(losses["loss_pixel_text"], expected, atol=1e-4, rtol=1e-4)
    (losses["loss_pixel_text"] + losses["loss_masked_consistency"]).backward()
    assert step.student.text_encoder.prompts.grad is None  # the image moves to the text
    assert step.student.backbone.visual_prompts.grad.any()


def test_masked_consistency_stays_without_unlabeled_images(step):
    step.objective = replace(step.objective, enabled=False)
    losses = run(step)
    assert {"loss_masked_consistency", "loss_pixel_text"} <= set(losses) and "loss_entropy" not in losses


def test_a_single_unlabeled_image_per_micro_batch_is_warned_of(make_cfg, caplog):
    with caplog.at_level(logging.WARNING, logger="hiervl"):
        step_module._warn_if_cutmix_lacks_images(make_cfg("SOLVER.UNLABELED_PER_BATCH", 4, "SOLVER.ACCUMULATION", 2))
        step_module._warn_if_cutmix_lacks_images(
            make_cfg("SEMI.CUTMIX_PROBABILITY", 0.0, "SOLVER.UNLABELED_PER_BATCH", 1)
        )
        assert not caplog.records
        step_module._warn_if_cutmix_lacks_images(make_cfg("SOLVER.UNLABELED_PER_BATCH", 4, "SOLVER.ACCUMULATION", 4))
    assert "CutMix" in caplog.text and "SOLVER.UNLABELED_PER_BATCH (4)" in caplog.text


def test_a_wrong_number_of_views_is_a_user_error(make_cfg, make_network):
    with pytest.raises(UserError, match="SEMI.STRONG_VIEWS"):
        SemiSupervisedStep.from_config(make_cfg("SEMI.STRONG_VIEWS", 3), make_network(trained=False))
