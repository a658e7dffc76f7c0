"""Dual-query masked-attention decoder and dynamic masks (paper §3.4, §3.5; Mask2Former §3.2)."""

import abc
from collections.abc import Callable, Sequence

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import INSTANCE_QUERY, QueryPredictions
from hiervl.utils.errors import UserError
from hiervl.utils.recompute import maybe_recomputed

from .instance_seeds import InstanceSeeds, start_logit
from .layers import MLP, Attention, SinePositionEmbedding
from .pixel_decoder import PixelFeatures
from .registered import registered
from .semantic_queries import TextQueries
from .switches import needs_align_head, seeds_instances

QUERY_DECODER_REGISTRY = Registry("QUERY_DECODER")
QUERY_DECODER_REGISTRY.__doc__ = """
Registry of query decoders. An entry is called with ``(cfg, num_classes, embed_dim, background)``: C, the width D of
CLIP's joint space, and the indices of the classes that no caption names. It returns a :class:`QueryDecoder`.
"""


class QueryDecoder(nn.Module, abc.ABC):
    """The contract of query decoders: from pixels and text queries to a class and a mask per query.

    First come M text queries (if ``use_text``), then N = ``num_instance_queries`` instance queries, which have no
    class.
    """

    use_text: bool = False  # text queries are decoded; off: only CMSAM uses them
    num_instance_queries: int  # N, set by every decoder
    gives_joint_embeddings: bool = False
    num_predictions: int = 1  # with ``every_layer``

    def __init__(self) -> None:
        super().__init__()
        # Added in pred_logits to the class of a text query.
        self.own_class_logit: Tensor | float = 0.0

    @abc.abstractmethod
    def forward(
        self,
        pixels: PixelFeatures,
        text: TextQueries | None,
        mask_prior: Tensor | None = None,
        every_layer: bool = False,
        known: Tensor | None = None,
    ) -> QueryPredictions:
        """
        Args:
            pixels: maps, mask features and refined text queries of the pixel decoder.
            text: the text queries' classes, padding and relevance; None without text queries.
            mask_prior: (B, C, h, w), CLIP's log-odds that a pixel shows a class. A decoder may ignore it. None if
                ``MODEL.QUERY_DECODER.MASK_PRIOR`` is off.
            every_layer: predict after every layer (for the losses), not only after the last.
            known: (C,) bool, False for classes of which CLIP knows too little to give a prior; None: it knows all.

        Returns:
            Predictions of Q = M + N queries. ``joint_embeddings`` is None if ``gives_joint_embeddings`` is off. Then
            there is no loss_align, and the network predicts only the classes of its training.
        """

    def check_count(self, predictions: QueryPredictions, text: TextQueries | None) -> None:
        """Prediction takes the queries apart by what the decoder declares, long after a training began.

        Raises:
            UserError: there are other queries than M + N, or than N where the pixel decoder gave no text queries.
        """
        count, instances = predictions.query_valid.shape[1], self.num_instance_queries
        of_text = text.queries.shape[1] if self.use_text and text is not None else 0
        if count not in (instances, of_text + instances):
            raise UserError(
                f"the query decoder {type(self).__name__} predicts {count} queries, but it declares {of_text} text "
                f"queries (use_text is {self.use_text}) and {instances} instance queries (num_instance_queries): "
                "correct these two attributes."
            )

    def set_classes(self, linear_class: Callable[[Tensor], Tensor] | None, background: Sequence[int]) -> None:
        """Predict other classes from now on. A decoder that keeps no class indices does nothing.

        Args:
            linear_class: class indices → columns of the class head, −1 for classes that it does not know; None: the
                classes are those of the training.
            background: indices of the new classes that no caption names.
        """


