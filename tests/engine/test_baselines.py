"""Every baseline and ablation trains and is evaluated as a run of its own; a run's health is written down."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiervl.config.check import check_training
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.registered.datasets import FolderDataset, register
from hiervl.engine import health
from hiervl.utils.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "configs"
DELTAS = sorted([*FOLDER.glob("baselines/*.yaml"), *FOLDER.glob("ablations/*.yaml")])
NAMES = ("background", "cat", "red bus")
UNLABELED = {"loss_strong1", "loss_strong2", "loss_feature_perturbation", "loss_entropy", "loss_clip_guidance"}
PIXELS = {"loss_pixel", "loss_strong1"}
MASKS = {"loss_class", "loss_mask", "loss_dice", "loss_pixel"}
PROMPTS = {"loss_prompt_topology", "loss_prompt_anchor"}
MASKED = {"loss_masked_consistency", "loss_pixel_text"}
EVERYTHING = MASKS | PROMPTS | MASKED | UNLABELED | {"loss_relevance", "loss_align"}
EXPECTED = {
    "supervised": EVERYTHING - UNLABELED,
    "supervised_per_pixel": {"loss_pixel"},
    "fixmatch": PIXELS,
    "per_pixel": PIXELS | {"loss_strong2", "loss_feature_perturbation"},
    "unimatch": PIXELS | {"loss_strong2", "loss_feature_perturbation"},
    "unimatch_class_thresholds": PIXELS | {"loss_strong2", "loss_feature_perturbation"},
    "semivl": MASKS | UNLABELED - {"loss_entropy"},
    "components_1_baseline": MASKS | UNLABELED,
    "components_2_hsqg": MASKS | UNLABELED | {"loss_relevance"},
    "components_3_cmsam": MASKS | UNLABELED | {"loss_relevance"},
    "components_4_dual_queries": MASKS | UNLABELED | {"loss_relevance"},
    "without_prompt_losses": EVERYTHING - PROMPTS,
    "without_alignment": EVERYTHING - {"loss_align"},
    "without_masked_consistency": EVERYTHING - MASKED,
    "without_instance_seeds": EVERYTHING,
    "without_mask_prior": EVERYTHING,
    "without_guidance": EVERYTHING - {"loss_clip_guidance"},
    "with_masked_consistency": EVERYTHING,
    "with_entropy": EVERYTHING,
    "with_feature_perturbation": EVERYTHING,
    "with_ground_truth_presence": EVERYTHING,
    "with_pixel_prior": EVERYTHING | {"loss_pixel_prior"},
    "paper": EVERYTHING - {"loss_relevance"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """12 + 1 tiny images of three classes, 4 of them labelled."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 1)):
        for kind in ("images", "labels"):
            (root / "tinyworld" / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = np.repeat(np.repeat(rng.integers(0, 3, (2, 2)), 16, 0), 16, 1).astype(np.uint8)
            image = np.stack((labels * 90, 255 - labels * 90, labels * 30), -1).astype(np.uint8)
            cv2.imwrite(str(root / "tinyworld" / "images" / split / f"{index}.png"), image)
            cv2.imwrite(str(root / "tinyworld" / "labels" / split / f"{index}.png"), labels)
    classes = tuple(ClassDefinition(name, (name,), (80 * c, 40, 200), background=not c) for c, name in enumerate(NAMES))
    register(FolderDataset(name="tinyworld", classes=classes, label_counts=(4,), splits=("train", "val")))
    return root


@pytest.fixture
def train(world, make_cfg, tmp_path, monkeypatch):
    """→ function from a delta and overrides to what two iterations logged."""
    from hiervl.engine.trainer import SemiSupervisedTrainer

    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))

    def run(delta=None, *overrides):
        cfg = make_cfg(
            "MODEL.CLASS_NAMES", [], "MODEL.QUERY_DECODER.LAYERS", 1, "MODEL.PIXEL_DECODER.LAYERS", 1,
            "DATASETS.TRAIN", ["tinyworld_train_4"], "DATASETS.UNLABELED", ["tinyworld_train_4_unlabeled"],
            "DATASETS.TEST", ["tinyworld_val"], "INPUT.CROP_SIZE", 32, "SOLVER.IMS_PER_BATCH", 2,
            "SOLVER.UNLABELED_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 0, "TEST.PICTURES", 0,
            "OUTPUT_DIR", str(tmp_path),
        )  # fmt: skip
        if delta is not None:
            cfg.merge_from_file(str(delta))
        cfg.merge_from_list(list(overrides))
        cfg.freeze()
        trainer = SemiSupervisedTrainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()
        logged = {}
        for line in (tmp_path / "metrics.json").read_text().splitlines():
            logged.update(json.loads(line))
        return trainer, results, logged

    return run


@pytest.mark.parametrize("delta", DELTAS, ids=lambda path: path.stem)
def test_every_baseline_and_ablation_trains(train, delta):
    trainer, results, logged = train(delta)
    losses = {name for name in logged if name.startswith("loss_") and not name[-1].isdigit() or "strong" in name}
    assert losses == EXPECTED[delta.stem]
    assert 0 <= results["sem_seg"]["mIoU"] <= 100 and logged["iteration"] == 1
    per_pixel = delta.stem.startswith(("supervised_per_pixel", "per_pixel", "fixmatch", "unimatch"))
    assert type(trainer.student).__name__ == ("PixelClassifier" if per_pixel else "HierVL")


