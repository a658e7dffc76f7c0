"""One iteration: a batch of labelled and unlabelled images in, losses out (design §4)."""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from hiervl.losses.pixel_losses import normalized, pixel_cross_entropy, pixel_entropy
from hiervl.modeling import HierVL
from hiervl.modeling.frozen_clip import ClipEmbeddings, FrozenClip
from hiervl.modeling.image_encoder import MAPS
from hiervl.modeling.perturbation import drop_channels
from hiervl.modeling.switches import build_frozen_clip
from hiervl.structures import TextFeatures
from hiervl.utils.errors import UserError
from hiervl.utils.transfer import to_device

from .class_mix import PastedClasses, draw_classes
from .color_transfer import in_labeled_colors, in_unlabeled_colors
from .frozen_pass import embed_together
from .guidance import ClipGuidance
from .masked import MaskedConsistency
from .objective import UnlabeledObjective
from .pseudo_labels import ConfidenceThreshold, PseudoLabels, box_masks, cutmix, kept_fractions, make_pseudo_labels
from .teacher import EmaTeacher, StudentAsTeacher

logger = logging.getLogger(__name__)

STRONG_VIEWS = ("1", "2")


class UnlabeledImages(NamedTuple):
    """The views of a batch's unlabelled images. Lists hold one entry per strong view."""

    weak: Tensor  # (B, 3, H, W) in 0…255
    valid: Tensor  # (B, H, W) bool, False on padding
    strong: list[Tensor]  # (B, 3, H, W) in 0…255, CutMixed, with pasted classes
    inside: list[Tensor]  # (B, H, W) bool: the pixels that came from another image
    pasted: list[PastedClasses]  # empty: nothing is pasted
    weak_in_labeled_colors: Tensor | None = None  # (B, 3, H, W) in 0…255, for the teacher

    def labels(self, of_weak: PseudoLabels) -> list[PseudoLabels]:
        """Labels of every strong view, from those of the weak view."""
        labels = [PseudoLabels(*(cutmix(x, inside) for x in of_weak)) for inside in self.inside]
        return [pasted.onto_labels(x) for pasted, x in zip(self.pasted, labels)] if self.pasted else labels

    def strong_valid(self) -> list[Tensor]:
        """(B, H, W) bool of every strong view, False on padding."""
        valid = [cutmix(self.valid, inside) for inside in self.inside]
        return [pasted.inside | x for pasted, x in zip(self.pasted, valid)] if self.pasted else valid


class ViewTarget(NamedTuple):
    """The target of the student for one view of all unlabelled images."""

    name: str  # weight of the view's loss
    weight: float
    labels: PseudoLabels


