"""Losses that keep learnable prompts near CLIP's own text embeddings (paper §3.6.1, eq. 3–5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def prompt_topology_loss(text_embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """(1/C²)·‖T Tᵀ − T⁰ T⁰ᵀ‖²_F (eq. 3) keeps the angles between classes. The rows of (C, D) are normalised here."""
    learnt, fixed = F.normalize(text_embeddings, dim=-1), F.normalize(prototypes, dim=-1)
    return (learnt @ learnt.T - fixed @ fixed.T).square().mean()


def prompt_anchor_loss(projected: Tensor, prototypes: Tensor, temperature: float, separation: float) -> Tensor:
    """mean_c [ −cos(h(t_c), t⁰_c)/τ + λ·log Σ_{j≠c} exp(cos(h(t_c), t⁰_j)/τ) ] (eq. 4).

    Args:
        projected: (C, D), h(t_c); prototypes: (C, D); temperature: τ; separation: λ.
    """
    similarity = F.normalize(projected, dim=-1) @ F.normalize(prototypes, dim=-1).T / temperature
    loss = -similarity.diagonal()
    if len(similarity) > 1:
        itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        loss = loss + separation * similarity.masked_fill(itself, float("-inf")).logsumexp(1)
    return loss.mean()


class PromptRegularizer(nn.Module):
    """``loss_prompt_topology`` and ``loss_prompt_anchor``, with the projector h of the second."""

    def __init__(self, embed_dim: int, *, topology: float, anchor: float, temperature: float, separation: float):
        """
        Args:
            embed_dim: width D of CLIP's joint space.
            topology, anchor: weights of the two losses; 0 switches one off.
            temperature, separation: τ and λ of eq. 4.
        """
        super().__init__()
        self.topology, self.anchor = topology, anchor
        self.temperature, self.separation = temperature, separation
        self.projector = None
        if anchor:
            self.projector = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, text_embeddings: Tensor, prototypes: Tensor) -> dict[str, Tensor]:
        """text_embeddings and prototypes (C, D) → the weighted losses by name."""
        losses = {}
        if self.topology:
            losses["loss_prompt_topology"] = self.topology * prompt_topology_loss(text_embeddings, prototypes)
        if self.projector is not None:
            projected = self.projector(text_embeddings)
            losses["loss_prompt_anchor"] = self.anchor * prompt_anchor_loss(
                projected, prototypes, self.temperature, self.separation
            )
        return losses
