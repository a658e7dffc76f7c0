"""Figures and warnings of a run's health, by hand."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from hiervl.engine import health
from hiervl.engine.comparison import gain_line, mean_iou, supervised_twin, train_both
from hiervl.engine.health_report import HealthReport, find_problems, presence_auc
from hiervl.engine.hooks import best_metric
from hiervl.semi_supervised import pseudo_labels
from hiervl.semi_supervised.knowledge import unknown_classes
from hiervl.semi_supervised.pseudo_labels import ConfidenceThreshold
from hiervl.semi_supervised.step import SemiSupervisedStep

NAMES = ("background", "cat", "bus")
NAN = float("nan")


def report(kept, seen=10_000, labeled=(600, 300, 100)):
    return HealthReport(NAMES, np.array(kept), seen, np.array(labeled), np.array([0.9, NAN, 0.5]), confidence=0.9)


def test_a_healthy_run_has_no_problems():
    assert find_problems(report([5000, 2000, 500])) == []
    assert find_problems(report([0, 0, 0], seen=0)) == []  # no unlabelled image was looked at yet


@pytest.mark.parametrize(
    "kept, kind, classes, words",
    [
        ((4, 3, 2), "nothing", (), ("0.09 %", "set SEMI.THRESHOLD to class")),
        ((6000, 3000, 995), "everything", (), ("wrong ones included",)),
        ((5000, 2000, 6), "vanish", ("bus",), ("'bus' (0.09 % of the kept pixels, 10.00 %",)),  # below a tenth of 1 %
        ((5000, 2000, 8), "", (), ()),  # 0.11 %
        ((5000, 1, 1), "swallow the others", ("background", "cat", "bus"), ("swallow", "vanish")),
        ((9000, 300, 240), "swallow the others", ("background",), ("94.34 %", "swallow")),  # odds 16.7 over 1.5: 11
        ((8900, 400, 240), "", (), ()),  # 13.9 over 1.5: 9
    ],
)
def test_problems_by_hand(kept, kind, classes, words):
    problems = {problem.kind: problem for problem in find_problems(report(kept))}
    if not kind:
        assert not problems
        return
    assert problems[kind].classes == classes
    assert all(word in problems[kind].sentence for word in words)
    assert len(problems) == 1


@pytest.mark.parametrize("kept", [(4, 3, 2), (6000, 3000, 995), (5000, 2000, 6), (9000, 300, 240), (9990, 1, 1)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"has_class_thresholds": True},
        {"confidence": 0.99, "burn_in": 50},
        {"has_class_thresholds": True, "confidence": NAN, "burn_in": 50},  # THRESHOLD adaptive
    ],
)
def test_a_warning_has_one_remedy_that_is_not_in_force(kept, settings):
    sick = dataclasses.replace(report(kept), **settings)
    (problem,) = find_problems(sick)
    advice = problem.sentence.rpartition(": ")[2]
    remedies = [word for word in ("SEMI.THRESHOLD", "lower", "raise", "SEMI.BURN_IN", "label more") if word in advice]
    assert len(remedies) == 1, advice
    assert not (sick.has_class_thresholds and "SEMI.THRESHOLD" in advice)
    assert not (sick.confidence >= 0.99 and "raise" in advice)
    assert not (np.isnan(sick.confidence) and "SEMI.CONFIDENCE" in advice)


def on_validation_images(balance=0.0, **settings):
    """Of 180 pixels of the bus whose pseudo-labels are kept, 30 are right and 150 are called background."""
    kept = np.array([[5000, 0, 0], [0, 2000, 0], [150, 0, 30]])
    return dataclasses.replace(
        report([5000, 2000, 500]), validation=kept, validation_pixels=np.array([6000, 2500, 300]), balance=balance,
        **settings,
    )  # fmt: skip


def test_classes_that_pseudo_labels_drive_out():
    (problem,) = find_problems(on_validation_images())
    assert problem.classes == ("bus",) and "'bus' (50 % wrong, 10 % right)" in problem.sentence
    assert problem.sentence.endswith(": set LOSS.PIXEL_BALANCE to 0.5.")
    written = on_validation_images().as_dict(3)["classes"]["bus"]
    assert (written["validation_right"], written["validation_wrong"]) == (0.1, 0.5)


def test_where_most_classes_are_driven_out_the_teacher_needs_time():
    kept = np.array([[5000, 0, 0], [900, 100, 0], [150, 0, 30]])
    (problem,) = find_problems(dataclasses.replace(on_validation_images(burn_in=70), validation=kept))
    assert problem.classes == ("cat", "bus") and "SEMI.BURN_IN, now 70 iterations" in problem.sentence


def test_balanced_pseudo_labels_drive_out_less():
    """With exponent 1/2 a pixel called bus weighs √(5150/30) = 13.1 times as much as one called background, so that
    30 right ones are as good as 393."""
    assert find_problems(on_validation_images(balance=0.5)) == []


def test_only_classes_that_can_be_judged_are_driven_out():
    unlabeled = dataclasses.replace(on_validation_images(), labeled_pixels=np.array([600, 300, 0]))
    few = dataclasses.replace(on_validation_images(), validation=np.array([[500, 0, 0], [0, 200, 0], [90, 0, 3]]))
    assert find_problems(unlabeled) == find_problems(few) == []


def test_unlabeled_images_without_weight():
    """Below a twentieth of the labelled images' gradient; less where SEMI.ADAPT_WEIGHT has taken weight away."""
    drowned = dataclasses.replace(report([5000, 2000, 500]), gradient_ratio=0.049)
    (problem,) = find_problems(drowned)
    assert problem.kind == "drowned" and "0.049" in problem.sentence
    assert find_problems(dataclasses.replace(drowned, gradient_ratio=0.051)) == []
    assert find_problems(dataclasses.replace(drowned, unlabeled_weight=0.5)) == []


