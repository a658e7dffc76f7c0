"""Classes that the network was not trained on: class scores of rows, and what CLIP decides of the pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiervl.structures import TextFeatures

IMPOSSIBLE = -1e4  # a logit whose probability is 0 in every number type
LEAST_SHARE = 1e-6  # of a class in the network's map: where its relevance gate is closed, CLIP may still see it


class OpenVocabularyClassifier(nn.Module):
    """Scores over a new list of C' classes, of which some are among the C that the linear head was trained on.

    The linear head decides between the classes it knows, and alone says how likely a row is "no object". How its
    probability of "some object" is shared out depends on the row:

    - a text row of a new class: all of it belongs to that class, as training ties every text row to its class;
    - a text row of a known class: the known classes share it as the linear head says;
    - an instance row: softmax(cos(φ(q), t_c)/τ) over the C' classes gives every new class its part, and the known
      classes together theirs, which they share as the linear head says.

    Training drives pixels of unnamed classes to the names it has, so in the semantic map
    CLIP decides between them (:meth:`share_pixels`).
    """

    columns: Tensor  # (C',) int64: of each class in the linear head, −1 for none
    is_background: Tensor  # (C',) bool

    def __init__(self, known: Sequence[int | None], temperature: float, background: Sequence[int] = ()):
        """
        Args:
            known: for each of the C' classes its column in the linear head; None: the head does not know it.
            temperature: τ of the similarity between rows and text.
            background: indices of the classes, of the C', that no caption names.
        """
        super().__init__()
        columns = torch.tensor([-1 if column is None else column for column in known])
        is_background = torch.zeros(len(columns), dtype=torch.bool)
        is_background[list(background)] = True
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("is_background", is_background & (columns >= 0), persistent=False)
        self.knows_all = None not in known
        self.temperature = temperature

    @property
    def num_classes(self) -> int:
        """C'."""
        return len(self.columns)

    def linear_class(self, row_classes: Tensor) -> Tensor:
        """Classes of rows (…), −1 for none → their columns in the linear head, −1 for none."""
        return torch.where(row_classes >= 0, self.columns[row_classes.clamp(min=0)], row_classes.clamp(max=-1))

    def forward(
        self, linear: Tensor, joint: Tensor, row_classes: Tensor, own_class_logit: Tensor, text: TextFeatures
    ) -> Tensor:
        """
        Args:
            linear: (B, Q, C + 1) of the linear head; joint: (B, Q, D) of length 1.
            row_classes: (B, Q), which of the C' classes owns a text row; -1 for instance rows.
            own_class_logit: what a text row's own class has in advance.

        Returns:
            (B, Q, C' + 1).
        """
        is_known = self.columns >= 0
        known = linear[..., self.columns.clamp(min=0)].masked_fill(~is_known, IMPOSSIBLE)
        if self.knows_all:
            return torch.cat((known, linear[..., -1:]), dim=-1)
        log_object = linear[..., :-1].logsumexp(-1, keepdim=True)
        share = (text.class_similarity(joint) / self.temperature).log_softmax(-1)
        of_known = share.masked_fill(~is_known, IMPOSSIBLE).logsumexp(-1, keepdim=True)
        by_text = torch.where(is_known, known + of_known, share + log_object)

        owner = row_classes.clamp(min=0)
        owns = nn.functional.one_hot(owner, self.num_classes).bool()
        by_owner = torch.where(owns, log_object + own_class_logit, IMPOSSIBLE)  # rows of new classes
        has_known_owner = is_known[owner].unsqueeze(-1)
        by_owner = torch.where(has_known_owner, known, by_owner)
        is_text = (row_classes >= 0).unsqueeze(-1)
        return torch.cat((torch.where(is_text, by_owner, by_text), linear[..., -1:]), dim=-1)

    def share_pixels(self, scores: Tensor, by_clip: Tensor) -> Tensor:
        """The semantic map p, where the dense prediction q of the image tower decides what training got wrong.

        - Background that the network knows has √(p·q), as CLIP has no good word for it.
        - How the rest of a pixel is split between known and new classes, CLIP says.
        - The known ones share theirs by p, the new ones by √(p·q).

        Args:
            scores: (B, C', H, W), not negative, not normalised; by_clip: the same shape, sum over classes 1.

        Returns:
            (B, C', H, W), sum over classes 1; ``scores`` as they are where all classes are known.
        """
        if self.knows_all:
            return scores
        is_new = (self.columns < 0)[:, None, None]
        is_background = self.is_background[:, None, None]
        is_known = ~(is_new | is_background)
        p, q = _shares(scores) + LEAST_SHARE, by_clip

        background = ((p * is_background).sum(1, keepdim=True) * (q * is_background).sum(1, keepdim=True)).sqrt()
        q_new, q_known = (q * is_new).sum(1, keepdim=True), (q * is_known).sum(1, keepdim=True)
        new = (1 - background) * q_new / (q_new + q_known).clamp(min=torch.finfo(q.dtype).tiny)
        of_new = (p * q).sqrt() * is_new
        return (
            background * _shares(p * is_background)
            + (1 - background - new) * _shares(p * is_known)
            + new * _shares(of_new)
        )


def _shares(scores: Tensor) -> Tensor:
    """Scores (B, C, H, W) → their shares of the sum over classes; 0 where it is 0."""
    return scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
