"""The network that makes the pseudo-labels (mean teacher; decay as in UniMatch V2)."""

import copy
from typing import cast

import torch
from torch import nn

from hiervl.modeling import HierVL
from hiervl.modeling.text_encoder import weights_changed


class EmaTeacher(nn.Module):
    """Exponential moving average of a student: θ' ← decay·θ' + (1 − decay)·θ, always in evaluation mode.

    Weights that are never trained are shared with the student instead of copied.
    """

    network: HierVL

    def __init__(self, student: nn.Module, max_decay: float = 0.996):
        """
        Args:
            student: the network to follow. It must not be replaced later, because its frozen weights are shared.
            max_decay: the decay after warm-up.
        """
        super().__init__()
        self.network = cast(HierVL, copy.deepcopy(student).requires_grad_(False).eval())
        self.max_decay = max_decay
        for own, followed in zip(self.network.parameters(), student.parameters()):
            if not followed.requires_grad:
                own.data = followed.data

    def train(self, mode: bool = True) -> "EmaTeacher":
        """Ignore the mode: a teacher is never trained."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Follow the student after its optimiser step number ``step`` (from 0): decay min(1 − 1/(step + 1), max)."""
        decay = min(1.0 - 1.0 / (step + 1), self.max_decay)
        trained = [
            (own, followed)
            for own, followed in zip(self.network.parameters(), student.parameters())
            if followed.requires_grad
        ]
        own, followed = (list(parameters) for parameters in zip(*trained))
        torch._foreach_lerp_(own, followed, 1.0 - decay)
        for own_buffer, followed_buffer in zip(self.network.buffers(), student.buffers()):
            own_buffer.copy_(followed_buffer)
        weights_changed(self.network)


class StudentAsTeacher(nn.Module):
    """The student itself in evaluation mode makes the pseudo-labels (UniMatch V1)."""

    def __init__(self, student: HierVL):
        super().__init__()
        self._student = [student]  # in a list, so that its weights are not registered twice

    @property
    def network(self) -> HierVL:
        return self._student[0]

    def update(self, student: nn.Module, step: int) -> None:
        """Does nothing: the student is its own teacher."""
