"""One iteration: a batch of labelled and unlabelled images in, losses out (design §4)."""

from typing import Dict, List, Optional, Union

import torch
from torch import Tensor, nn

from hiervl.errors import UserError
from hiervl.losses.pixel_losses import pixel_cross_entropy
from hiervl.modeling import HierVL, TextFeatures

from .guidance import ClipGuidance
from .pseudo_labels import ConfidenceThreshold, PseudoLabels, box_masks, cutmix, kept_fractions, make_pseudo_labels
from .teacher import EmaTeacher, StudentAsTeacher


class SemiSupervisedStep(nn.Module):
    """All passes of an iteration inside one call, so that data-parallel training reduces gradients once.

    1. text embeddings of the student, for all its passes;
    2. student on the labelled images → supervised losses;
    3. teacher on the weak views → pseudo-labels (no gradient);
    4. frozen CLIP on the weak views → guidance where it is sure (no gradient);
    5. student on both strong views, CutMixed with labels and guidance → ``loss_strong1``, ``loss_strong2``,
       ``loss_clip_guidance``;
    6. prompt losses.
    """

    def __init__(
        self,
        student: HierVL,
        teacher: Union[EmaTeacher, StudentAsTeacher],
        threshold: ConfidenceThreshold,
        guidance: Optional[ClipGuidance] = None,
        *,
        use_unlabeled: bool = True,
        strong_weight: float = 0.25,
        supervised_share: float = 0.5,
        sharpen: float = 1.0,
        burn_in: int = 0,
        ignore_value: int = 255,
    ):
        """
        Args:
            student: the network that is trained; teacher: the one that labels.
            threshold: which pseudo-labels are kept.
            guidance: what the untrained CLIP says of unlabelled images; None: it is not asked.
            use_unlabeled: off: supervised-only training, with full weight on the labelled images.
            strong_weight: weight of each strong view.
            supervised_share: weight of the labelled losses, the unlabelled ones having the rest of 1.
            sharpen: see :func:`make_pseudo_labels`.
            burn_in: iterations on labelled images alone.
            ignore_value: label of pixels that count nowhere.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.threshold = threshold
        self.guidance = guidance
        self.use_unlabeled = use_unlabeled
        self.strong_weight = strong_weight
        self.supervised_share = supervised_share
        self.sharpen = sharpen
        self.burn_in = burn_in
        self.ignore_value = ignore_value
        self.iteration = 0  # of the trainer
        self.statistics: Dict[str, Tensor] = {}  # of the last call, for the log

    @classmethod
    def from_config(cls, cfg, student: HierVL) -> "SemiSupervisedStep":
        """``SEMI`` of the config around a built network."""
        semi = cfg.SEMI
        if semi.TEACHER not in ("ema", "student"):
            raise UserError(f"SEMI.TEACHER is 'ema' or 'student', not '{semi.TEACHER}'.")
        is_ema = semi.TEACHER == "ema"
        return cls(
            student,
            EmaTeacher(student, semi.EMA_DECAY) if is_ema else StudentAsTeacher(student),
            ConfidenceThreshold(len(student.class_names), semi.CONFIDENCE, semi.THRESHOLD),
            ClipGuidance.from_config(cfg, student) if semi.ENABLED and semi.GUIDANCE_WEIGHT else None,
            use_unlabeled=semi.ENABLED,
            strong_weight=semi.STRONG_WEIGHT,
            supervised_share=semi.SUPERVISED_SHARE,
            sharpen=semi.SHARPEN,
            burn_in=semi.BURN_IN,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )

    def forward(self, batch: Dict[str, List[dict]]) -> Dict[str, Tensor]:
        """batch: {"labeled": [...], "unlabeled": [...]} as the loader makes them → weighted losses by name."""
        text = self.student.encode_text()
        losses = self.student.supervised_losses(batch["labeled"], text)
        self.statistics = {}
        if self.use_unlabeled and batch["unlabeled"] and self.iteration >= self.burn_in:
            share = self.supervised_share
            losses = {name: share * loss for name, loss in losses.items()}
            unlabelled = self._unlabelled_losses(batch["unlabeled"], text)
            losses.update({name: (1 - share) * loss for name, loss in unlabelled.items()})
        losses.update(self.student.prompt_losses(text))
        return losses

    def update_teacher(self) -> None:
        """To be called after every optimiser step."""
        self.teacher.update(self.student, self.iteration)

    def _unlabelled_losses(self, unlabelled: List[dict], text: TextFeatures) -> Dict[str, Tensor]:
        if not unlabelled or self.iteration < self.burn_in:
            return {}
        pseudo = self._pseudo_labels(unlabelled)
        guide = self._guidance(unlabelled, text)
        views, targets = [], []
        for view in ("1", "2"):
            images = self._stack(unlabelled, f"image_strong{view}")
            inside = box_masks(self._stack(unlabelled, f"cutmix_box{view}"), *images.shape[2:])
            views.append(cutmix(images, inside))
            targets.append([_cutmix_labels(labels, inside) for labels in (pseudo, guide) if labels is not None])
        images = self.student.normalise(list(torch.cat(views)))
        scores = self.student.semantic_scores(self.student.segment(images, text), text)
        losses: Dict[str, Tensor] = {}
        with torch.autocast(scores.device.type, enabled=False):
            for view, of_view, (of_teacher, *of_clip) in zip(("1", "2"), scores.chunk(2), targets):
                losses[f"loss_strong{view}"] = self.strong_weight * self._pixel_loss(of_view, of_teacher, images)
                for labels in of_clip:
                    weight = self.guidance.weight(self.iteration) / len(views)
                    loss = weight * self._pixel_loss(of_view, labels, images)
                    losses["loss_clip_guidance"] = losses.get("loss_clip_guidance", 0.0) + loss
        return losses

    def _pixel_loss(self, scores: Tensor, target: PseudoLabels, images: Tensor) -> Tensor:
        labels, keep = (self._pad(x, images.shape[2:]) for x in target)
        return pixel_cross_entropy(scores, labels, self.ignore_value, keep)

    def _guidance(self, unlabelled: List[dict], text: TextFeatures) -> Optional[PseudoLabels]:
        if self.guidance is None or not self.guidance.weight(self.iteration):
            return None
        images = self._stack(unlabelled, "image_weak")
        return self.guidance(
            self.student.normalise(list(images)), text, self._stack(unlabelled, "valid"), self.ignore_value
        )

    @torch.no_grad()
    def _pseudo_labels(self, unlabelled: List[dict]) -> PseudoLabels:
        network = self.teacher.network
        was_training = network.training
        network.eval()
        scores = network.semantic_maps(self._stack(unlabelled, "image_weak"))
        network.train(was_training)
        with torch.autocast(scores.device.type, enabled=False):
            pseudo = make_pseudo_labels(
                scores.float(),
                self._stack(unlabelled, "valid"),
                self.threshold,
                sharpen=self.sharpen,
                ignore_value=self.ignore_value,
            )
        background = self.student.query_generator.always_active
        self.statistics.update(kept_fractions(pseudo, background, self.ignore_value))
        return pseudo

    def _stack(self, items: List[dict], key: str) -> Tensor:
        return torch.stack([item[key] for item in items]).to(self.student.device)

    def _pad(self, x: Tensor, size) -> Tensor:
        """Labels and masks (B, H, W) to the padded size of the images, ignored where padded."""
        value = False if x.dtype == torch.bool else self.ignore_value
        return nn.functional.pad(x, (0, size[1] - x.shape[2], 0, size[0] - x.shape[1]), value=value)


def _cutmix_labels(labels: PseudoLabels, inside: Tensor) -> PseudoLabels:
    return PseudoLabels(cutmix(labels.labels, inside), cutmix(labels.keep, inside))