def test_more_weight_is_not_the_remedy_where_pseudo_labels_are_wrong():
    for wrong, kind in ((on_validation_images(), "drive out"), (report([6000, 3000, 995]), "everything")):
        (problem,) = find_problems(dataclasses.replace(wrong, gradient_ratio=0.001))
        assert problem.kind == kind and "STRONG_WEIGHT" not in problem.sentence


def test_a_long_list_of_classes_is_shortened():
    names = tuple("abcdefgh")
    sick = HealthReport(names, np.array([9000] + [0] * 7), 10_000, np.full(8, 10), np.full(8, NAN), confidence=0.9)
    (problem,) = find_problems(sick)
    assert problem.classes == names and "'f'" in problem.sentence and "and 2 more vanish" in problem.sentence
    assert "'g'" not in problem.sentence


def test_classes_that_no_labeled_image_shows_cannot_vanish():
    assert find_problems(report([5000, 3000, 0], labeled=(600, 400, 0))) == []


def test_classes_that_clip_does_not_know():
    """Below the least IoU on three images or more: of a class that one or two show, little is known."""
    iou, shown = np.array([0.5, 0.019, 0.0, NAN, 0.0]), np.array([10, 3, 2, 0, 0])
    assert unknown_classes(iou, shown, 0.02) == [1]
    assert unknown_classes(iou, shown, 0.0) == []


def test_auc_by_hand():
    """Present 0.9, 0.5; absent 0.5, 0.1: of four pairs three and a half are in order."""
    relevance = np.array([[0.9, 0.5], [0.5, 0.1]])
    presence = np.array([[True, False], [True, False]])
    assert presence_auc(relevance, presence) == 3.5 / 4
    assert presence_auc(relevance, ~presence) == 0.5 / 4
    assert np.isnan(presence_auc(relevance, np.ones((2, 2), dtype=bool)))


@pytest.mark.parametrize("mode, expected", [("fixed", 0.9), ("class", 0.9), ("adaptive", NAN)])
def test_the_confidence_counts_where_it_is_read(make_cfg, make_network, monkeypatch, mode, expected):
    monkeypatch.setattr(health, "labeled_images", lambda *arguments: [])
    cfg = make_cfg("SEMI.THRESHOLD", mode, "SEMI.CONFIDENCE", 0.9, "DATASETS.TEST", ())
    step = SemiSupervisedStep.from_config(cfg, make_network())
    np.testing.assert_equal(health.examine(cfg, step).confidence, expected)


def test_figures_are_logged_and_written():
    sick = report([5000, 2000, 0])
    sick.problems = find_problems(sick)
    scalars = sick.scalars()
    assert scalars["health/kept_pixels/background"] == 5000 and scalars["health/problems"] == 1
    assert scalars["health/agreement/bus"] == 0.5 and "health/agreement/cat" not in scalars
    assert "health/relevance_auc" not in scalars  # there is no gate
    sick.zero_shot_iou, sick.unguided = np.array([0.3, 0.01, NAN]), [1]
    written = sick.as_dict(7)
    assert written["iteration"] == 7 and written["kept_share"] == 0.7 and len(written["problems"]) == 1
    assert written["classes"]["cat"]["guided"] is False and written["classes"]["cat"]["zero_shot_iou"] == 0.01


