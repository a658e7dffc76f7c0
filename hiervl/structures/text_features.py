"""The text encoder's output, which the network and the losses read."""

from typing import NamedTuple

from torch import Tensor


class TextFeatures(NamedTuple):
    """Text embeddings of C classes that are described by K ≥ C phrases. All vectors have length 1."""

    text_embeddings: Tensor  # (C, D): learnable prompts, mean over the phrases of a class
    phrase_embeddings: Tensor  # (K, D): learnable prompts, one row per phrase
    prototypes: Tensor  # (C, D): fixed prompt, mean over the phrases of a class
    phrase_class: Tensor  # (K,): the class of every phrase
    phrase_prototypes: Tensor | None = None  # (K, D): fixed prompt, one row per phrase; None: one phrase a class

    def class_similarity(self, features: Tensor) -> Tensor:
        """Cosine of features (…, D) of length 1 to every class: (…, C). The best phrase of a class counts."""
        return self._best_phrase(features, self.phrase_embeddings)

    def prototype_similarity(self, features: Tensor) -> Tensor:
        """As :meth:`class_similarity`, with the fixed prompt in place of the learnable one."""
        phrases = self.prototypes if self.phrase_prototypes is None else self.phrase_prototypes
        return self._best_phrase(features, phrases)

    def _best_phrase(self, features: Tensor, phrases: Tensor) -> Tensor:
        similarity = features @ phrases.to(features.dtype).T
        num_classes = len(self.text_embeddings)
        if len(phrases) == num_classes:
            return similarity
        index = self.phrase_class.expand(similarity.shape)
        lowest = similarity.new_full((*similarity.shape[:-1], num_classes), -1.0)
        return lowest.scatter_reduce(-1, index, similarity, reduce="amax", include_self=True)