class MaskedAttentionLayer(nn.Module):
    """Masked cross-attention to the pixels → self-attention between the queries → feed-forward, each post-norm."""

    def __init__(self, dim: int, num_heads: int, feedforward: int):
        super().__init__()
        self.cross_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        pixels: Tensor,
        pixel_position: Tensor,
        may_see: Tensor,
        query_bias: Tensor | None,
    ) -> Tensor:
        """queries (B, Q, d), pixels (B, P, d), may_see (B, 1, Q, P) bool, query_bias (B, 1, 1, Q) → (B, Q, d)."""
        seen = self.cross_attn(queries + query_position, pixels + pixel_position, pixels, may_see)
        queries = self.norm1(queries + seen)
        positioned = queries + query_position
        queries = self.norm2(queries + self.self_attn(positioned, positioned, queries, query_bias))
        return self.norm3(queries + self.linear2(F.relu(self.linear1(queries), inplace=True)))


class DualQueryDecoder(QueryDecoder):
    """[text_queries ; instance_queries] through ``layers`` of masked attention, round robin over the pixel maps.

    Before the first layer and after each, a query predicts a class and a mask. The mask decides what it may see next.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        dim: int = 256,
        layers: int = 9,
        num_heads: int = 8,
        feedforward: int = 2048,
        num_maps: int = 3,
        num_instance_queries: int = 100,
        text_queries: bool = True,
        align_head: bool = True,
        instance_seeds: InstanceSeeds | None = None,
        recompute: bool = False,
    ):
        """
        Args:
            num_classes: C.
            embed_dim: width D of CLIP's joint space, target of the alignment head φ.
            num_instance_queries: N; 0: none.
            text_queries: text queries are decoded; off: only CMSAM uses them.
            align_head: project the queries into CLIP's joint space (φ); off: ``joint_embeddings`` is None.
            instance_seeds: starts the instance queries at places of the image, if there is a mask prior; None: they
                start alike in all images.
            recompute: compute the layers again in the backward pass, to save memory.
        """
        super().__init__()
        if not text_queries and not num_instance_queries:
            raise UserError(
                "MODEL.QUERY_DECODER: with TEXT_QUERIES off, INSTANCE_QUERIES must be at least 1, or no query is left."
            )
        self.use_text = text_queries
        self.instance_queries = nn.Embedding(num_instance_queries, dim)
        self.instance_position = nn.Embedding(num_instance_queries, dim)
        self.map_embedding = nn.Embedding(num_maps, dim)
        self.position_embedding = SinePositionEmbedding(dim)
        self.layers = nn.ModuleList(MaskedAttentionLayer(dim, num_heads, feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = MLP(dim, dim, dim, 3)
        self.align_head = MLP(dim, dim, embed_dim, 2) if align_head else None
        self.instance_seeds = instance_seeds
        self.recompute = recompute
        # At first a text query predicts its own class.
        self.own_class_logit = nn.Parameter(torch.tensor(start_logit(num_classes)), requires_grad=text_queries)
        # From query classes to columns of class_head; set if other classes than the trained ones are predicted.
        self.linear_class: Callable[[Tensor], Tensor] | None = None

    def forward(
        self,
        pixels: PixelFeatures,
        text: TextQueries | None,
        mask_prior: Tensor | None = None,
        every_layer: bool = False,
        known: Tensor | None = None,
    ) -> QueryPredictions:
        """
        Args:
            pixels: maps, mask features and refined text queries of the pixel decoder.
            text: the text queries' classes, padding and relevance.
            mask_prior: (B, C, h, w), log-odds of the classes, added to the mask logits of their text queries.
            every_layer: predict before the first layer and after each (for the losses), not only after the last.
            known: (C,) bool, False for classes without a prior, which get no seeds either; None: all have one.
        """
        queries, position, query_classes, query_valid, query_bias = self._start(pixels, text)
        maps = [
            m.flatten(2).transpose(1, 2) + embedding
            for m, embedding in zip(pixels.pixel_features, self.map_embedding.weight)
        ]
        positions = [
            self.position_embedding(*m.shape[2:], m.device).flatten(2).transpose(1, 2).to(m.dtype)
            for m in pixels.pixel_features
        ]
        # Resizing is linear, so masks of a coarse map come from resized mask features, not from full-size masks.
        coarse = [_resize(pixels.mask_features.detach(), m.shape[2:]) for m in pixels.pixel_features]
        class_start = self.own_class_logit * self._in_columns(query_classes)  # (B, Q, C + 1)
        query_prior = _query_prior(mask_prior, query_classes)
        if self.instance_seeds is not None and mask_prior is not None and query_prior is not None:
            finest, place = pixels.pixel_features[-1], positions[-1]
            place = place.transpose(1, 2).unflatten(2, finest.shape[2:])
            seeds = self.instance_seeds(mask_prior, finest, place, known)
            queries, position = _add_last(queries, seeds.queries), _add_last(position, seeds.position)
            classes = torch.arange(mask_prior.shape[1], device=queries.device)
            class_start = _add_last(class_start, seeds.class_logits @ self._in_columns(classes).float())
            query_prior = _add_last(query_prior, seeds.mask_prior)
        fine_prior, *coarse_priors = (
            None if query_prior is None else _resize(query_prior, m.shape[2:]) for m in (pixels.mask_features, *coarse)
        )

        pred_logits: list[Tensor] = []
        pred_masks: list[Tensor] = []
        for index in range(len(self.layers) + 1):
            is_last = index == len(self.layers)
            normed = self.norm(queries)
            kernel = self.mask_head(normed)
            if every_layer or is_last:
                pred_logits.append(self.class_head(normed) + class_start)
                pred_masks.append(_masks_of(kernel, pixels.mask_features, fine_prior))
            if not is_last:
                m = index % len(maps)
                with torch.no_grad():
                    may_see = _visible_pixels(_masks_of(kernel, coarse[m], coarse_priors[m]))
                others = (position, maps[m], positions[m], may_see, query_bias)
                queries = maybe_recomputed(self.recompute, self.layers[index], queries, *others)
        joint = None if self.align_head is None else F.normalize(self.align_head(normed).float(), dim=-1)
        return QueryPredictions(pred_logits, pred_masks, joint, query_classes, query_valid)

    @property
    def num_instance_queries(self) -> int:  # type: ignore[override]  # nothing sets it
        return self.instance_queries.num_embeddings

    @property
    def gives_joint_embeddings(self) -> bool:  # type: ignore[override]
        return self.align_head is not None

    @property
    def num_predictions(self) -> int:  # type: ignore[override]
        return 1 + len(self.layers)

    def set_classes(self, linear_class: Callable[[Tensor], Tensor] | None, background: Sequence[int]) -> None:
        self.linear_class = linear_class
        if self.instance_seeds is not None:
            self.instance_seeds.background = tuple(background)

    def _in_columns(self, classes: Tensor) -> Tensor:
        """Classes (…), −1 for none → their columns of the class head, one-hot: (…, C + 1)."""
        columns = classes if self.linear_class is None else self.linear_class(classes)
        return F.one_hot(columns.clamp(min=0), self.class_head.out_features) * (columns >= 0).unsqueeze(-1)

    def _start(self, pixels: PixelFeatures, text: TextQueries | None):
        """Queries, their positions, classes and validity, and the bias on attention scores towards them."""
        features = pixels.mask_features
        batch, num_instances = features.shape[0], self.instance_queries.num_embeddings
        queries = self.instance_queries.weight.expand(batch, -1, -1)
        position = self.instance_position.weight.expand(batch, -1, -1)
        classes = torch.full((batch, num_instances), INSTANCE_QUERY, device=features.device)
        valid = torch.ones(batch, num_instances, dtype=torch.bool, device=features.device)
        bias = None
        if self.use_text and text is not None and pixels.text_queries is not None:
            bias = torch.cat((text.log_relevance, text.log_relevance.new_zeros(batch, num_instances)), dim=1)
            queries = torch.cat((pixels.text_queries, queries.to(pixels.text_queries.dtype)), dim=1)
            position = torch.cat((text.position, position), dim=1)
            classes = torch.cat((text.classes, classes), dim=1)
            valid = torch.cat((text.valid, valid), dim=1)
            bias = bias.masked_fill(~valid, float("-inf"))[:, None, None, :]
        return queries, position, classes, valid, bias


@QUERY_DECODER_REGISTRY.register()
def build_dual_query_decoder(cfg, num_classes: int, embed_dim: int, background: Sequence[int]) -> DualQueryDecoder:
    """The query decoder of ``MODEL.QUERY_DECODER``."""
    c, dim = cfg.MODEL.QUERY_DECODER, cfg.MODEL.PIXEL_DECODER.DIM
    seeds = InstanceSeeds(dim, c.INSTANCE_QUERIES, num_classes, background) if seeds_instances(cfg) else None
    return DualQueryDecoder(
        num_classes,
        embed_dim,
        dim=dim,
        layers=c.LAYERS,
        num_heads=c.HEADS,
        feedforward=c.FEEDFORWARD,
        num_instance_queries=c.INSTANCE_QUERIES,
        text_queries=c.TEXT_QUERIES,
        align_head=needs_align_head(cfg),
        instance_seeds=seeds,
        recompute="query_decoder" in cfg.MODEL.RECOMPUTE,
    )


def build_query_decoder(cfg, num_classes: int, embed_dim: int, background: Sequence[int]) -> QueryDecoder:
    """The query decoder that ``MODEL.QUERY_DECODER.NAME`` names."""
    name = cfg.MODEL.QUERY_DECODER.NAME
    build = registered(QUERY_DECODER_REGISTRY, name, "MODEL.QUERY_DECODER.NAME", "query decoder")
    decoder = build(cfg, num_classes, embed_dim, background)
    if not hasattr(decoder, "num_instance_queries"):
        raise UserError(
            f"the query decoder {name} has no attribute num_instance_queries: set it to the number of its queries that "
            "are not text queries, 0 for none."
        )
    return decoder


def _add_last(queries: Tensor, added: Tensor) -> Tensor:
    """Add (B, N, …) to the last N of (B, Q, …), the instance queries."""
    first = queries.shape[1] - added.shape[1]
    return torch.cat((queries[:, :first], queries[:, first:] + added.to(queries.dtype)), dim=1)


def _visible_pixels(masks: Tensor) -> Tensor:
    """A query sees the pixels of its mask, or all pixels if its mask is empty: (B, Q, h, w) → (B, 1, Q, h·w) bool."""
    inside = masks.flatten(2) >= 0
    return (inside | ~inside.any(-1, keepdim=True)).unsqueeze(1)


def _query_prior(mask_prior: Tensor | None, query_classes: Tensor) -> Tensor | None:
    """The maps (B, C, h, w) of the text queries' classes, 0 for instance queries: (B, Q, h, w)."""
    if mask_prior is None or not query_classes.numel():  # no class active and no instance queries: nothing to resize
        return None
    index = query_classes.clamp(min=0)[:, :, None, None].expand(-1, -1, *mask_prior.shape[2:])
    return mask_prior.gather(1, index) * (query_classes >= 0)[:, :, None, None]