class SemiSupervisedStep(nn.Module):
    """All passes of an iteration inside one call, so that data-parallel training reduces gradients once.

    1. text embeddings of the student, for all its passes; views of the unlabelled images, CutMixed;
    2. frozen CLIP on labelled images and weak views, in one pass (no gradient), if something below needs it;
    3. student on the labelled images, some in the colours of unlabelled ones → supervised losses;
    4. student's encoder on the labelled images with a class hidden → ``loss_masked_consistency``, ``loss_pixel_text``;
    5. prompt losses;
    6. teacher on the weak views, with ``SEMI.COLOR_AGREEMENT`` also in the colours of labelled images → pseudo-labels
       (no gradient);
    7. student on the strong views and on the weak view with perturbed features, in one pass → ``loss_strong1``,
       ``loss_strong2``, ``loss_clip_guidance``, ``loss_entropy``, ``loss_feature_perturbation``.

    A single process back-propagates 3 to 5 before it begins with 6, see :meth:`parts`. Losses of weight 0 are not
    computed.
    """

    def __init__(
        self,
        student: HierVL,
        teacher: EmaTeacher | StudentAsTeacher,
        threshold: ConfidenceThreshold,
        guidance: ClipGuidance | None = None,
        masked: MaskedConsistency | None = None,
        frozen_clip: FrozenClip | None = None,
        *,
        objective: UnlabeledObjective,
    ):
        """
        Args:
            student: the network that is trained; teacher: the network that makes pseudo-labels.
            threshold: which pseudo-labels are kept.
            guidance: labels by the frozen CLIP; None: not used.
            masked: the losses of a hidden class; None: not used.
            frozen_clip: needed by guidance and masked consistency.
            objective: the losses of unlabelled images and their weights.

        Raises:
            UserError: the objective needs losses that the network does not have.
        """
        super().__init__()
        if objective.loss == "set" and not student.has_set_losses:
            raise UserError(
                "SEMI.LOSS is 'set', but this network (MODEL.META_ARCHITECTURE) has no losses of queries: set it to "
                "'pixel'."
            )
        self.student = student
        self.teacher = teacher
        self.threshold = threshold
        self.guidance = guidance
        self.masked = masked
        self.frozen_clip = frozen_clip
        self.objective = objective
        self.ignore_value = objective.ignore_value
        self.iteration = 0  # of the trainer
        self.statistics: dict[str, Tensor] = {}  # of the last call, for the log
        self.last_pseudo: PseudoLabels | None = None  # of the last call

    @classmethod
    def from_config(cls, cfg, student: HierVL) -> "SemiSupervisedStep":
        """Build the step from ``SEMI`` around a network, which must not be trained or loaded yet."""
        semi = cfg.SEMI
        if semi.TEACHER not in ("ema", "student"):
            raise UserError(f"SEMI.TEACHER is 'ema' or 'student', not '{semi.TEACHER}'.")
        is_ema = semi.TEACHER == "ema"
        guides = semi.ENABLED and (semi.GUIDANCE_WEIGHT or semi.GUIDANCE_LAST_WEIGHT)
        masked = MaskedConsistency.from_config(cfg, student)
        frozen_clip = student.frozen_clip
        if frozen_clip is None and (guides or (masked is not None and masked.needs_frozen_clip)):
            frozen_clip = build_frozen_clip(cfg, student.backbone, student.logit_scale, share=not cfg.MODEL.WEIGHTS)
        _warn_if_cutmix_lacks_images(cfg)
        return cls(
            student,
            EmaTeacher(student, semi.EMA_DECAY) if is_ema else StudentAsTeacher(student),
            ConfidenceThreshold(len(student.class_names), semi.CONFIDENCE, semi.THRESHOLD),
            ClipGuidance.from_config(cfg, student.background) if guides else None,
            masked,
            frozen_clip,
            objective=UnlabeledObjective.from_config(cfg),
        )

    def forward(self, batch: dict[str, list[dict]]) -> dict[str, Tensor]:
        """batch: {"labeled": [...], "unlabeled": [...]} as the loader makes them → weighted losses by name."""
        return {name: loss for part in self._parts(batch, self.student.encode_text()) for name, loss in part.items()}

    def parts(self, batch: dict[str, list[dict]]) -> Iterator[dict[str, Tensor]]:
        """As :meth:`forward`, but first the losses of labelled images, then those of unlabelled images.

        Back-propagate each part completely, without keeping its graph, before taking the next one. Then memory for only
        one part is needed at a time. The graph of the text, which they share, comes last.
        """
        text = self.student.encode_text()
        held = TextFeatures._make(map(_cut_off, text))
        yield from self._parts(batch, held)
        tensors: list[Tensor] = []
        gradients: list[Tensor] = []
        for tensor, leaf in zip(text, held):
            if tensor is not None and leaf is not None and leaf is not tensor and leaf.grad is not None:
                tensors.append(tensor)
                gradients.append(leaf.grad)
        if tensors:
            torch.autograd.backward(tensors, gradients)

    def _parts(self, batch: dict[str, list[dict]], text: TextFeatures) -> Iterator[dict[str, Tensor]]:
        self.statistics, self.last_pseudo = {}, None
        objective, device = self.objective, self.student.device
        transfers = objective.enabled and objective.color_transfer
        seen = in_unlabeled_colors(batch, objective.color_transfer, device) if transfers else batch
        samples = seen["labeled"]
        labeled = self.student.normalize([item["image"] for item in samples])
        views = None
        if objective.enabled and batch["unlabeled"] and self.iteration >= objective.burn_in:
            views = self.views(seen["unlabeled"], samples)
            if objective.color_agreement:
                views = views._replace(weak_in_labeled_colors=in_labeled_colors(batch, device))
        frozen = self._frozen_pass(labeled, views)
        share = objective.supervised_share if views is not None else 1.0

        losses = self.student.supervised_losses(samples, text, **_frozen_embedding(frozen.get("labelled")))
        losses = {name: share * loss for name, loss in losses.items()}
        if self.masked is not None:
            whole = frozen["labelled"].dense if self.masked.needs_frozen_clip else None
            losses.update(self.masked.losses(self.student, samples, labeled, whole, text))
        losses.update(self.student.prompt_losses(text))
        yield losses
        if views is not None:
            del losses
            unlabeled = self._unlabeled_losses(views, text, frozen)
            yield {name: (1 - share) * loss for name, loss in unlabeled.items()}

    def update_teacher(self) -> None:
        """Call it after every optimiser step."""
        self.teacher.update(self.student, self.iteration)

    # ---- what the passes see -------------------------------------------------------------------------------------

    @property
    def _guides(self) -> bool:
        return self.guidance is not None and bool(self.guidance.weight(self.iteration))

    @property
    def _uses_strong_views(self) -> bool:
        return bool(self.objective.strong_weight or self.objective.entropy_weight) or self._guides

    def views(self, items: list[dict], labeled: Sequence[dict] = ()) -> UnlabeledImages:
        """The views of unlabelled samples, with CutMix and, if there are any, classes of labelled ones. Strong views
        only if a loss needs them."""
        strong: list[Tensor] = []
        inside: list[Tensor] = []
        pasted: list[PastedClasses] = []
        for view in STRONG_VIEWS[: self.objective.strong_views] if self._uses_strong_views else ():
            images = self._stack(items, f"image_strong{view}")
            inside.append(box_masks(self._stack(items, f"cutmix_box{view}"), *images.shape[2:]))
            images = cutmix(images, inside[-1])
            if self.objective.class_mix and labeled:
                classes = draw_classes(
                    labeled, len(items), self.objective.class_mix, self.ignore_value, self.student.device
                )
                images = classes.onto_images(images)
                pasted.append(classes)
            strong.append(images)
        return UnlabeledImages(self._stack(items, "image_weak"), self._stack(items, "valid"), strong, inside, pasted)

    def _frozen_pass(self, labeled: Tensor, views: UnlabeledImages | None) -> dict[str, ClipEmbeddings]:
        """Embeddings by the frozen CLIP of those of "labelled", "weak" and "strong" images that need them."""
        if self.frozen_clip is None:
            return {}
        needs_all = self.student.frozen_clip is not None
        groups = {}
        if needs_all or (self.masked is not None and self.masked.needs_frozen_clip):
            groups["labelled"] = labeled
        if views is not None and (needs_all or self._guides):
            groups["weak"] = self.student.normalize(list(views.weak))
        if views is not None and needs_all and views.strong:
            groups["strong"] = self.student.normalize(list(torch.cat(views.strong)))
        return embed_together(self.frozen_clip, groups, pooled=needs_all) if groups else {}

    # ---- losses of unlabelled images -----------------------------------------------------------------------------

    def _unlabeled_losses(
        self, views: UnlabeledImages, text: TextFeatures, frozen: dict[str, ClipEmbeddings]
    ) -> dict[str, Tensor]:
        objective = self.objective
        perturbs = bool(objective.perturbation_weight)
        seen = [*views.strong, views.weak] if perturbs else views.strong
        if not seen:
            return {}
        guide = self._guide(views, frozen["weak"].dense, text) if self._guides else None
        pseudo = None
        if objective.has_pseudo_labels:
            pseudo = self._pseudo_labels(views, _frozen_embedding(frozen.get("weak")))
        output, size = self._student_pass(seen, len(views.strong), text, frozen)
        with torch.autocast(self.student.device.type, enabled=False):
            scores = self.student.semantic_scores(output, text).chunk(len(seen))
            losses = {}
            if pseudo is not None:
                targets = self._targets(views, pseudo)
                if objective.loss == "set":
                    losses.update(self._set_losses(output, targets, size))
                    losses.update(self._pixel_losses(scores, targets, self.student.pixel_loss_weight, size))
                else:
                    losses.update(self._pixel_losses(scores, targets, self.student.loss_scale, size))
            losses.update(self._other_losses(scores, views, guide, size))
            losses.update(self.student.joint_losses(output))
        return losses

    def _student_pass(self, seen: list[Tensor], num_strong: int, text: TextFeatures, frozen: dict[str, ClipEmbeddings]):
        """All views in one batch, the perturbed one last → the student's output and the padded size (H, W)."""
        images = self.student.normalize(list(torch.cat(seen)))
        options: dict = _frozen_embedding(
            *(frozen.get(name) for name in ("strong", "weak")[: 1 + len(seen) - num_strong])
        )
        if len(seen) > num_strong:
            first = num_strong * len(seen[-1])
            dropout = self.objective.perturbation_dropout
            options["perturb"] = functools.partial(drop_channels, names=MAPS, probability=dropout, first=first)
        if self.objective.loss == "set" and self.objective.has_pseudo_labels:
            options["every_layer"] = True
        return self.student.segment(images, text, **options), tuple(images.shape[2:])

    def _targets(self, views: UnlabeledImages, pseudo: PseudoLabels) -> list[ViewTarget]:
        """The targets of all views that the student has seen."""
        objective = self.objective
        targets = [
            ViewTarget(f"strong{view}", objective.strong_weight, labels)
            for view, labels in zip(STRONG_VIEWS, views.labels(pseudo))
        ]
        if objective.perturbation_weight:
            targets.append(ViewTarget("feature_perturbation", objective.perturbation_weight, pseudo))
        return targets

    def _pixel_losses(
        self, scores: Sequence[Tensor], targets: list[ViewTarget], scale: float, size
    ) -> dict[str, Tensor]:
        """Cross-entropy of the semantic map to the kept pseudo-labels, averaged over all pixels (UniMatch)."""
        balance = self.objective.balance
        return {
            f"loss_{name}": scale * weight * self._pixel_loss(view_scores, target, size, balance)
            for view_scores, (name, weight, target) in zip(scores, targets)
            if weight
        }

    def _set_losses(self, output, targets: list[ViewTarget], size) -> dict[str, Tensor]:
        """The query losses, as for labelled images, with the kept pseudo-labels as truth."""
        labels, keep = (torch.cat([self._pad(x, size) for x in parts]) for parts in zip(*(t.labels for t in targets)))
        # The criterion takes the mean over all images, but the views' losses are to be added.
        weights = len(targets) * torch.tensor([target.weight for target in targets], device=labels.device)
        per_image = weights.repeat_interleave(len(labels) // len(targets))
        return self.student.pseudo_losses(output, labels, keep, per_image)

    def _other_losses(self, scores, views: UnlabeledImages, guide: PseudoLabels | None, size) -> dict[str, Tensor]:
        """Guidance by the frozen CLIP, and the entropy of the strong views."""
        losses: dict[str, Tensor] = {}
        if guide is not None:
            losses["loss_clip_guidance"] = self.student.loss_scale * self._guidance_loss(scores, views, guide, size)
        if self.objective.entropy_weight:
            entropies = [
                pixel_entropy(view_scores, self._pad(valid, size))
                for view_scores, valid in zip(scores, views.strong_valid())
            ]
            weight = self.student.loss_scale * self.objective.entropy_weight
            losses["loss_entropy"] = weight * functools.reduce(torch.add, entropies) / len(entropies)
        return losses

    def _guide(self, views: UnlabeledImages, dense: Tensor, text: TextFeatures) -> PseudoLabels:
        """Guidance labels of the weak views. Made before the student's pass, while memory is still free."""
        assert self.guidance is not None and self.frozen_clip is not None  # only called with guidance
        seen = self.student.padded_size(views.weak.shape[2:])
        return self.guidance.labels(self.frozen_clip.classify(dense, text), seen, views.valid, self.ignore_value)

    def _guidance_loss(self, scores, views: UnlabeledImages, guide: PseudoLabels, size) -> Tensor:
        """Pixel loss against the frozen CLIP's labels: mean over the strong views, plus the loss of the perturbed
        view."""
        losses = [
            self._pixel_loss(view_scores, labels, size) / len(views.strong)
            for view_scores, labels in zip(scores, views.labels(guide))
        ]
        if self.objective.perturbation_weight:
            losses.append(self._pixel_loss(scores[-1], guide, size))
        assert self.guidance is not None
        return self.guidance.weight(self.iteration) * functools.reduce(torch.add, losses)

    def _pixel_loss(self, scores: Tensor, target: PseudoLabels, size, balance: float = 0.0) -> Tensor:
        labels, keep = (self._pad(x, size) for x in target)
        return pixel_cross_entropy(scores, labels, self.ignore_value, keep, balance)

    @torch.no_grad()
    def _pseudo_labels(self, views: UnlabeledImages, options: dict[str, ClipEmbeddings]) -> PseudoLabels:
        network = self.teacher.network
        was_training = network.training
        network.eval()
        try:
            scores = network.semantic_maps(views.weak, **options)
            if views.weak_in_labeled_colors is not None:
                others = network.semantic_maps(views.weak_in_labeled_colors)
                scores = normalized(scores.float()) + normalized(others.float())
        finally:  # if GPU memory runs out, the step is repeated
            network.train(was_training)
        with torch.autocast(scores.device.type, enabled=False):
            pseudo = make_pseudo_labels(scores.float(), views.valid, self.threshold, ignore_value=self.ignore_value)
        self.statistics.update(kept_fractions(pseudo, self.student.background, self.ignore_value))
        self.last_pseudo = pseudo
        return pseudo

    def _stack(self, items: list[dict], key: str) -> Tensor:
        return torch.stack([to_device(item[key], self.student.device) for item in items])

    def _pad(self, x: Tensor, size) -> Tensor:
        """Pad labels and masks (B, H, W) to the padded size of the images. Padding is ignored."""
        value = False if x.dtype == torch.bool else self.ignore_value
        return nn.functional.pad(x, (0, size[1] - x.shape[2], 0, size[0] - x.shape[1]), value=value)


def _cut_off(tensor: Tensor | None) -> Tensor | None:
    """The same values as a leaf tensor, which collects the gradient for the original tensor."""
    return tensor.detach().requires_grad_() if tensor is not None and tensor.requires_grad else tensor


def _frozen_embedding(*frozen: ClipEmbeddings | None) -> dict[str, ClipEmbeddings]:
    """The argument with the frozen CLIP's embeddings for a network; empty if it has no frozen CLIP."""
    asked = [embeddings for embeddings in frozen if embeddings is not None and embeddings.pooled is not None]
    return {"frozen_embedding": ClipEmbeddings(*map(torch.cat, zip(*asked)))} if asked else {}


def _warn_if_cutmix_lacks_images(cfg) -> None:
    if not (cfg.SEMI.ENABLED and cfg.SEMI.CUTMIX_PROBABILITY):
        return
    if cfg.SOLVER.UNLABELED_PER_BATCH == cfg.SOLVER.ACCUMULATION * comm.get_world_size():
        logger.warning(
            "Every micro-batch has a single unlabelled image, so CutMix has no other image to take from and does "
            "nothing: raise SOLVER.UNLABELED_PER_BATCH (%d) or lower SOLVER.ACCUMULATION (%d).",
            cfg.SOLVER.UNLABELED_PER_BATCH, cfg.SOLVER.ACCUMULATION,
        )  # fmt: skip
