"""The query decoder's output, which the losses read."""

from typing import NamedTuple

from torch import Tensor

INSTANCE_QUERY = -1  # in query_classes: a query that no class owns


class QueryPredictions(NamedTuple):
    """Predictions of Q queries, text queries first. Lists hold one entry per prediction; the last one is final."""

    pred_logits: list[Tensor]  # (B, Q, C + 1) each; the last column is "no object"
    pred_masks: list[Tensor]  # (B, Q, H', W') each, logits
    joint_embeddings: Tensor | None  # (B, Q, D): φ(q), the final queries in CLIP's joint space, length 1
    query_classes: Tensor  # (B, Q): the class that owns a text query, INSTANCE_QUERY for the others
    query_valid: Tensor  # (B, Q) bool: False on padding
