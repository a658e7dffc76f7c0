"""Values by hand on tiny predictions; the criterion on the whole network is tested with it."""

import math

import pytest
import torch
from torch.nn import functional as F

from hiervl.losses import criterion as criterion_module
from hiervl.losses.assignment import assign
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


def predictions(queries=3, layers=2, batch=1):
    """One text query of class 0, one of class 1, then instance queries; a mask has one value everywhere."""
    torch.manual_seed(0)
    return QueryPredictions(
        pred_logits=[torch.randn(batch, queries, 3, requires_grad=True) for _ in range(layers)],
        pred_masks=[torch.randn(batch, queries, 1, 1).repeat(1, 1, 4, 4).requires_grad_() for _ in range(layers)],
        joint_embeddings=F.normalize(torch.randn(batch, queries, 4), dim=-1).requires_grad_(),
        query_classes=torch.tensor([0, 1] + [-1] * (queries - 2)).expand(batch, -1),
        query_valid=torch.ones(batch, queries, dtype=torch.bool),
    )


def run(criterion, predicted, sem_segs, relevance_logits=None, scores=None):
    targets = [image_targets(sem_seg, None, sem_seg.shape, 255) for sem_seg in sem_segs]
    batch = len(targets)
    relevance_logits = torch.zeros(batch, 2, requires_grad=True) if relevance_logits is None else relevance_logits
    scores = torch.ones(batch, 2, 4, 4, requires_grad=True) if scores is None else scores
    return criterion(predicted, scores, relevance_logits, TEXT, targets)


def test_all_losses_by_hand():
    """One image full of class 0: text query 0 and the instance query fit it, text query 1 is absent and has no mask."""
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
        class_cost = -(log[0, 0] + 0.1 * log[1, 2] + log[2, 0]) / 2.1
        torch.testing.assert_close(losses[f"loss_class{suffix}"], 2.0 * class_cost)
        mask = masks[0, :, 0, 0]
        bce = (F.softplus(-mask[0]) + F.softplus(-mask[2])) / 2
        torch.testing.assert_close(losses[f"loss_mask{suffix}"], 5.0 * bce)
        p = mask.sigmoid()
        full = [1 - (2 * 16 * p[i] + 1) / (16 * p[i] + 16 + 1) for i in (0, 2)]
        torch.testing.assert_close(losses[f"loss_dice{suffix}"], 5.0 * (full[0] + full[1]) / 2)
    assert losses["loss_pixel"].item() == pytest.approx(math.log(2), abs=1e-4)
    # Only the instance query is aligned: ‖φ − t‖² = 2 − 2·cos, and t of class 0 is the first axis.
    torch.testing.assert_close(losses["loss_align"], 0.5 * (2 - 2 * predicted.joint_embeddings[0, 2, 0]))
    expected = (F.softplus(torch.tensor(-0.3)) + F.softplus(torch.tensor(-0.4))) / 2
    torch.testing.assert_close(losses["loss_relevance"], expected)


def test_an_image_without_labels_changes_nothing():
    """It adds to no average and gets no gradient, whatever is predicted for it."""
    predicted = predictions(batch=2)
    labeled = torch.ones(4, 4, dtype=torch.long)
    criterion = SupervisedCriterion(weights=ALL, num_points=64)
    gate, scores = torch.randn(2, 2, requires_grad=True), torch.randn(2, 2, 4, 4).sigmoid().requires_grad_()

    def first(x):
        return x.detach()[:1]

    alone = QueryPredictions(
        [first(x) for x in predicted.pred_logits],
        [first(x) for x in predicted.pred_masks],
        first(predicted.joint_embeddings),
        predicted.query_classes[:1],
        predicted.query_valid[:1],
    )
    losses = run(criterion, predicted, [labeled, torch.full((4, 4), 255)], gate, scores)
    expected = run(criterion, alone, [labeled], first(gate), first(scores))
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


def test_padded_queries_are_left_out_of_the_classification():
    predicted = predictions(queries=4)
    padded = predicted._replace(query_valid=torch.tensor([[True, False, True, True]]))
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


def test_scale_by_hand():
    """The pixel loss, and 0.15 of class, mask and dice of every prediction."""
    assert SupervisedCriterion(weights=ALL).scale(10) == pytest.approx(1 + 0.15 * 10 * (2 + 5 + 5))
    assert SupervisedCriterion(weights={**ALL, "mask": 0.0}).scale(3) == pytest.approx(1 + 0.15 * 3 * (2 + 5))
    assert SupervisedCriterion(weights={**ALL, "pixel": 3.0}).scale(1, 2) == pytest.approx(2 * 3 + 0.15 * (2 + 5 + 5))


