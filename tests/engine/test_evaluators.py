"""Evaluators of Detectron2 and of users in the place of HierVL's."""

import inspect
import json

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator

from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.evaluation import SemanticEvaluator
from hiervl.utils.errors import UserError


class Mine(SemSegEvaluator):
    """Reads the shares of the classes too."""

    def reset(self):
        super().reset()
        self.least = 1.0

    def process(self, inputs, outputs):
        super().process(inputs, outputs)
        shares = torch.stack([output["sem_seg"].max(0).values.min() for output in outputs])
        self.least = min(self.least, float(shares.min()))

    def evaluate(self):
        results = super().evaluate()
        results["sem_seg"]["least share"] = self.least
        return results


class WithMine(SemiSupervisedTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Mine(dataset_name, distributed=False)


@pytest.fixture
def evaluated(world, tmp_path, options, monkeypatch):
    """Config and network to be evaluated on three images with 11 classes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    torch.manual_seed(1)
    cfg = prepare_config(load_config("", options(world, tmp_path, "TEST.PICTURES", "1", "INPUT.CROP_SIZE", "24")))
    return cfg, SemiSupervisedTrainer.build_model(cfg).eval()


def test_detectron2s_evaluator_counts_the_same(evaluated, tmp_path):
    """Built by a subclass or handed over, alone or among others."""
    cfg, network = evaluated
    ours = SemiSupervisedTrainer.test(cfg, network)["sem_seg"]
    built = WithMine.test(cfg, network)["sem_seg"]
    assert 1 / 11 <= built["least share"] < 1
    written = json.loads((tmp_path / "results.json").read_text())["sem_seg"]
    assert written["least share"] == built["least share"]
    handed_over = SemiSupervisedTrainer.test(cfg, network, SemSegEvaluator("camvid_val"))["sem_seg"]
    both = DatasetEvaluators([SemSegEvaluator("camvid_val"), _OfBoundaries()])
    among_others = SemiSupervisedTrainer.test(cfg, network, [both])
    assert among_others["boundaries"] == {"images": 3}
    for theirs in (built, handed_over, among_others["sem_seg"]):
        assert theirs["pACC"] == pytest.approx(ours["pACC"]) and 0 < ours["pACC"] < 100
        assert theirs["mIoU"] == pytest.approx(ours[detectron2_mean()])
        ious = [theirs[f"IoU-{name}"] for name, iou in ours["IoU"].items() if iou > 0]
        assert ious == pytest.approx([iou for iou in ours["IoU"].values() if iou > 0])


class _OfBoundaries(SemanticEvaluator):
    """Another task, told by the same images."""

    def __init__(self):
        super().__init__(["a"])

    def process(self, inputs, outputs):
        self.images += len(outputs)

    def evaluate(self):
        return {"boundaries": {"images": self.images}}


def detectron2_mean():
    """Which of the two means this version of Detectron2 calls mIoU: one that counts classes that are only predicted."""
    counts_them = "np.sum(iou[acc_valid]) / np.sum(iou_valid)" in inspect.getsource(SemSegEvaluator.evaluate)
    return "mIoU" if counts_them else "mIoU_in_truth"


def test_a_training_with_an_evaluator_of_a_users_ends_well(evaluated, tmp_path):
    """Its mIoU chooses the best checkpoint, and the report is written."""
    cfg, _ = evaluated
    trainer = WithMine(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.train()["sem_seg"]["least share"] < 1
    for name in ("model_best.pth", "results.json", "report.html"):
        assert (tmp_path / name).is_file(), name


def test_numbers_of_evaluators_and_datasets_agree(evaluated):
    cfg, network = evaluated
    with pytest.raises(ValueError, match="2 evaluators for 1 datasets"):
        SemiSupervisedTrainer.test(cfg, network, [SemanticEvaluator(["a"]), SemanticEvaluator(["a"])])


def test_another_tasks_dataset_is_refused_before_the_training(evaluated, monkeypatch):
    """Unless the trainer brings an evaluator for it."""
    cfg, _ = evaluated
    metadata = MetadataCatalog.get("camvid_val")
    for kind in ("coco_panoptic_seg", "cityscapes_sem_seg"):
        monkeypatch.setitem(vars(metadata), "evaluator_type", kind)
        assert isinstance(SemiSupervisedTrainer.build_evaluator(cfg, "camvid_val"), SemanticEvaluator)
    monkeypatch.setitem(vars(metadata), "evaluator_type", "lvis")
    with pytest.raises(UserError, match="'camvid_val' is evaluated as 'lvis' .*override the trainer's build_evaluator"):
        SemiSupervisedTrainer(cfg)
    WithMine(cfg)
