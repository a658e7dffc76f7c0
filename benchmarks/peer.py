"""Mask2Former as ``transformers`` has it, at the sizes of a HierVL network, for the comparisons of ``speed.py``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.models.mask2former import modeling_mask2former as mask2former
from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig


def configuration(num_classes: int, num_queries: int) -> Mask2FormerConfig:
    """Width 256, 6 deformable layers, 9 masked-attention layers (their count includes the start), 12,544 points."""
    return Mask2FormerConfig(
        num_queries=num_queries, decoder_layers=10, encoder_layers=6, id2label={i: str(i) for i in range(num_classes)}
    )


class Decoders(nn.Module):
    """Pixel decoder, query decoder and class head: maps of a backbone in, masks and class scores of all layers out."""

    def __init__(self, channels: Sequence[int], num_classes: int, num_queries: int):
        super().__init__()
        config = configuration(num_classes, num_queries)
        self.pixel_decoder = mask2former.Mask2FormerPixelDecoder(config, feature_channels=list(channels))
        self.query_decoder = mask2former.Mask2FormerTransformerModule(config.feature_size, config)
        self.class_head = nn.Linear(config.hidden_dim, num_classes + 1)
        nn.init.normal_(self.pixel_decoder.level_embed)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        pixels = self.pixel_decoder(features)
        rows = self.query_decoder(list(pixels.multi_scale_features), pixels.mask_features)
        states = rows.intermediate_hidden_states if self.training else rows.intermediate_hidden_states[-1:]
        masks = rows.masks_queries_logits if self.training else rows.masks_queries_logits[-1:]
        return [*masks, *(self.class_head(state) for state in states)]


def attention(dim: int, heads: int, maps: int, points: int) -> nn.Module:
    """Deformable attention with its projections."""
    return mask2former.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(dim, heads, maps, points)


class Losses:
    """Matching and losses of several predictions."""

    def __init__(self, num_classes: int, num_queries: int):
        config = configuration(num_classes, num_queries)
        self.weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
        self.criterion = mask2former.Mask2FormerLoss(config, self.weights)

    def __call__(self, logits: list[Tensor], masks: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        """logits (B, Q, C + 1) and masks (B, Q, h, w) of every layer → the weighted sum of all losses."""
        losses = self.criterion(
            masks[-1],
            logits[-1],
            [target["masks"] for target in targets],
            [target["labels"] for target in targets],
            [{"masks_queries_logits": m, "class_queries_logits": c} for m, c in zip(masks[:-1], logits[:-1])],
        )
        total = torch.zeros((), device=masks[-1].device)
        for name, loss in losses.items():
            total = total + self.weights[name if name in self.weights else name.rsplit("_", 1)[0]] * loss
        return total
