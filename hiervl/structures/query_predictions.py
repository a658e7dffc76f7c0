"""What the query decoder predicts, and the losses read."""

from typing import NamedTuple

from torch import Tensor

INSTANCE_ROW = -1  # in row_classes: a row that no class owns


class QueryPredictions(NamedTuple):
    """Predictions of Q rows, text rows first. Lists hold one entry per prediction, the last one is final."""

    pred_logits: list[Tensor]  # (B, Q, C + 1) each; the last column is "no object"
    pred_masks: list[Tensor]  # (B, Q, H', W') each, logits
    joint_embeddings: Tensor | None  # (B, Q, D): φ(q), the final rows in CLIP's joint space, length 1
    row_classes: Tensor  # (B, Q): the class that owns a text row, INSTANCE_ROW for the others
    row_valid: Tensor  # (B, Q) bool: False on padding
