"""The hook that watches a semi-supervised run. ``health_report.py`` explains its figures and warnings."""

import logging
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from hiervl.evaluation import confusion_matrix, write_results
from hiervl.semi_supervised.knowledge import describe_classes, labeled_images, unknown_classes, zero_shot
from hiervl.semi_supervised.pseudo_labels import make_pseudo_labels
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.tolerance import going_on_without

from .health_report import HealthReport, find_problems, presence_auc
from .loop import OptimizationLoop

logger = logging.getLogger(__name__)

FILE = "health.json"


class HealthCheck(HookBase):
    """Counts the pseudo-labels of every iteration. Every ``period`` iterations and after the last one, it also examines
    labelled images, logs all figures, writes ``OUTPUT_DIR/health.json`` and warns of new problems.

    Before training it switches guidance off for classes that the frozen CLIP does not know. With ``period`` 0 it does
    nothing else.
    """

    def __init__(self, cfg, step: SemiSupervisedStep, period: int):
        self.cfg, self.step, self.period = cfg, step, period
        self.class_names: list[str] = step.student.class_names
        self.zero_shot_iou: np.ndarray | None = None
        self.known_problems: dict[str, tuple[str, ...]] = {}
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

    def _report(self, iteration: int) -> None:
        report = examine(self.cfg, self.step)
        report.kept_pixels, report.seen_pixels = self._kept.cpu().numpy(), int(self._seen)
        report.gradient_ratio = self._loop.gradient_ratio
        report.zero_shot_iou = self.zero_shot_iou
        report.unguided = sorted(self.step.guidance.unguided) if self.step.guidance is not None else ()
        report.problems = find_problems(report)
        for kind, classes, sentence in report.problems:
            if kind not in self.known_problems or set(classes) - set(self.known_problems[kind]):
                logger.warning("Iteration %d: %s", iteration, sentence)
        self.known_problems = {problem.kind: problem.classes for problem in report.problems}
        self.trainer.storage.put_scalars(**report.scalars(), smoothing_hint=False)
        with going_on_without(FILE):
            write_results(report.as_dict(iteration), str(Path(self.cfg.OUTPUT_DIR) / FILE))


@torch.no_grad()
def examine(cfg, step: SemiSupervisedStep) -> HealthReport:
    """Examine the teacher on weak views of labelled images, whose truth is known."""
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
        valid = truth != ignore_value
        pseudo = make_pseudo_labels(
            network.semantic_maps(images).float(), valid, step.threshold.keeps,
            ignore_value=ignore_value,
        )  # fmt: skip
        for image_truth, labels, keep in zip(truth, pseudo.labels, pseudo.keep):
            known = image_truth.masked_fill(~keep, ignore_value)
            kept += confusion_matrix(known.cpu().numpy(), labels.cpu().numpy(), num_classes, ignore_value)
            counts = torch.bincount(image_truth[image_truth != ignore_value], minlength=num_classes).cpu().numpy()
            labeled += counts
            presence.append(counts > 0)
        if network.gate is not None:
            similarity = network.relevance_similarity(network.normalize(list(images)), network.encode_text())
            gate = network.gate.gate_logits(similarity).sigmoid()
            relevance.append(gate.cpu().numpy())
            active.extend(network.gate.active_classes(gate).sum(1).tolist())
    network.train(was_training)
    predicted = kept.sum(0)
    report = HealthReport(
        class_names=network.class_names,
        kept_pixels=np.zeros(num_classes, dtype=np.int64),
        seen_pixels=0,
        labeled_pixels=labeled,
        agreement=np.divide(np.diag(kept), predicted, out=np.full(num_classes, np.nan), where=predicted > 0),
        confidence=step.threshold.threshold,
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
