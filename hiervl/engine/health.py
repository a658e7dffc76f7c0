"""The hook that watches a semi-supervised run. ``health_report.py`` explains its figures and warnings."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from hiervl.evaluation import confusion_matrix, write_results
from hiervl.semi_supervised.calibration import validation_batches
from hiervl.semi_supervised.knowledge import describe_classes, labeled_images, unknown_classes, zero_shot
from hiervl.semi_supervised.pseudo_labels import make_pseudo_labels
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.errors import UserError
from hiervl.utils.tolerance import going_on_without

from .health_report import HealthReport, driven_out, find_problems, presence_auc
from .loop import OptimizationLoop

logger = logging.getLogger(__name__)

FILE = "health.json"
VALIDATION_IMAGES = 24
LEAST_WEIGHT = 1 / 16  # of unlabelled images, as a share of the config's, below which SEMI.ADAPT_WEIGHT does not go


class HealthCheck(HookBase):
    """Counts the pseudo-labels of every iteration. Every ``period`` iterations and after the last one, it also examines
    labelled images, logs all figures, writes ``OUTPUT_DIR/health.json`` and warns of new problems.

    Before training it switches guidance off for classes that the frozen CLIP does not know. With ``period`` 0 it does
    nothing else. With ``SEMI.ADAPT_WEIGHT`` it changes the weight of unlabelled images.
    """

    def __init__(self, cfg, step: SemiSupervisedStep, period: int):
        self.cfg, self.step, self.period = cfg, step, period
        self.class_names: list[str] = step.student.class_names
        self.zero_shot_iou: np.ndarray | None = None
        self.known_problems: dict[str, tuple[str, ...]] = {}
        self.unlabeled_weight = 1.0  # as a share of the config's
        self._kept = torch.zeros(len(self.class_names), dtype=torch.long, device=step.student.device)
        self._seen = torch.zeros((), dtype=torch.long, device=step.student.device)

    def before_train(self) -> None:
        """All processes see the same labelled images, so they agree on what is switched off."""
        guidance, frozen_clip = self.step.guidance, self.step.frozen_clip
        if guidance is None or frozen_clip is None or not (self.period or self.cfg.SEMI.GUIDANCE_MIN_IOU):
            return
        self.zero_shot_iou, shown = zero_shot(self.cfg, self.step.student, frozen_clip)
        least = self.cfg.SEMI.GUIDANCE_MIN_IOU
        unknown = [c for c in unknown_classes(self.zero_shot_iou, shown, least) if c not in guidance.unguided]
        guidance.unguided.update(unknown)
        if unknown:
            names = describe_classes(self.class_names, self.zero_shot_iou, unknown)
            logger.warning(
                "CLIP does not know some classes (in brackets how far its zero-shot prediction overlaps the labelled "
                "images, IoU): %s. Its guidance is switched off for them (SEMI.GUIDANCE_MIN_IOU %g); other words for "
                "them may help.",
                names, least,
            )  # fmt: skip

    def before_step(self) -> None:
        self._loop.measures_gradients = self._is_due

    @property
    def _is_due(self) -> bool:
        next_iter = self.trainer.iter + 1
        return self.period > 0 and (next_iter == self.trainer.max_iter or next_iter % self.period == 0)

    @property
    def _loop(self) -> OptimizationLoop:
        return self.trainer._trainer

    def after_step(self) -> None:
        """With several micro-batches, the last one is counted."""
        if self.period <= 0:
            return
        pseudo = self.step.last_pseudo
        if pseudo is not None:
            num_classes = len(self._kept)
            kept = pseudo.labels.masked_fill(~pseudo.keep, num_classes).flatten()
            counts = kept.new_zeros(num_classes + 1).scatter_add_(0, kept, torch.ones_like(kept))
            self._kept += counts[:num_classes]
            self._seen += (pseudo.labels != self.step.ignore_value).sum()
        if not self._is_due:
            return
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(self._kept)
            torch.distributed.all_reduce(self._seen)
        if comm.is_main_process():
            self._report(self.trainer.iter + 1)
        self._kept.zero_()
        self._seen.zero_()
        comm.synchronize()  # only one process needs time for the report
        if self.cfg.SEMI.ADAPT_WEIGHT:
            self._take_weight(self.unlabeled_weight)

    def _report(self, iteration: int) -> None:
        report = examine(self.cfg, self.step)
        report.kept_pixels, report.seen_pixels = self._kept.cpu().numpy(), int(self._seen)
        report.gradient_ratio = self._loop.gradient_ratio
        report.zero_shot_iou = self.zero_shot_iou
        report.unguided = sorted(self.step.guidance.unguided) if self.step.guidance is not None else ()
        report.unlabeled_weight = self.unlabeled_weight
        report.problems = find_problems(report)
        for kind, classes, sentence in report.problems:
            if kind not in self.known_problems or set(classes) - set(self.known_problems[kind]):
                logger.warning("Iteration %d: %s", iteration, sentence)
        self.known_problems = {problem.kind: problem.classes for problem in report.problems}
        self.trainer.storage.put_scalars(**report.scalars(), smoothing_hint=False)
        with going_on_without(FILE):
            write_results(report.as_dict(iteration), str(Path(self.cfg.OUTPUT_DIR) / FILE))
        if self.cfg.SEMI.ADAPT_WEIGHT and report.seen_pixels:  # not while labelled images are learnt alone
            factor = 0.5 if driven_out(report) else 2.0
            weight = min(max(self.unlabeled_weight * factor, LEAST_WEIGHT), 1.0)
            if weight != self.unlabeled_weight:
                logger.info("Unlabelled images have %g of their weight now (SEMI.ADAPT_WEIGHT).", weight)
            self.unlabeled_weight = weight

    def _take_weight(self, weight: float) -> None:
        """The main process's weight of unlabelled images, in all processes."""
        if comm.get_world_size() > 1:
            value = torch.tensor(weight, dtype=torch.float64, device=self._seen.device)
            torch.distributed.broadcast(value, 0)
            weight = float(value)
        self.unlabeled_weight = weight
        share = 1.0 - weight * (1.0 - self.cfg.SEMI.SUPERVISED_SHARE)
        self.step.objective = dataclasses.replace(self.step.objective, supervised_share=share)

    def state_dict(self) -> dict:
        """For checkpoints: a resumed run goes on with the weight that it had."""
        return {"unlabeled_weight": self.unlabeled_weight} if self.cfg.SEMI.ADAPT_WEIGHT else {}

    def load_state_dict(self, state: dict) -> None:
        if self.cfg.SEMI.ADAPT_WEIGHT:
            self._take_weight(state["unlabeled_weight"])


