"""The meta-architecture: images and class names in, masks out (paper
3)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.losses.criterion import SupervisedCriterion
from hiervl.losses.joint_embedding import joint_embedding_loss
from hiervl.losses.prompt_losses import PromptRegularizer
from hiervl.losses.targets import image_targets
from hiervl.structures import QueryPredictions, TextFeatures
from hiervl.utils.errors import UserError

from .frozen_clip import ClipEmbeddings
from .image_statistics import ImageStatistics, image_statistics
from .layers import without_autocast
from .mask_prior import PixelPrior, TextMaskPrior, log_odds
from .open_vocabulary import OpenVocabularyClassifier
from .pixel_decoder import build_pixel_decoder
from .query_decoder import QueryDecoder, build_query_decoder, semantic_map
from .segmenter import ClassList, ClipParts, ClipSegmenter, classes_of
from .semantic_queries import HierarchicalSemanticQueryGenerator, TextQueries
from .switches import background_classes, build_optional_frozen_clip, reads_text, seeds_instances
from .text_encoder import build_text_encoder

CLASSIFIERS = ("linear", "text", "mean")


class NetworkOutput(NamedTuple):
    """The output of one pass through the network."""

    predictions: QueryPredictions
    text_queries: TextQueries | None
    features: dict[str, Tensor]  # the backbone's output, embeddings included
    pixel_prior: Tensor | None  # (B, C, h, w) log probabilities, float32; None: the network has none

    @property
    def relevance_logits(self) -> Tensor | None:
        """(B, C), float32: logits of the relevance gate; None without a gate."""
        logits = None if self.text_queries is None else self.text_queries.relevance_logits
        return None if logits is None else logits.float()


class InstancePredictions(NamedTuple):
    """Final predictions of the N instance queries, for instances and panoptic segments."""

    logits: Tensor  # (B, N, C + 1), the last column "no object"
    masks: Tensor  # (B, N, H', W') logits at the decoder's size
    padded_size: tuple[int, int]  # height and width of the padded batch; H' × W' covers it


class ClassReadout(NamedTuple):
    """How the class of a query is read at inference."""

    classifier: str = "linear"  # "linear" head, similarity to "text", or the "mean" of both
    temperature: float = 0.07  # of the similarity between queries and text


@META_ARCH_REGISTRY.register()
class HierVL(ClipSegmenter):
    """CLIP image encoder → HSQG → pixel decoder with CMSAM → dual-query decoder → dynamic masks.

    :class:`ClipSegmenter` describes how it is called, its inputs and its outputs.
    """

    class_rows = ("query_decoder.class_head.weight", "query_decoder.class_head.bias", "mask_prior.known")

    @configurable
    def __init__(
        self,
        *,
        clip: ClipParts,
        classes: ClassList,
        statistics: ImageStatistics,
        query_generator: HierarchicalSemanticQueryGenerator | None,
        pixel_decoder: nn.Module,
        query_decoder: QueryDecoder,
        mask_prior: TextMaskPrior | None,
        pixel_prior: PixelPrior | None = None,
        criterion: SupervisedCriterion,
        prompt_regularizer: PromptRegularizer,
        readout: ClassReadout,
        ground_truth_presence: bool = True,
        joint_weight: float = 0.0,
    ):
        """
        Args:
            clip, classes, statistics: see :class:`ClipSegmenter`.
            query_generator, pixel_decoder, query_decoder: the boxes of the design. The query generator is None if
                nothing reads text queries.
            mask_prior, pixel_prior: starts of the text queries' masks, of which CLIP makes one and training the other;
                None: there is no such start.
            criterion: the losses of labelled images; prompt_regularizer: the losses of the prompts.
            readout: how the class of a query is read at inference.
            ground_truth_presence: in training the query generator gets the classes of labelled images.
            joint_weight: weight of ``loss_joint_embedding``, which teaches CLIP's embeddings to an encoder that was
                trained without language.
        """
        super().__init__(clip, classes, statistics)
        if readout.classifier not in CLASSIFIERS:
            known = ", ".join(CLASSIFIERS)
            raise UserError(f"MODEL.QUERY_DECODER.CLASSIFIER is one of {known}, not '{readout.classifier}'.")
        self.query_generator = query_generator
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder
        if query_generator is not None:  # queries outside the decoder have no position there
            query_generator.level_embedding.requires_grad_(query_decoder.use_text)
        self.mask_prior, self.pixel_prior = mask_prior, pixel_prior
        self.criterion = criterion
        self.prompt_regularizer = prompt_regularizer
        self.trained_names = list(classes.names)  # the classes of the linear head, see set_classes
        self.ground_truth_presence = ground_truth_presence
        self.classifier, self.temperature = readout
        self.joint_weight = joint_weight
        self.open_vocabulary: OpenVocabularyClassifier | None = None
        if query_generator is not None:
            with torch.no_grad():
                query_generator.fit_text(clip.text_encoder().text_embeddings)

    @classmethod
    def from_config(cls, cfg) -> dict:
        class_names, class_phrases = classes_of(cfg)
        num_prompts = cfg.MODEL.TEXT.PROMPTS if reads_text(cfg) else 0
        text_encoder, logit_scale = build_text_encoder(cfg, class_phrases, num_prompts)
        backbone = build_backbone(cfg)
        dim = cfg.MODEL.PIXEL_DECODER.DIM
        hsqg, decoder = cfg.MODEL.HSQG, cfg.MODEL.QUERY_DECODER
        background = background_classes(cfg, class_names)
        return {
            "clip": ClipParts(
                backbone, text_encoder, logit_scale, build_optional_frozen_clip(cfg, backbone, logit_scale)
            ),
            "classes": ClassList(class_names, background),
            "statistics": image_statistics(cfg),
            "query_generator": HierarchicalSemanticQueryGenerator(
                backbone.embed_dim,
                dim,
                levels=hsqg.LEVELS,
                relevance=hsqg.RELEVANCE,
                hard_negatives=hsqg.HARD_NEGATIVES,
                threshold=hsqg.THRESHOLD,
                min_active=hsqg.MIN_ACTIVE,
                always_active=background,
            )
            if reads_text(cfg)
            else None,
            "pixel_decoder": build_pixel_decoder(cfg, backbone.output_shape()),
            "query_decoder": build_query_decoder(cfg, len(class_names), backbone.embed_dim, background),
            "mask_prior": TextMaskPrior(logit_scale, len(class_names))
            if decoder.MASK_PRIOR and (decoder.TEXT_QUERIES or seeds_instances(cfg))
            else None,
            "pixel_prior": PixelPrior(dim, backbone.embed_dim, logit_scale)
            if decoder.PIXEL_PRIOR and decoder.TEXT_QUERIES
            else None,
            "criterion": SupervisedCriterion.from_config(cfg),
            "prompt_regularizer": PromptRegularizer(
                backbone.embed_dim,
                topology=cfg.LOSS.PROMPT_TOPOLOGY,
                anchor=cfg.LOSS.PROMPT_ANCHOR if num_prompts else 0.0,
                temperature=decoder.TEMPERATURE,
                separation=cfg.LOSS.PROMPT_SEPARATION,
            ),
            "readout": ClassReadout(decoder.CLASSIFIER, decoder.TEMPERATURE),
            "ground_truth_presence": hsqg.GROUND_TRUTH_PRESENCE,
            "joint_weight": cfg.LOSS.JOINT_EMBEDDING,
        }

    @property
    def gate(self) -> HierarchicalSemanticQueryGenerator | None:
        """The query generator if it gates the classes, else None."""
        has_gate = self.query_generator is not None and self.query_generator.relevance
        return self.query_generator if has_gate else None

    @property
    def has_instance_queries(self) -> bool:
        """Whether the network has instance queries."""
        return self.query_decoder.num_instance_queries > 0

    # ---- stages -------------------------------------------------------------------------------------------------

    def segment(
        self,
        images: Tensor,
        text: TextFeatures,
        presence: Tensor | None = None,
        every_layer: bool = False,
        *,
        frozen_embedding: ClipEmbeddings | None = None,
        perturb: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> NetworkOutput:
        """The network, stage by stage.

        Args:
            images: (B, 3, H, W) of :meth:`normalize`.
            text: of :meth:`encode_text`.
            presence: (B, C) bool, classes of labelled images; None: the relevance gate decides.
            every_layer: predict after every decoder layer.
            frozen_embedding: the output of ``frozen_clip`` for these images, if it was already computed.
            perturb: a function that changes the backbone's maps.
        """
        features = self.backbone(images)
        if perturb is not None:
            features = perturb(features)
        if self.frozen_clip is not None:  # the encoder knows no language
            frozen = frozen_embedding or self.frozen_clip.embed(images, pooled=True)
            embeddings = {"dense_embedding": frozen.dense, "pooled_embedding": frozen.pooled}
            features = {**features, "joint_embedding": features["dense_embedding"], **embeddings}
        text_queries = None
        if self.query_generator is not None:
            text_queries = self.query_generator(text, features["pooled_embedding"], presence)
        pixels = self.pixel_decoder(features, text_queries)
        prior = None if self.mask_prior is None else self.mask_prior(text, features["dense_embedding"])
        known = None if self.mask_prior is None else self.mask_prior.known
        by_pixel = None if self.pixel_prior is None else self.pixel_prior(text, pixels.mask_features)
        if by_pixel is not None:
            odds, known = log_odds(by_pixel), None  # it learns what CLIP does not know
            prior = odds if prior is None else odds + F.interpolate(prior, odds.shape[2:], mode="bilinear")
        predictions = self.query_decoder(pixels, text_queries, prior, every_layer, known)
        return NetworkOutput(predictions, text_queries, features, by_pixel)

    def supervised_losses(
        self, batched_inputs: list[dict], text: TextFeatures, frozen_embedding: ClipEmbeddings | None = None
    ) -> dict[str, Tensor]:
        """Losses of labelled inputs: dicts with "image", "sem_seg" (H, W) and perhaps "instance_ids" (H, W)."""
        images = self.normalize([item["image"] for item in batched_inputs])
        targets = self.criterion.prepare_targets(batched_inputs, (images.shape[2], images.shape[3]), self.device)
        presence = torch.stack([target.presence(len(self.class_names)) for target in targets])
        given = presence if self.ground_truth_presence else None
        output = self.segment(
            images, text, given, every_layer=self.criterion.uses_every_layer, frozen_embedding=frozen_embedding
        )
        self.query_decoder.check_count(output.predictions, output.text_queries)
        with torch.autocast(images.device.type, enabled=False):
            losses = self.criterion(
                output.predictions,
                self.semantic_scores(output, text),
                output.relevance_logits,
                text,
                targets,
            )
            if output.pixel_prior is not None:
                losses.update(self.criterion.pixel_prior_losses(output.pixel_prior, targets))
            return {**losses, **self.joint_losses(output)}

    def joint_losses(self, output: NetworkOutput) -> dict[str, Tensor]:
        """``loss_joint_embedding`` of a pass, without mixed precision. Empty if the encoder is CLIP's own."""
        if self.frozen_clip is None or not self.joint_weight:
            return {}
        joint, target = (output.features[name].float() for name in ("joint_embedding", "dense_embedding"))
        return {"loss_joint_embedding": self.joint_weight * joint_embedding_loss(joint, target)}

    @property
    def loss_scale(self) -> float:
        num_predictions = self.query_decoder.num_predictions if self.criterion.uses_every_layer else 0
        return self.criterion.scale(num_predictions, 1 if self.pixel_prior is None else 2)

    @property
    def pixel_loss_weight(self) -> float:
        return self.criterion.weights["pixel"]

    @property
    def has_set_losses(self) -> bool:
        return self.query_decoder.use_text

    def pseudo_losses(
        self, output: NetworkOutput, labels: Tensor, keep: Tensor, image_weight: Tensor
    ) -> dict[str, Tensor]:
        """The query losses, as for labelled images, for images that a teacher has labelled.

        Args:
            output: of :meth:`segment` with ``every_layer``.
            labels: (B, H, W) at the padded size, the criterion's ignore value on padding; keep: (B, H, W) bool.
            image_weight: (B,); images with fewer kept labels count less.
        """
        ignored = self.criterion.ignore_value
        known = labels.masked_fill(~keep, ignored)
        targets = [image_targets(each, None, tuple(each.shape), ignored).to(self.device) for each in known]
        num_classes, valid = len(self.class_names), labels != ignored
        seen = F.one_hot(labels.masked_fill(~valid, num_classes), num_classes + 1).flatten(1, 2).amax(1)
        share = keep.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
        absent = seen[:, :num_classes] == 0
        return self.criterion.pseudo_losses(output.predictions, targets, absent, image_weight * share)

    def prompt_losses(self, text: TextFeatures) -> dict[str, Tensor]:
        """Losses that keep the learnable prompts near CLIP's embeddings. Empty without learnable prompts."""
        if not self.text_encoder.num_prompts:
            return {}
        with torch.autocast(self.device.type, enabled=False):
            return self.prompt_regularizer(text.text_embeddings, text.prototypes)

    def class_logits(self, predictions: QueryPredictions, text: TextFeatures) -> Tensor:
        """Final class scores (B, Q, C + 1) of the chosen classifier; "no object" always comes from the linear head."""
        linear = predictions.pred_logits[-1].float()
        if self.open_vocabulary is not None:
            own = self.query_decoder.own_class_logit
            linear = self.open_vocabulary(linear, predictions.joint_embeddings, predictions.query_classes, own, text)
        if self.classifier == "linear":
            return linear
        assert predictions.joint_embeddings is not None  # the decoder makes them if text classifies
        similarity = text.class_similarity(predictions.joint_embeddings) / self.temperature
        # The text scores divide the linear head's probability of "some object" between the classes.
        log_object = torch.logsumexp(linear[..., :-1], dim=-1, keepdim=True)
        by_text = torch.cat((similarity.log_softmax(-1) + log_object, linear[..., -1:]), dim=-1)
        if self.classifier == "text":
            return by_text
        return torch.log((linear.softmax(-1) + by_text.softmax(-1)) / 2)

    def semantic_scores(self, output: NetworkOutput, text: TextFeatures) -> Tensor:
        """S of the final prediction: (B, C, H', W'), float32, not normalised. With new classes CLIP divides it between
        them."""
        predictions = output.predictions
        with without_autocast(predictions.pred_masks[-1].device):
            logits = predictions.pred_logits[-1] if self.training else self.class_logits(predictions, text)
            scores = semantic_map(logits, predictions.pred_masks[-1], predictions.query_valid)
            if self.open_vocabulary is None or self.mask_prior is None:
                return scores
            by_clip = self.mask_prior.log_probability(text, output.features["dense_embedding"]).exp()
            by_clip = F.interpolate(by_clip, scores.shape[2:], mode="bilinear", align_corners=False)
            return self.open_vocabulary.share_pixels(scores, by_clip)

    # ---- inference ----------------------------------------------------------------------------------------------

    def set_classes(
        self, names: Sequence[str], phrases: Sequence[Sequence[str]], always_active: Sequence[int] = ()
    ) -> None:
        """Predict other classes from now on. Names that the network was trained on keep their linear score.

        Args:
            names: of the C' classes; phrases: one or more per class, for CLIP's text encoder.
            always_active: indices of classes that are active in every image (background).

        Raises:
            UserError: a class is new, but the queries were not aligned with text.
        """
        new = [name for name in names if name not in self.trained_names]
        if new and not self.query_decoder.gives_joint_embeddings:
            raise UserError(
                f"this network cannot predict '{new[0]}': its queries were not aligned with text in training "
                f"(LOSS.ALIGN above 0 with MODEL.QUERY_DECODER.INSTANCE_QUERIES); it knows "
                f"{', '.join(self.trained_names)}."
            )
        self.text_encoder.set_classes(phrases)
        known = [self.trained_names.index(name) if name in self.trained_names else None for name in names]
        is_trained = list(names) == self.trained_names
        if self.mask_prior is not None:
            was_known = dict(zip(self.class_names, self.mask_prior.known.tolist()))
            self.mask_prior.set_known([was_known.get(name, True) for name in names])
        self.open_vocabulary = None
        if not is_trained:
            self.open_vocabulary = OpenVocabularyClassifier(known, self.temperature, always_active).to(self.device)
        linear_class = None if self.open_vocabulary is None else self.open_vocabulary.linear_class
        self.query_decoder.set_classes(linear_class, always_active)
        if self.query_generator is not None:
            self.query_generator.always_active = tuple(always_active)
        self.class_names = list(names)

    @torch.no_grad()
    def semantic_maps_and_instances(self, images: Tensor) -> tuple[Tensor, InstancePredictions]:
        """As :meth:`semantic_maps`, with the instance predictions of the same pass."""
        text = self.encode_text()
        scores, output, padded_size = self._infer(images, text)
        predictions = output.predictions
        first = predictions.query_valid.shape[1] - self.query_decoder.num_instance_queries  # after text queries
        logits, masks = self.class_logits(predictions, text), predictions.pred_masks[-1].float()
        return scores, InstancePredictions(logits[:, first:], masks[:, first:], padded_size)