def test_loss_of_the_pixel_prior_by_hand():
    """p = 3/4 and 1/2 of the right class, a pixel without a label; weight 3."""
    log_p = torch.tensor([[[[3 / 4, 1 / 2, 0.1]], [[1 / 4, 1 / 2, 0.9]]]]).log().requires_grad_()
    targets = [image_targets(torch.tensor([[0, 1, 255]]), None, (1, 3), 255)]
    criterion = SupervisedCriterion(weights={**ALL, "pixel": 3.0})
    loss = criterion.pixel_prior_losses(log_p, targets)["loss_pixel_prior"]
    assert loss.item() == pytest.approx(-3 * (math.log(3 / 4) + math.log(1 / 2)) / 2, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, log_p)
    assert gradient[0, :, 0, 2].tolist() == [0, 0] and (gradient[0, :, 0, :2] != 0).all()
    assert SupervisedCriterion(weights={**ALL, "pixel": 0.0}).pixel_prior_losses(log_p, targets) == {}


def test_pseudo_losses_by_hand():
    """Class 0 is kept in image 0; class 1 is seen there but not kept, and absent in image 1, which shows class 0.

    Image 0 weighs 1 and image 1 weighs 3. Instance queries take no part.
    """
    predicted = predictions(batch=2)
    sem_seg = torch.zeros(4, 4, dtype=torch.long)
    targets = [image_targets(each, None, (4, 4), 255) for each in (sem_seg, sem_seg)]
    absent = torch.tensor([[False, False], [False, True]])
    criterion = SupervisedCriterion(weights=ALL, num_points=16)
    losses = criterion.pseudo_losses(predicted, targets, absent, torch.tensor([1.0, 3.0]))
    assert set(losses) == {f"loss_pseudo_{name}{layer}" for name in ("class", "mask", "dice") for layer in ("", "_0")}
    for suffix, logits, masks in zip(("_0", ""), predicted.pred_logits, predicted.pred_masks):
        log = logits.log_softmax(-1)
        # Three queries are settled: class 0 in both images, and "no object" (weight 0.1) for class 1 in image 1.
        class_cost = -(log[0, 0, 0] + 3 * (log[1, 0, 0] + 0.1 * log[1, 1, 2])) / 2.1
        torch.testing.assert_close(losses[f"loss_pseudo_class{suffix}"], 2.0 * class_cost)
        mask = masks[:, 0, 0, 0]
        bce = (F.softplus(-mask[0]) + 3 * F.softplus(-mask[1])) / 2
        torch.testing.assert_close(losses[f"loss_pseudo_mask{suffix}"], 5.0 * bce)
    sum(losses.values()).backward()
    assert not predicted.pred_logits[0].grad[:, 2].any() and not predicted.pred_logits[0].grad[0, 1].any()
    assert not predicted.pred_masks[0].grad[:, 1:].any()


def test_every_loss_has_the_weight_of_its_name(make_cfg):
    """Those of the config, each by a number of its own."""
    names = ("class", "mask", "dice", "pixel", "align", "relevance")
    numbers = dict(zip(names, (2.0, 3.0, 5.0, 7.0, 11.0, 13.0)))
    cfg = make_cfg(*(item for name, number in numbers.items() for item in (f"LOSS.{name.upper()}", number)))
    sem_seg = torch.zeros(4, 4, dtype=torch.long)
    gate = torch.tensor([[0.3, -0.4]])

    def losses(criterion):
        torch.manual_seed(1)
        return run(criterion, predictions(), [sem_seg], gate)

    weighted = losses(SupervisedCriterion.from_config(cfg))
    plain = SupervisedCriterion(
        weights=dict.fromkeys(names, 1.0), num_points=cfg.LOSS.NUM_POINTS, no_object=cfg.LOSS.NO_OBJECT,
        oversample_ratio=cfg.LOSS.OVERSAMPLE_RATIO, importance_share=cfg.LOSS.IMPORTANCE_SAMPLE_RATIO,
        pixel_balance=cfg.LOSS.PIXEL_BALANCE,
    )  # fmt: skip
    for name, loss in losses(plain).items():
        assert loss.abs() > 0
        torch.testing.assert_close(weighted[name], numbers[name.split("_")[1]] * loss)


