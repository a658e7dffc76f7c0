"""Values by hand on tiny predictions; the criterion on the whole network is tested with it."""

import math

import pytest
import torch
from torch.nn import functional as F

from hiervl.losses.criterion import SupervisedCriterion
from hiervl.losses.targets import image_targets
from hiervl.structures import QueryPredictions, TextFeatures
from hiervl.utils.errors import UserError

ALL = {"class": 2.0, "mask": 5.0, "dice": 5.0, "pixel": 1.0, "align": 0.5, "relevance": 1.0}
TEXT = TextFeatures(torch.eye(2, 4), torch.eye(2, 4), torch.eye(2, 4), torch.arange(2))


@pytest.fixture(autouse=True)
def inner_points(monkeypatch):
    """Points away from the border, where flat masks are flat: which of them are drawn plays no role."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **options: 0.2 + 0.6 * rand(*size, **options))


def predictions(rows=3, layers=2, batch=1):
    """One text row of class 0, one of class 1, then instance rows; a mask has one value everywhere."""
    torch.manual_seed(0)
    return QueryPredictions(
        pred_logits=[torch.randn(batch, rows, 3, requires_grad=True) for _ in range(layers)],
        pred_masks=[torch.randn(batch, rows, 1, 1).repeat(1, 1, 4, 4).requires_grad_() for _ in range(layers)],
        joint_embeddings=F.normalize(torch.randn(batch, rows, 4), dim=-1).requires_grad_(),
        row_classes=torch.tensor([0, 1] + [-1] * (rows - 2)).expand(batch, -1),
        row_valid=torch.ones(batch, rows, dtype=torch.bool),
    )


def run(criterion, predicted, sem_segs, relevance_logits=None, scores=None):
    targets = [image_targets(sem_seg, None, sem_seg.shape, 255) for sem_seg in sem_segs]
    batch = len(targets)
    relevance_logits = torch.zeros(batch, 2, requires_grad=True) if relevance_logits is None else relevance_logits
    scores = torch.ones(batch, 2, 4, 4, requires_grad=True) if scores is None else scores
    return criterion(predicted, scores, relevance_logits, TEXT, targets)


def test_all_losses_by_hand():
    """One image full of class 0: text row 0 and the instance row fit it, text row 1 is absent and has no mask."""
    predicted = predictions()
    criterion = SupervisedCriterion(weights=ALL, num_points=16)
    gate = torch.tensor([[0.3, -0.4]])
    losses = run(criterion, predicted, [torch.zeros(4, 4, dtype=torch.long)], gate)
    assert set(losses) == {
        "loss_class",
        "loss_mask",
        "loss_dice",
        "loss_class_0",
        "loss_mask_0",
        "loss_dice_0",
        "loss_pixel",
        "loss_align",
        "loss_relevance",
    }
    for suffix, logits, masks in zip(("_0", ""), predicted.pred_logits, predicted.pred_masks):
        log = logits.log_softmax(-1)[0]
        # Rows 0 and 2 are class 0 with weight 1; row 1 is "no object" with weight 0.1.
        of_class = -(log[0, 0] + 0.1 * log[1, 2] + log[2, 0]) / 2.1
        torch.testing.assert_close(losses[f"loss_class{suffix}"], 2.0 * of_class)
        mask = masks[0, :, 0, 0]
        bce = (F.softplus(-mask[0]) + F.softplus(-mask[2])) / 2
        torch.testing.assert_close(losses[f"loss_mask{suffix}"], 5.0 * bce)
        p = mask.sigmoid()
        full = [1 - (2 * 16 * p[i] + 1) / (16 * p[i] + 16 + 1) for i in (0, 2)]
        torch.testing.assert_close(losses[f"loss_dice{suffix}"], 5.0 * (full[0] + full[1]) / 2)
    assert losses["loss_pixel"].item() == pytest.approx(math.log(2), abs=1e-4)
    # Only the instance row is aligned: ‖φ − t‖² = 2 − 2·cos, and t of class 0 is the first axis.
    torch.testing.assert_close(losses["loss_align"], 0.5 * (2 - 2 * predicted.joint_embeddings[0, 2, 0]))
    expected = (F.softplus(torch.tensor(-0.3)) + F.softplus(torch.tensor(-0.4))) / 2
    torch.testing.assert_close(losses["loss_relevance"], expected)


def test_an_image_without_labels_changes_nothing():
    """It adds to no average and gets no gradient, whatever is predicted for it."""
    predicted = predictions(batch=2)
    labelled = torch.ones(4, 4, dtype=torch.long)
    criterion = SupervisedCriterion(weights=ALL, num_points=64)
    gate, scores = torch.randn(2, 2, requires_grad=True), torch.randn(2, 2, 4, 4).sigmoid().requires_grad_()

    def first(x):
        return x.detach()[:1]

    alone = QueryPredictions(
        [first(x) for x in predicted.pred_logits],
        [first(x) for x in predicted.pred_masks],
        first(predicted.joint_embeddings),
        predicted.row_classes[:1],
        predicted.row_valid[:1],
    )
    losses = run(criterion, predicted, [labelled, torch.full((4, 4), 255)], gate, scores)
    expected = run(criterion, alone, [labelled], first(gate), first(scores))
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name])
    sum(losses.values()).backward()
    for x in (*predicted.pred_logits, *predicted.pred_masks, predicted.joint_embeddings, gate, scores):
        assert x.grad.isfinite().all() and (x.grad[1] == 0).all() and (x.grad[0] != 0).any()


@pytest.mark.parametrize("assignment", ["fixed", "hungarian"])
def test_a_batch_without_labels_costs_nothing(assignment):
    predicted = predictions(batch=2)
    gate, scores = torch.randn(2, 2, requires_grad=True), torch.randn(2, 2, 4, 4).sigmoid().requires_grad_()
    criterion = SupervisedCriterion(weights=ALL, num_points=16, assignment=assignment)
    losses = run(criterion, predicted, [torch.full((4, 4), 255)] * 2, gate, scores)
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for x in (*predicted.pred_logits, *predicted.pred_masks, predicted.joint_embeddings, gate, scores):
        assert (x.grad == 0).all()


def test_padded_rows_are_left_out_of_the_classification():
    predicted = predictions(rows=4)
    padded = predicted._replace(row_valid=torch.tensor([[True, False, True, True]]))
    criterion = SupervisedCriterion(weights=ALL, num_points=16)
    losses = run(criterion, padded, [torch.zeros(4, 4, dtype=torch.long)])
    sum(losses.values()).backward()
    for x in (*predicted.pred_logits, *predicted.pred_masks):
        assert (x.grad[0, 1] == 0).all() and (x.grad[0, 0] != 0).any()


def test_a_weight_of_0_switches_a_loss_off():
    criterion = SupervisedCriterion(weights={**ALL, "align": 0.0, "mask": 0.0}, num_points=16)
    losses = run(criterion, predictions(), [torch.zeros(4, 4, dtype=torch.long)])
    assert set(losses) == {"loss_class", "loss_dice", "loss_class_0", "loss_dice_0", "loss_pixel", "loss_relevance"}


def test_unknown_assignment():
    with pytest.raises(UserError, match="LOSS.ASSIGNMENT"):
        SupervisedCriterion(weights=ALL, assignment="greedy")


def test_pixels_are_balanced_on_request():
    """Three pixels of class 0 with p = 3/4, one of class 1 with p = 1/2; the exponent 1 makes both weigh alike."""
    sem_seg = torch.tensor([[0, 0], [0, 1]])
    scores = torch.tensor([[[[3.0, 3.0], [3.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    for balance, share in ((0.0, 3 / 4), (1.0, 1 / 2)):
        criterion = SupervisedCriterion(weights={**dict.fromkeys(ALL, 0.0), "pixel": 1.0}, pixel_balance=balance)
        expected = -share * math.log(3 / 4) - (1 - share) * math.log(1 / 2)
        loss = run(criterion, predictions(), [sem_seg], scores=scores)["loss_pixel"]
        assert loss.item() == pytest.approx(expected, abs=1e-4)