def _masks_of(kernel: Tensor, features: Tensor, prior: Tensor | None) -> Tensor:
    """kernel (B, Q, d), features (B, d, h, w), prior (B, Q, h, w) → (B, Q, h, w) logits."""
    masks = torch.einsum("bqd,bdhw->bqhw", kernel, features)
    return masks if prior is None else masks + prior


def _resize(maps: Tensor, size) -> Tensor:
    """Bilinear resizing of (B, C, H, W).

    To a half, a quarter or an eighth (the strides of the maps), this is the mean of the four pixels around every new
    centre. Computed that way, it is many times faster on a CPU.
    """
    height, width = size
    factor = maps.shape[2] // height if height else 0
    if factor < 2 or factor % 2 or maps.shape[2:] != (factor * height, factor * width):
        return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    first = factor // 2 - 1
    rows = maps[:, :, first::factor] + maps[:, :, first + 1 :: factor]
    return (rows[..., first::factor] + rows[..., first + 1 :: factor]) * 0.25


def semantic_map(logits: Tensor, masks: Tensor, query_valid: Tensor) -> Tensor:
    """S_c(x, y) = Σ_i p_i(c) · M_i(x, y) over the valid queries.

    Args:
        logits: (B, Q, C + 1), the last column "no object"; masks: (B, Q, H, W) logits; query_valid: (B, Q) bool.

    Returns:
        (B, C, H, W), float32, not normalised.
    """
    probability = logits.float().softmax(-1)[..., :-1] * query_valid.unsqueeze(-1)
    return torch.einsum("bqc,bqhw->bchw", probability, masks.float().sigmoid())
