"""Classes that the network was not trained on: class scores where the linear head knows only some of the names."""

from typing import Optional, Sequence

import torch
from torch import Tensor, nn

from .text_encoder import TextFeatures

IMPOSSIBLE = -1e4  # a logit whose probability is 0 in every number type


class OpenVocabularyClassifier(nn.Module):
    """Scores over a new list of C' classes, of which some are among the C that the linear head was trained on.

    The linear head decides between the classes it knows, and alone says how likely a row is "no object". How its
    probability of "some object" is shared out depends on the row:

    - a text row of a new class: all of it belongs to that class, as training ties every text row to its class;
    - a text row of a known class: the known classes share it as the linear head says;
    - an instance row: softmax(cos(φ(q), t_c)/τ) over the C' classes gives every new class its part, and the known
      classes together theirs, which they share as the linear head says.
    """

    def __init__(self, known: Sequence[Optional[int]], temperature: float):
        """
        Args:
            known: for each of the C' classes its column in the linear head; None: the head does not know it.
            temperature: τ of the similarity between rows and text.
        """
        super().__init__()
        columns = torch.tensor([-1 if column is None else column for column in known])
        self.register_buffer("columns", columns, persistent=False)
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