# ---- thresholds of several processes ------------------------------------------------------------------------------


def test_class_thresholds_count_the_pixels_of_all_processes(monkeypatch):
    """This process: two pixels of class 0 with mean 0.9, none of class 1. Another one: two of class 0 with 0.7 and one
    of class 1 with 0.6. Together 0.8 and 0.6, followed with momentum 0."""
    elsewhere = {torch.int64: torch.tensor([2, 1]), torch.float32: torch.tensor([1.4, 0.6])}
    monkeypatch.setattr(pseudo_labels.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(elsewhere[tensor.dtype]))
    threshold = ConfidenceThreshold(2, 0.9, "class")
    threshold.momentum = 0.0
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    threshold(torch.tensor([[[1.0, 0.8]]]), labels, labels == 0)
    torch.testing.assert_close(threshold.mean_confidence, torch.tensor([0.8, 0.6]))


def test_keeping_does_not_learn():
    threshold = ConfidenceThreshold(2, 0.8, "class")
    labels = torch.tensor([[[0, 1]]])
    assert threshold.keeps(torch.tensor([[[0.9, 0.5]]]), labels, labels >= 0).tolist() == [[[True, False]]]
    assert threshold.mean_confidence.tolist() == threshold.updates.tolist() == [0.0, 0.0]


def test_best_checkpoint_of_several_test_sets():
    assert best_metric(("camvid_val",)) == best_metric(()) == "sem_seg/mIoU"
    assert best_metric(("camvid_val", "camvid_test")) == "camvid_val/sem_seg/mIoU"


# ---- the supervised twin ------------------------------------------------------------------------------------------


def test_the_twin_differs_in_the_unlabeled_images_alone(make_cfg, tmp_path):
    cfg = make_cfg("SEMI.COMPARE_SUPERVISED", True, "OUTPUT_DIR", str(tmp_path))
    twin = supervised_twin(cfg)
    assert (twin.SEMI.ENABLED, twin.OUTPUT_DIR) == (False, str(tmp_path / "supervised"))
    twin.defrost()
    twin.merge_from_list(["SEMI.ENABLED", True, "SEMI.COMPARE_SUPERVISED", True, "OUTPUT_DIR", str(tmp_path)])
    assert twin == cfg


def test_both_are_trained_from_the_same_random_state_and_compared(make_cfg, tmp_path, capsys):
    cfg = make_cfg("OUTPUT_DIR", str(tmp_path), "SEED", 3, "DATASETS.TEST", ["a", "b"])
    first_numbers, order = [], []
    scores = {False: 40.0, True: 42.5}

    def train(config, resume):
        order.append(config.SEMI.ENABLED)
        first_numbers.append(torch.rand(1).item())
        results = {"a": {"sem_seg": {"mIoU": scores[config.SEMI.ENABLED]}}}
        folder = tmp_path if config.SEMI.ENABLED else tmp_path / "supervised"
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "model_final.pth").touch()
        return results

    torch.manual_seed(3)
    train_both(cfg, train, resume=False)
    assert order == [False, True] and first_numbers[0] == first_numbers[1]
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line == "unlabelled data gained +2.50 mIoU (42.50 with them, 40.00 without)"
    train_both(cfg, train, resume=True)  # the twin is finished
    assert order == [False, True, True]


def test_without_results_the_gain_is_unknown(make_cfg, tmp_path):
    assert np.isnan(mean_iou(make_cfg(), tmp_path))
    assert "not known" in gain_line(50.0, NAN)


def test_a_signal_ends_the_comparison(make_cfg, tmp_path, capsys):
    """Neither is the run trained after its stopped twin, nor is a gain claimed."""
    cfg, trained = make_cfg("OUTPUT_DIR", str(tmp_path)), []

    def stopped(config, resume):
        trained.append(config.SEMI.ENABLED)

    assert train_both(cfg, stopped, resume=False) == {}
    assert trained == [False] and "gained" not in capsys.readouterr().out
    assert "ENABLED: false" in (tmp_path / "supervised" / "config.yaml").read_text()