def test_the_matching_weighs_each_cost_as_its_loss(monkeypatch):
    seen = []
    monkeypatch.setattr(
        criterion_module, "assign", lambda *arguments, **options: seen.append(options) or assign(*arguments, **options)
    )
    weights = {**ALL, "class": 2.0, "mask": 3.0, "dice": 5.0}
    for assignment in ("fixed", "hungarian"):
        criterion = SupervisedCriterion(weights=weights, num_points=16, assignment=assignment)
        run(criterion, predictions(), [torch.zeros(4, 4, dtype=torch.long)])
    assert [options["weights"] for options in seen] == [(2.0, 3.0, 5.0)] * 2
    assert [options["fixed"] for options in seen] == [True, False]
    assert seen[0]["points"].shape == (16, 2)


def test_the_alignment_moves_the_queries_and_not_the_text():
    embeddings = torch.eye(2, 4).requires_grad_()
    text = TextFeatures(embeddings, embeddings, embeddings, torch.arange(2))
    predicted = predictions()
    criterion = SupervisedCriterion(weights={**dict.fromkeys(ALL, 0.0), "align": 1.0}, num_points=16)
    sem_seg = torch.zeros(4, 4, dtype=torch.long)
    losses = criterion(predicted, torch.ones(1, 2, 4, 4), None, text, [image_targets(sem_seg, None, (4, 4), 255)])
    assert set(losses) == {"loss_align"}
    losses["loss_align"].backward()
    assert embeddings.grad is None and predicted.joint_embeddings.grad[0, 2].any()


def test_losses_of_two_images_are_means_over_all_their_queries():
    """Both full of one class each, and both masks of it, of the text query and of an instance query, are looked at."""
    predicted = predictions(queries=4, layers=1, batch=2)
    criterion = SupervisedCriterion(weights=dict.fromkeys(ALL, 1.0), num_points=16)
    gate = torch.tensor([[0.3, -0.4], [1.2, 0.5]])
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            criterion_module, "assign", lambda *args, **options: seen.append(assign(*args, **options)) or seen[-1]
        )
        losses = run(criterion, predicted, [torch.full((4, 4), label) for label in (0, 1)], gate)
    (found,) = seen[0]
    instances = [(image, query) for image in (0, 1) for query in (2, 3) if found.target_classes[image, query] == image]
    assert len(instances) == 2 and {image for image, _ in instances} == {0, 1}
    queries = [(0, 0), (1, 1), *instances]
    masks = torch.stack([predicted.pred_masks[0][image, query, 0, 0] for image, query in queries])
    torch.testing.assert_close(losses["loss_mask"], F.softplus(-masks).mean())
    p = masks.sigmoid()
    torch.testing.assert_close(losses["loss_dice"], (1 - (32 * p + 1) / (16 * p + 17)).mean())
    joint = predicted.joint_embeddings
    torch.testing.assert_close(
        losses["loss_align"], torch.stack([2 - 2 * joint[image, query, image] for image, query in instances]).mean()
    )
    signs = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    torch.testing.assert_close(losses["loss_relevance"], F.softplus(signs * gate).mean())


def test_a_batch_of_queries_without_object_is_averaged_by_their_weight():
    """One query alone counts, with the weight 0.1: its plain cross-entropy."""
    predicted = predictions(queries=2, layers=1)._replace(query_valid=torch.tensor([[True, False]]))
    criterion = SupervisedCriterion(weights={**dict.fromkeys(ALL, 0.0), "class": 1.0}, num_points=16)
    losses = run(criterion, predicted, [torch.ones(4, 4, dtype=torch.long)])
    torch.testing.assert_close(losses["loss_class"], -predicted.pred_logits[0].log_softmax(-1)[0, 0, 2])


def test_targets_of_inputs_are_padded_and_ignored_alike():
    sem_seg, instances = torch.tensor([[0, 0, 9], [1, 1, 1]]), torch.tensor([[0, 0, 0], [4, 4, 5]])
    criterion = SupervisedCriterion(weights=ALL, ignore_value=9)
    with_instances, without = criterion.prepare_targets(
        [{"sem_seg": sem_seg, "instance_ids": instances}, {"sem_seg": sem_seg}], (3, 4), torch.device("cpu")
    )
    for target in (with_instances, without):
        assert target.sem_seg.tolist() == [[0, 0, 9, 9], [1, 1, 1, 9], [9] * 4]
    assert with_instances.segment_labels.tolist() == [0, 1, 1] and without.segment_labels.tolist() == [0, 1]
