"""Size of the gradients of the parts of an iteration."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GradientNorms:
    """Norms of the gradients that consecutive backward passes add."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        """Create it while the parameters have no gradients."""
        self.parameters = parameters
        self.norms: list[float] = []
        self._before: list[Tensor | None] = [None] * len(parameters)

    def add(self) -> None:
        """Call it after each backward pass."""
        after = [None if each.grad is None else each.grad.detach().clone() for each in self.parameters]
        added = [new if old is None else new - old for new, old in zip(after, self._before) if new is not None]
        self.norms.append(torch.stack([each.norm() for each in added]).norm().item() if added else 0.0)
        self._before = after

    @property
    def ratio(self) -> float:
        """Norm of the second pass divided by that of the first; nan unless there were two."""
        return self.norms[1] / self.norms[0] if len(self.norms) > 1 and self.norms[0] else float("nan")
