"""HSQG: the classes that are relevant to an image become text queries on levels from coarse to fine (paper §3.2)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hiervl.structures import TextFeatures

from .layers import MLP, HasExportForm, without_autocast


class TextQueries(NamedTuple):
    """The text queries of a batch. M = levels · (the most active classes of any image); the rest is padding."""

    queries: Tensor  # (B, M, d): r_c · MLP_l(t̂_c)
    position: Tensor  # (B, M, d): embedding of the query's level
    classes: Tensor  # (B, M): class of every query
    valid: Tensor  # (B, M) bool: False on padding
    log_relevance: Tensor  # (B, M): log r_c, added to attention scores of the query
    relevance_logits: Tensor | None  # (B, C): α·s_c + β of the gate, for loss_relevance; None without a gate


class HierarchicalSemanticQueryGenerator(HasExportForm, nn.Module):
    """Gate the classes by their relevance r to the image, and project the active ones on every level.

    1. s_c = cos(v, t_c) with v the pooled image embedding; r_c = σ(α·s_c + β);
    2. if presence is given (labelled images in training, GROUND_TRUTH_PRESENCE), the classes of the ground truth are
       active with r_c = 1, and also a few absent classes with the highest r (hard negatives);
    3. else the classes with r_c ≥ threshold are active, and at least ``min_active`` classes;
    4. q_c^l = r_c · MLP_l(t̂_c) on levels l = 1…L, t̂_c = (t_c − μ) / σ.

    CLIP's text embeddings lie in a narrow cone (mean cosine between the classes of VOC or ADE20K: 0.8), so all queries
    would start alike. Their mean μ and spread σ are therefore taken once, before training, and kept. A normalisation
    straight after the product would undo the factor r. So r is used a second time: log r is added to the attention
    scores of the query.
    """

    threshold: Tensor  # (): a class of at least this relevance is active
    text_mean: Tensor  # (D,)
    text_spread: Tensor  # ()

    def __init__(
        self,
        embed_dim: int,
        dim: int,
        *,
        levels: int = 3,
        relevance: bool = True,
        hard_negatives: int = 2,
        threshold: float = 0.2,
        min_active: int = 3,
        always_active: Sequence[int] = (),
    ):
        """
        Args:
            embed_dim: width D of CLIP's joint space.
            dim: width d of the queries.
            levels: abstraction levels L.
            relevance: gate the classes; off: all classes are active with r = 1.
            hard_negatives: how many absent classes become active too if presence is given.
            threshold: a class of at least this relevance is active.
            min_active: the least number of active classes.
            always_active: classes that are active in every image (background).
        """
        super().__init__()
        self.relevance = relevance
        self.hard_negatives = hard_negatives
        self.min_active = min_active
        self.always_active = tuple(always_active)
        self.level_mlps = nn.ModuleList(MLP(embed_dim, dim, dim, 2) for _ in range(levels))
        self.level_embedding = nn.Embedding(levels, dim)
        # The parameter is log α, because α is large and must stay positive.
        self.log_gate_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.gate_offset = nn.Parameter(torch.tensor(-0.2))  # the similarity at which r = 0.5: β = −α · offset
        self.log_gate_scale.requires_grad_(relevance)
        self.gate_offset.requires_grad_(relevance)
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.register_buffer("text_mean", torch.zeros(embed_dim))
        self.register_buffer("text_spread", torch.tensor(embed_dim**-0.5))  # of one dimension of a unit vector

    @property
    def num_levels(self) -> int:
        return len(self.level_mlps)

    @torch.no_grad()
    def fit_text(self, text_embeddings: Tensor) -> None:
        """Take μ and σ from the embeddings (C, D) of the classes. Does nothing for a single class."""
        if len(text_embeddings) > 1:
            self.text_mean.copy_(text_embeddings.mean(0))
            self.text_spread.copy_((text_embeddings - self.text_mean).square().mean().sqrt().clamp(min=1e-3))

    @torch.no_grad()
    def fit_gate(self, similarity: Tensor) -> None:
        """Fit the gate to the range of the similarities (images, C): r = 0.5 at the mean, σ(±2) one standard deviation
        away. CLIP's similarities differ by a few hundredths, so without the fit r would be almost constant."""
        if similarity.shape[-1] > 1:
            spread = similarity.std(dim=-1, correction=0).mean().clamp(min=1e-3)
            self.log_gate_scale.fill_(math.log(2.0 / spread.item()))
        self.gate_offset.fill_(-similarity.mean().item())

    @torch.no_grad()
    def calibrate_threshold(self, relevance: Tensor, presence: Tensor, recall: float, highest: float) -> float:
        """Set the threshold so that the share ``recall`` of the present classes passes, but to at most ``highest``: on
        images that were trained on, the relevance is better than on others.

        Args:
            relevance, presence: (images, C) of labelled images.
        """
        present = relevance[presence]
        # "lower", because a value between those of two classes would let too few pass.
        passing = torch.quantile(present.float(), 1.0 - recall, interpolation="lower") if len(present) else highest
        self.threshold.fill_(min(highest, float(passing)))
        return self.threshold.item()

    def gate_logits(self, similarity: Tensor) -> Tensor:
        """α·s + β: (B, C) → (B, C)."""
        return self.log_gate_scale.exp() * (similarity + self.gate_offset)

    def forward(self, text: TextFeatures, pooled: Tensor, presence: Tensor | None = None) -> TextQueries:
        """
        Args:
            text: embeddings of the C classes.
            pooled: (B, D) pooled image embeddings of length 1.
            presence: (B, C) bool, the ground truth of labelled images; None: the gate decides.
        """
        logits = None
        if self.relevance:
            with without_autocast(pooled.device):  # hundredths of similarity decide
                logits = self.gate_logits(text.class_similarity(pooled.float()))
            relevance, active = self._relevance(logits, presence)
        else:
            relevance = pooled.new_ones(pooled.shape[0], len(text.text_embeddings))
            active = relevance > 0
        order = self._order(active)  # (B, K)
        valid = active.gather(1, order)
        relevance = relevance.gather(1, order)

        standardized = (text.text_embeddings - self.text_mean) / self.text_spread
        class_queries = torch.stack([mlp(standardized) for mlp in self.level_mlps])  # (L, C, d)
        queries = class_queries[:, order] * relevance[None, :, :, None].to(class_queries.dtype)  # (L, B, K, d)
        position = self.level_embedding.weight[:, None, None].expand_as(queries)

        def rows(x: Tensor) -> Tensor:
            """(L, B, K, d) → (B, L·K, d)"""
            return x.transpose(0, 1).flatten(1, 2)

        repeat = (1, self.num_levels)
        return TextQueries(
            queries=rows(queries),
            position=rows(position),
            classes=order.repeat(repeat),
            valid=valid.repeat(repeat),
            log_relevance=relevance.clamp(min=1e-4).log().repeat(repeat),
            relevance_logits=logits,
        )

    def _order(self, active: Tensor) -> Tensor:
        """The classes (B, K) of the queries of every image, from its active classes (B, C)."""
        if self.export_form:  # K = C for all images: inactive classes are padding too
            return torch.arange(active.shape[1], device=active.device).expand_as(active)
        # Active classes come first, in their order; inactive ones are the padding.
        num_active = int(active.sum(1).max())
        return active.float().sort(dim=1, descending=True, stable=True).indices[:, :num_active]

    def active_classes(self, relevance: Tensor) -> Tensor:
        """The active classes if the gate decides: r (B, C) → (B, C) bool."""
        active = relevance >= self.threshold
        top = relevance.topk(min(self.min_active, relevance.shape[1]), dim=1).indices
        active = active.scatter(1, top, True)
        for label in self.always_active:  # a list as index would wait for the device
            active[:, label] = True
        return active

    def _relevance(self, logits: Tensor, presence: Tensor | None):
        """→ r (B, C), and the active classes (B, C) bool."""
        gate = logits.sigmoid()
        if presence is None:
            return gate, self.active_classes(gate)
        relevance = torch.where(presence, torch.ones_like(gate), gate)
        active = presence.clone()
        for label in self.always_active:  # a list as index would wait for the device
            active[:, label] = True
        num_absent = min(max(self.hard_negatives, self.min_active), gate.shape[1])
        if num_absent:
            ranked = gate.masked_fill(active, -1.0).topk(num_absent, dim=1)
            joins = ranked.values >= 0
            # At least min_active classes; beyond that, only the hard negatives are added.
            missing = (self.min_active - active.sum(1, keepdim=True)).clamp(min=0)
            wanted = torch.maximum(missing, torch.full_like(missing, self.hard_negatives))
            joins &= torch.arange(num_absent, device=gate.device) < wanted
            active = active.scatter(1, ranked.indices, active.gather(1, ranked.indices) | joins)
        return relevance, active
