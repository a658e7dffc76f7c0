"""Open vocabulary: scores of queries, and of pixels, for classes that the network was not trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiervl.structures import TextFeatures

IMPOSSIBLE = -1e4  # a logit that gives the probability 0 in every number type
LEAST_SHARE = 1e-6  # least share of a class in the network's map: CLIP may see a class whose relevance gate is closed


class OpenVocabularyClassifier(nn.Module):
    """Scores over a new list of C' classes. Some may be among the C that the linear head was trained on.

    The linear head decides between the classes that it knows, and how likely a query is "no object". Its probability of
    "some object" is divided as follows:

    - text query of a new class: that class gets all of it, because training ties every text query to its class;
    - text query of a known class: the known classes share it as the linear head says;
    - instance query: softmax(cos(φ(q), t_c)/τ) over the C' classes gives the part of every new class and of all known
      classes together, which share their part as the linear head says.

    Training assigns pixels of unnamed classes to the names that it has. So CLIP decides between known and new classes
    in the semantic map (:meth:`share_pixels`).
    """

    columns: Tensor  # (C',) int64: of each class in the linear head, −1 for none
    is_background: Tensor  # (C',) bool

    def __init__(self, known: Sequence[int | None], temperature: float, background: Sequence[int] = ()):
        """
        Args:
            known: the column of each of the C' classes in the linear head; None: the head does not know the class.
            temperature: τ of the similarity between queries and text.
            background: indices, among the C', of the classes that no caption names.
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

    def linear_class(self, query_classes: Tensor) -> Tensor:
        """Classes of queries (…), −1 for none → their columns in the linear head, −1 for none."""
        return torch.where(query_classes >= 0, self.columns[query_classes.clamp(min=0)], query_classes.clamp(max=-1))

    def forward(
        self, linear: Tensor, joint: Tensor, query_classes: Tensor, own_class_logit: Tensor, text: TextFeatures
    ) -> Tensor:
        """
        Args:
            linear: (B, Q, C + 1) of the linear head; joint: (B, Q, D) of length 1.
            query_classes: (B, Q), which of the C' classes owns a text query; -1 for instance queries.
            own_class_logit: added to the logit of a text query's own class.

        Returns:
            (B, Q, C' + 1).
        """
        is_known = self.columns >= 0
        known = linear[..., self.columns.clamp(min=0)].masked_fill(~is_known, IMPOSSIBLE)
        if self.knows_all:
            return torch.cat((known, linear[..., -1:]), dim=-1)
        log_object = linear[..., :-1].logsumexp(-1, keepdim=True)
        share = (text.class_similarity(joint) / self.temperature).log_softmax(-1)
        known_share = share.masked_fill(~is_known, IMPOSSIBLE).logsumexp(-1, keepdim=True)
        by_text = torch.where(is_known, known + known_share, share + log_object)

        owner = query_classes.clamp(min=0)
        owns = nn.functional.one_hot(owner, self.num_classes).bool()
        by_owner = torch.where(owns, log_object + own_class_logit, IMPOSSIBLE)  # queries of new classes
        has_known_owner = is_known[owner].unsqueeze(-1)
        by_owner = torch.where(has_known_owner, known, by_owner)
        is_text = (query_classes >= 0).unsqueeze(-1)
        return torch.cat((torch.where(is_text, by_owner, by_text), linear[..., -1:]), dim=-1)

    def share_pixels(self, scores: Tensor, by_clip: Tensor) -> Tensor:
        """The semantic map p, corrected by CLIP's dense prediction q where training could not know the classes.

        - Background that the network knows gets √(p·q), because CLIP has no good word for it.
        - CLIP decides how the rest of a pixel is divided between known and new classes.
        - Known classes divide their part by p, new classes by √(p·q).

        Args:
            scores: (B, C', H, W), not negative, not normalised; by_clip: the same shape, sum over classes 1.

        Returns:
            (B, C', H, W), sum over classes 1; ``scores`` unchanged if all classes are known.
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
        new_scores = (p * q).sqrt() * is_new
        return (
            background * _shares(p * is_background)
            + (1 - background - new) * _shares(p * is_known)
            + new * _shares(new_scores)
        )


def _shares(scores: Tensor) -> Tensor:
    """Scores (B, C, H, W) → their shares of the sum over classes; 0 where the sum is 0."""
    return scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