def test_the_list_of_deltas_is_complete():
    assert {path.stem for path in DELTAS} == set(EXPECTED)


def test_health_and_pictures(train, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="hiervl"):
        trainer, _, logged = train(
            None, "SEMI.HEALTH_PERIOD", 1, "SEMI.PICTURES_PERIOD", 2, "SEMI.GUIDANCE_MIN_IOU", 0.99,
            "SEMI.CONFIDENCE", 2.0,
        )  # fmt: skip
    found = json.loads((tmp_path / "health.json").read_text())
    assert found["iteration"] == 2 and found["seen_pixels"] == 2 * 32 * 32  # of one iteration
    assert found["kept_share"] == 0 and "set SEMI.THRESHOLD to class" in found["problems"][0]
    assert set(found["classes"]) == set(NAMES)
    assert [class_health["guided"] for class_health in found["classes"].values()] == [False] * 3
    assert sum(class_health["labelled_pixels"] for class_health in found["classes"].values()) > 0
    assert 0 <= found["relevance_auc"] <= 1 and 1 <= found["active_classes_per_image"] <= 3
    assert trainer.step.guidance.unguided == {0, 1, 2} and logged["loss_clip_guidance"] == 0
    assert logged["health/problems"] == 1 and logged["health/kept_pixels/cat"] == 0
    messages = [record.getMessage() for record in caplog.records]
    unknown = [message for message in messages if "Its guidance is switched off" in message]
    assert len(unknown) == 1 and all(f"'{name}' (" in unknown[0] for name in ("cat", "red bus"))
    assert sum("hardly any pseudo-label is kept" in message for message in messages) == 1  # and not twice
    sheet = cv2.imread(str(tmp_path / "training_pictures" / "iteration_0000002.png"))
    assert sheet.shape[0] > 4 * 200 and sheet.shape[1] > 6 * 200  # four images, six pictures of each


def test_health_of_a_run_whose_pseudo_labels_are_all_kept(train, tmp_path):
    """Every labelled pixel has a prediction then, so the agreement is the teacher's accuracy, class by class."""
    _, _, logged = train(None, "SEMI.HEALTH_PERIOD", 2, "SEMI.CONFIDENCE", 0.0)
    found = json.loads((tmp_path / "health.json").read_text())
    kept = {name: class_health["kept_pixels"] for name, class_health in found["classes"].items()}
    assert sum(kept.values()) <= found["seen_pixels"] and found["kept_share"] == 1
    assert any(sentence.startswith("practically every pseudo-label") for sentence in found["problems"])
    for name, class_health in found["classes"].items():
        assert class_health["agreement"] is None or 0 <= class_health["agreement"] <= 1
        right, wrong = class_health["validation_right"], class_health["validation_wrong"]
        assert right is None or right + wrong == pytest.approx(1)
        assert logged[f"health/kept_pixels/{name}"] == kept[name]


def test_unlabeled_images_lose_weight_while_they_drive_classes_out(train, monkeypatch):
    """Halved by two looks, then doubled by one: 1/2 of the share that the config gives them. A resumed run keeps it."""
    answers = iter(([2], [2], []))
    monkeypatch.setattr(health, "driven_out", lambda report: next(answers))
    trainer, _, logged = train(
        None, "SEMI.HEALTH_PERIOD", 1, "SEMI.ADAPT_WEIGHT", True, "SEMI.SUPERVISED_SHARE", 0.6, "SOLVER.MAX_ITER", 3
    )
    assert trainer.step.objective.supervised_share == pytest.approx(1 - 0.4 / 2)
    assert logged["health/unlabeled_weight"] == 0.25  # the third look's images were learnt with it
    (hook,) = (each for each in trainer._hooks if isinstance(each, health.HealthCheck))
    state = trainer.state_dict()
    hook._take_weight(1.0)
    trainer.load_state_dict(state)
    assert trainer.step.objective.supervised_share == pytest.approx(1 - 0.4 / 2)


def test_unlabeled_images_that_are_not_learnt_yet_lose_no_weight(train, monkeypatch):
    monkeypatch.setattr(health, "driven_out", lambda report: [2])
    trainer, _, _ = train(None, "SEMI.HEALTH_PERIOD", 1, "SEMI.ADAPT_WEIGHT", True, "SEMI.BURN_IN", 2)
    assert trainer.step.objective.supervised_share == 0.5


def test_adapting_the_weight_needs_looks_at_validation_images(make_cfg):
    with pytest.raises(UserError, match="SEMI.ADAPT_WEIGHT.*SEMI.HEALTH_PERIOD.*DATASETS.TEST"):
        check_training(make_cfg("SEMI.ADAPT_WEIGHT", True, "SEMI.HEALTH_PERIOD", 0, "DATASETS.TEST", ["camvid_val"]))