@torch.no_grad()
def examine(cfg, step: SemiSupervisedStep) -> HealthReport:
    """Examine the teacher on weak views of labelled images, whose truth is known, and of validation images."""
    network, ignore_value = step.teacher.network, step.ignore_value
    num_classes = len(network.class_names)
    was_training = network.training
    network.eval()
    kept = np.zeros((num_classes, num_classes), dtype=np.int64)
    labeled = np.zeros(num_classes, dtype=np.int64)
    relevance: list[np.ndarray] = []
    presence: list[np.ndarray] = []
    active: list[float] = []
    for images, truth in labeled_images(cfg, network):
        kept += _kept_pseudo_labels(step, images, truth)
        for image_truth in truth:
            counts = _pixels_by_class(image_truth, num_classes, ignore_value)
            labeled += counts
            presence.append(counts > 0)
        if network.gate is not None:
            similarity = network.relevance_similarity(network.normalize(list(images)), network.encode_text())
            gate = network.gate.gate_logits(similarity).sigmoid()
            relevance.append(gate.cpu().numpy())
            active.extend(network.gate.active_classes(gate).sum(1).tolist())
    validation, validation_pixels = _on_validation_images(cfg, step)
    network.train(was_training)
    predicted = kept.sum(0)
    report = HealthReport(
        class_names=network.class_names,
        kept_pixels=np.zeros(num_classes, dtype=np.int64),
        seen_pixels=0,
        labeled_pixels=labeled,
        agreement=np.divide(np.diag(kept), predicted, out=np.full(num_classes, np.nan), where=predicted > 0),
        validation=validation,
        validation_pixels=validation_pixels,
        balance=step.objective.balance,
        confidence=float("nan") if step.threshold.mode == "adaptive" else step.threshold.threshold,
        burn_in=cfg.SEMI.BURN_IN,
        has_class_thresholds=cfg.SEMI.THRESHOLD != "fixed",
    )
    if relevance:
        scores, shown = np.concatenate(relevance), np.stack(presence)
        report.relevance_auc = presence_auc(scores, shown)
        report.relevance_present = float(scores[shown].mean()) if shown.any() else float("nan")
        report.relevance_absent = float(scores[~shown].mean()) if not shown.all() else float("nan")
        report.active_classes = float(np.mean(active))
    return report


def _on_validation_images(cfg, step: SemiSupervisedStep) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``validation`` and ``validation_pixels`` of the report; None if no validation image can be read."""
    network, num_classes = step.teacher.network, len(step.student.class_names)
    kept = np.zeros((num_classes, num_classes), dtype=np.int64)
    pixels = np.zeros(num_classes, dtype=np.int64)
    try:
        for images, truth in labeled_images(cfg, network, validation_batches(cfg, VALIDATION_IMAGES)):
            kept += _kept_pseudo_labels(step, images, truth)
            pixels += _pixels_by_class(truth, num_classes, step.ignore_value)
    except UserError as error:  # the evaluation will say so, and that the training is saved
        logger.warning("Pseudo-labels are not compared with validation images: %s", error)
    return (kept, pixels) if pixels.any() else (None, None)


def _kept_pseudo_labels(step: SemiSupervisedStep, images: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Pixels whose pseudo-label would be kept, by true class and pseudo-label: (C, C)."""
    network, ignore_value = step.teacher.network, step.ignore_value
    pseudo = make_pseudo_labels(
        network.semantic_maps(images).float(), truth != ignore_value, step.threshold.keeps, ignore_value=ignore_value
    )
    known = truth.masked_fill(~pseudo.keep, ignore_value)
    return confusion_matrix(known.cpu().numpy(), pseudo.labels.cpu().numpy(), len(network.class_names), ignore_value)


def _pixels_by_class(truth: torch.Tensor, num_classes: int, ignore_value: int) -> np.ndarray:
    return torch.bincount(truth[truth != ignore_value], minlength=num_classes).cpu().numpy()
