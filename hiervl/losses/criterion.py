"""The losses of labelled images (design §2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import QueryPredictions, TextFeatures
from hiervl.utils.errors import UserError
from hiervl.utils.recompute import maybe_recomputed

from .assignment import Assignment, assign
from .mask_losses import PointDraw, draw_points, point_sample, random_points, sampled_mask_losses, uncertain_points
from .normalization import mean_over_processes
from .pixel_losses import pixel_cross_entropy
from .target_maps import TargetMaps
from .targets import ImageTargets, image_targets

# Gradient norm of the class, mask and dice loss of one prediction, divided by that of a pixel cross-entropy of the same
# weight. Measured before training for the configs of the paper (docs/method.md, "Losses").
PULL_OF_QUERIES = 0.15


class SupervisedCriterion(nn.Module):
    """Class, mask and dice loss before the first decoder layer and after each layer. At the end also the pixel,
    alignment and relevance loss.

    Every loss is returned with its weight applied. A loss of weight 0 is not computed. All is computed in float32.
    """

    def __init__(
        self,
        *,
        weights: dict[str, float],
        no_object: float = 0.1,
        assignment: str = "fixed",
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_share: float = 0.75,
        pixel_balance: float = 0.0,
        ignore_value: int = 255,
        recompute: bool = False,
    ):
        """
        Args:
            weights: the weights of "class", "mask", "dice", "pixel", "align" and "relevance".
            no_object: weight of "no object" in the class loss.
            assignment: "fixed" (text queries to their class, instance queries matched) or "hungarian" (all matched).
            num_points, oversample_ratio, importance_share: see :func:`draw_points`.
            pixel_balance: exponent of the inverse class frequency in the pixel loss.
            ignore_value: label of pixels that no loss counts.
            recompute: compute mask and dice losses again in the backward pass instead of keeping their points.
        """
        super().__init__()
        if assignment not in ("fixed", "hungarian"):
            raise UserError(f"LOSS.ASSIGNMENT is 'fixed' or 'hungarian', not '{assignment}'.")
        self.weights = weights
        self.no_object = no_object
        self.fixed = assignment == "fixed"
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_share = importance_share
        self.pixel_balance = pixel_balance
        self.ignore_value = ignore_value
        self.recompute = recompute

    @classmethod
    def from_config(cls, cfg) -> "SupervisedCriterion":
        """Build it from ``LOSS`` of the config."""
        loss = cfg.LOSS
        return cls(
            weights={
                "class": loss.CLASS,
                "mask": loss.MASK,
                "dice": loss.DICE,
                "pixel": loss.PIXEL,
                "align": loss.ALIGN,
                "relevance": loss.RELEVANCE,
            },
            no_object=loss.NO_OBJECT,
            assignment=loss.ASSIGNMENT,
            num_points=loss.NUM_POINTS,
            oversample_ratio=loss.OVERSAMPLE_RATIO,
            importance_share=loss.IMPORTANCE_SAMPLE_RATIO,
            pixel_balance=loss.PIXEL_BALANCE,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            recompute="losses" in cfg.MODEL.RECOMPUTE,
        )

    def scale(self, num_predictions: int, num_pixel_losses: int = 1) -> float:
        """The weight at which one pixel cross-entropy has about as large a gradient as all of these losses together.

        Args:
            num_predictions: number of predictions that have a class, mask and dice loss.
            num_pixel_losses: number of maps that have a pixel loss.
        """
        query_weights = sum(self.weights[name] for name in ("class", "mask", "dice"))
        return num_pixel_losses * self.weights["pixel"] + PULL_OF_QUERIES * num_predictions * query_weights

    @property
    def uses_every_layer(self) -> bool:
        """Whether predictions before the last one are used."""
        return any(self.weights[name] for name in ("class", "mask", "dice"))

    def prepare_targets(
        self, batched_inputs: Sequence[dict], size: tuple[int, int], device: torch.device
    ) -> list[ImageTargets]:
        """Targets of labelled inputs, padded to ``size`` (H, W)."""
        return [
            image_targets(item["sem_seg"], item.get("instance_ids"), size, self.ignore_value).to(device)
            for item in batched_inputs
        ]

    def forward(
        self,
        predictions: QueryPredictions,
        semantic_scores: Tensor,
        relevance_logits: Tensor | None,
        text: TextFeatures,
        targets: Sequence[ImageTargets],
    ) -> dict[str, Tensor]:
        """
        Args:
            predictions: of every decoder layer.
            semantic_scores: (B, C, h, w) unnormalised semantic map of the last prediction.
            relevance_logits: (B, C) of the gate; None: there is none.
            text: embeddings of the classes.
            targets: one per image.
        """
        labeled = torch.stack([target.valid.any() for target in targets])  # images with any label at all
        query_valid = predictions.query_valid & labeled[:, None]
        losses: dict[str, Tensor] = {}
        aligns = bool(self.weights["align"]) and predictions.joint_embeddings is not None
        if self.uses_every_layer or aligns:
            maps = TargetMaps(targets)
            assignments = self._assignments(predictions, query_valid, targets, maps)
            losses.update(self._set_losses(predictions, query_valid, maps, assignments))
        if self.weights["pixel"]:
            losses["loss_pixel"] = self._pixel_loss(semantic_scores, targets)
        if aligns:
            losses["loss_align"] = self._align_loss(predictions, text, assignments[-1])
        if self.weights["relevance"] and relevance_logits is not None:
            losses["loss_relevance"] = _relevance_loss(relevance_logits, targets, labeled)
        return self._weighted(losses)

    def pixel_prior_losses(self, log_probability: Tensor, targets: Sequence[ImageTargets]) -> dict[str, Tensor]:
        """``loss_pixel_prior`` of the pixel prior (B, C, h, w), with the weight of the pixel loss."""
        if not self.weights["pixel"]:
            return {}
        return self._weighted({"loss_pixel_prior": self._pixel_loss(log_probability.exp(), targets)})

    def _pixel_loss(self, scores: Tensor, targets: Sequence[ImageTargets]) -> Tensor:
        labels = torch.stack([target.sem_seg for target in targets])
        return pixel_cross_entropy(scores, labels, self.ignore_value, balance=self.pixel_balance)

    def pseudo_losses(
        self, predictions: QueryPredictions, targets: Sequence[ImageTargets], absent: Tensor, image_weight: Tensor
    ) -> dict[str, Tensor]:
        """Class, mask and dice loss of the text queries on images that the teacher has labelled.

        Pixels whose pseudo-label is not kept have no label in the targets. If the teacher sees a class only in such
        pixels, nobody knows whether it is present, so its queries learn nothing. Instance queries learn from the pixel
        loss alone, because the teacher does not separate objects.

        Args:
            predictions: of every decoder layer; targets: one per image.
            absent: (B, C) bool, classes of which the teacher sees no pixel.
            image_weight: (B,) weight of every image.
        """
        owner = predictions.query_classes
        query_valid = predictions.query_valid & (owner >= 0)
        maps = TargetMaps(targets)
        assignments = self._assignments(predictions, query_valid, targets, maps)
        is_settled = absent.gather(1, owner.clamp(min=0))
        is_settled[assignments[0].image, assignments[0].query] = True
        losses = self._set_losses(predictions, query_valid & is_settled, maps, assignments, image_weight)
        return {f"loss_pseudo_{name.removeprefix('loss_')}": loss for name, loss in self._weighted(losses).items()}

    def _set_losses(
        self,
        predictions: QueryPredictions,
        query_valid: Tensor,
        maps: TargetMaps,
        assignments: Sequence[Assignment],
        image_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Class, mask and dice loss of every prediction: "loss_mask" for the last one, "loss_mask_0" for the first."""
        last = len(assignments) - 1
        # Every prediction has the same number of queries with a target.
        draw = draw_points(
            assignments[0].query.numel(),
            self.num_points,
            self.oversample_ratio,
            self.importance_share,
            query_valid.device,
        )
        losses = {}
        for index, assignment in enumerate(assignments):
            suffix = "" if index == last else f"_{index}"
            logits, masks = predictions.pred_logits[index].float(), predictions.pred_masks[index]
            if self.weights["class"]:
                losses[f"loss_class{suffix}"] = self._class_loss(logits, query_valid, assignment, image_weight)
            if self.weights["mask"] or self.weights["dice"]:
                for name, loss in self._mask_losses(masks, maps, assignment, draw, image_weight).items():
                    losses[name + suffix] = loss
        return losses

    def _assignments(
        self, predictions: QueryPredictions, query_valid: Tensor, targets: Sequence[ImageTargets], maps: TargetMaps
    ) -> list[Assignment]:
        """The assignment of every prediction."""
        return assign(
            predictions.pred_logits,
            predictions.pred_masks,
            predictions.query_classes,
            query_valid,
            targets,
            maps,
            fixed=self.fixed,
            points=random_points(self.num_points, query_valid.device),
            weights=(self.weights["class"], self.weights["mask"], self.weights["dice"]),
        )

    def _class_loss(
        self, logits: Tensor, query_valid: Tensor, assignment: Assignment, image_weight: Tensor | None
    ) -> Tensor:
        class_weight = logits.new_ones(logits.shape[-1])
        class_weight[-1] = self.no_object
        targets = assignment.target_classes
        query_weight = torch.where(query_valid, class_weight[targets], logits.new_zeros(()))
        loss = query_weight * F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(
            query_weight
        )
        if image_weight is not None:
            loss = loss * image_weight[:, None]
        return loss.sum() / mean_over_processes(query_weight.sum(), least=1e-6)

    def _mask_losses(
        self,
        masks: Tensor,
        maps: TargetMaps,
        assignment: Assignment,
        draw: PointDraw,
        image_weight: Tensor | None,
    ) -> dict[str, Tensor]:
        num_masks = mean_over_processes(masks.new_full((), assignment.query.numel(), dtype=torch.float32))
        if not assignment.query.numel():
            nothing = masks.float().sum() * 0.0
            return {"loss_mask": nothing, "loss_dice": nothing}
        query_weight = 1.0 if image_weight is None else image_weight[assignment.image]

        def sums(masks: Tensor) -> tuple[Tensor, Tensor]:
            """masks (B, Q, h, w) → loss_mask and loss_dice of all queries."""
            query = assignment.image * masks.shape[1] + assignment.query
            predicted = masks.flatten(0, 1).index_select(0, query).float()  # (R, h, w)
            points = uncertain_points(predicted, draw)
            truth, counts = maps.sample(assignment.target_map, assignment.target_number, points)
            at_points = point_sample(predicted.unsqueeze(1), points).squeeze(1)
            cross_entropy, dice = sampled_mask_losses(at_points, truth, counts)
            return (query_weight * cross_entropy).sum(), (query_weight * dice).sum()

        cross_entropy, dice = maybe_recomputed(self.recompute, sums, masks)
        return {"loss_mask": cross_entropy / num_masks, "loss_dice": dice / num_masks}

    def _align_loss(self, predictions: QueryPredictions, text: TextFeatures, assignment: Assignment) -> Tensor:
        """‖φ(q) − t_c‖² of the matched instance queries, both vectors of length 1 (eq. 2)."""
        joint = predictions.joint_embeddings
        assert joint is not None  # the decoder makes them where this loss counts
        chosen = predictions.query_classes[assignment.image, assignment.query] < 0
        num_chosen = mean_over_processes(chosen.sum().to(joint.device))  # called by every process, also without queries
        if not assignment.query.numel():
            return joint.sum() * 0.0
        image, query = assignment.image[chosen], assignment.query[chosen]
        wanted = text.text_embeddings.detach()[assignment.target_classes[image, query]]
        distance = (joint[image, query] - wanted).square().sum(-1)
        return distance.sum() / num_chosen

    def _weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each loss times its weight, without those of weight 0. "loss_mask_3" has the weight of "mask"."""
        weighted = {}
        for name, loss in losses.items():
            weight = self.weights[name.split("_")[1]]
            if weight:
                weighted[name] = weight * loss
        return weighted


def _relevance_loss(logits: Tensor, targets: Sequence[ImageTargets], labeled: Tensor) -> Tensor:
    """Binary cross-entropy between the gate (B, C) and the presence of every class, on images with labels."""
    presence = torch.stack([target.presence(logits.shape[1]) for target in targets]).float()
    loss = F.binary_cross_entropy_with_logits(logits, presence, reduction="none").mean(1)
    return (loss * labeled).sum() / mean_over_processes(labeled.sum())
