"""HSQG: the classes relevant to an image become a coarse-to-fine hierarchy of text queries (paper §3.2)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hiervl.structures import TextFeatures

from .layers import MLP, HasExportForm, without_autocast


class TextQueries(NamedTuple):
    """The text rows of a batch, M = levels · (most active classes of any of its images); padded rows are not valid."""

    queries: Tensor  # (B, M, d): r_c · MLP_l(t̂_c)
    position: Tensor  # (B, M, d): embedding of the row's level
    classes: Tensor  # (B, M): class of every row
    valid: Tensor  # (B, M) bool: False on padding
    log_relevance: Tensor  # (B, M): log r_c, added to every attention score towards the row
    relevance_logits: Tensor | None  # (B, C): α·s_c + β of the gate, for loss_relevance; None without a gate


class HierarchicalSemanticQueryGenerator(HasExportForm, nn.Module):
    """Gate the classes by their relevance r to the image and project the active ones on every level.

    1. s_c = cos(v, t_c) with v the pooled image embedding; r_c = σ(α·s_c + β);
    2. where presence is given (labelled images in training, GROUND_TRUTH_PRESENCE) r_c = 1 for the classes of the
       ground truth, which are the active ones, joined by a few absent classes of the highest gate (hard negatives);
    3. elsewhere the active classes are those with r_c ≥ threshold, at least ``min_active`` of them;
    4. q_c^l = r_c · MLP_l(t̂_c) on levels l = 1…L, t̂_c = (t_c − μ) / σ.

    CLIP's text embeddings lie in a narrow cone (mean cosine between the classes of VOC or ADE20K: 0.8), which would
    make all queries start out alike; μ, their mean, and σ, their spread, are taken once, before training, and kept.

    A normalisation straight after the product would undo it, so r acts a second time, as log r on every attention
    score towards the row.
    """

    threshold: Tensor  # (): relevance from which on a class is active
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
            relevance: gate the classes; off: all are active with r = 1.
            hard_negatives: absent classes that join the active ones where presence is given.
            threshold: relevance from which on a class is active.
            min_active: at least so many classes are active.
            always_active: classes that are active in every image (background).
        """
        super().__init__()
        self.relevance = relevance
        self.hard_negatives = hard_negatives
        self.min_active = min_active
        self.always_active = tuple(always_active)
        self.level_mlps = nn.ModuleList(MLP(embed_dim, dim, dim, 2) for _ in range(levels))
        self.level_embedding = nn.Embedding(levels, dim)
        # α is kept as its logarithm: it is large, and it must stay positive.
        self.log_gate_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.gate_offset = nn.Parameter(torch.tensor(-0.2))  # the similarity at which r = 0.5: β = −α · offset
        self.log_gate_scale.requires_grad_(relevance)
        self.gate_offset.requires_grad_(relevance)
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.register_buffer("text_mean", torch.zeros(embed_dim))
        self.register_buffer("text_spread", torch.tensor(embed_dim**-0.5))  # of a vector of length 1, per dimension

    @property
    def num_levels(self) -> int:
        return len(self.level_mlps)

    @torch.no_grad()
    def fit_text(self, text_embeddings: Tensor) -> None:
        """Take μ and σ from the embeddings (C, D) of the classes; of a single class there is nothing to take."""
        if len(text_embeddings) > 1:
            self.text_mean.copy_(text_embeddings.mean(0))
            self.text_spread.copy_((text_embeddings - self.text_mean).square().mean().sqrt().clamp(min=1e-3))

    @torch.no_grad()
    def fit_gate(self, similarity: Tensor) -> None:
        """Place the gate in the band where the similarities (images, C) lie: r = 0.5 at the mean, σ(±2) one
        standard deviation away. CLIP's similarities differ by a few hundredths; unfitted, r would be flat."""
        if similarity.shape[-1] > 1:
            spread = similarity.std(dim=-1, correction=0).mean().clamp(min=1e-3)
            self.log_gate_scale.fill_(math.log(2.0 / spread.item()))
        self.gate_offset.fill_(-similarity.mean().item())

    @torch.no_grad()
    def calibrate_threshold(self, relevance: Tensor, presence: Tensor, recall: float, highest: float) -> float:
        """Lower the threshold until the share ``recall`` of the present classes passes; never above ``highest``,
        since the relevance of images that were trained on is flattering.

        Args:
            relevance, presence: (images, C) of labelled images.
        """
        present = relevance[presence]
        # "lower": a value between two classes would let too few pass.
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
        of_class = torch.stack([mlp(standardized) for mlp in self.level_mlps])  # (L, C, d)
        queries = of_class[:, order] * relevance[None, :, :, None].to(of_class.dtype)  # (L, B, K, d)
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
        """The classes (B, K) of an image's rows, from which classes are active (B, C)."""
        if self.export_form:  # K = C whatever the images show: rows of inactive classes are padding, too
            return torch.arange(active.shape[1], device=active.device).expand_as(active)
        # Active classes first, in order of the classes; inactive ones fill the padding.
        num_rows = int(active.sum(1).max())
        return active.float().sort(dim=1, descending=True, stable=True).indices[:, :num_rows]

    def active_classes(self, relevance: Tensor) -> Tensor:
        """Which classes take part where the gate decides, from its r: (B, C) → (B, C) bool."""
        active = relevance >= self.threshold
        top = relevance.topk(min(self.min_active, relevance.shape[1]), dim=1).indices
        active = active.scatter(1, top, True)
        for label in self.always_active:  # a list as index would wait for the device
            active[:, label] = True
        return active

    def _relevance(self, logits: Tensor, presence: Tensor | None):
        """→ r (B, C) and which classes are active (B, C)."""
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
            # At least min_active rows, else only as many as the hard negatives ask for.
            missing = (self.min_active - active.sum(1, keepdim=True)).clamp(min=0)
            wanted = torch.maximum(missing, torch.full_like(missing, self.hard_negatives))
            joins &= torch.arange(num_absent, device=gate.device) < wanted
            active = active.scatter(1, ranked.indices, active.gather(1, ranked.indices) | joins)
        return relevance, active
