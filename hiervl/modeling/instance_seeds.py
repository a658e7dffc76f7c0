"""Places where instance rows start, with what CLIP and nearness say of the object there (ours)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import without_autocast

CLASS_SHARE = 0.6  # of its probability that a row gives its own class at first
STEEPNESS = 3.0  # log-odds in the seed itself that a pixel is of its object, as far as nearness goes
BOUND = 6.0  # log-odds: what nearness may claim at most
RESOLUTION = 0.01  # of probabilities; places that differ by less are equal
# The turns in which equal places count: 0.5698·y + 0.7549·x modulo 1, the lattice of the plastic number, whose first n
# places are spread evenly for every n.
TURNS = 2**16
SPREAD = (37345, 49472)


class Seeds(NamedTuple):
    """What N instance rows start from."""

    rows: Tensor  # (B, N, d), added to them
    position: Tensor  # (B, N, d), added to their position
    class_logits: Tensor  # (B, N, C), added to their class logits
    mask_prior: Tensor  # (B, N, h, w), added to their mask logits


def start_logit(num_classes: int) -> float:
    """What a row's own class is given in advance, so that with C others at 0, "no object" among them, it has
    ``CLASS_SHARE`` of the probability, of 10 classes or of 1,000."""
    return math.log(num_classes * CLASS_SHARE / (1 - CLASS_SHARE))


class InstanceSeeds(nn.Module):
    """Gives every instance row a place in the image: its seed.

    Seeds are where a class's similarity to the dense CLIP embedding has a peak. A row takes the pixel features there,
    the seed's class as start of its own, and as start of its mask the pixels that are of that class *and* near; how
    near, each row learns from its features. Learnable rows alone had not learnt to share objects out among themselves
    after a few hundred iterations with few labels (docs/method.md).
    """

    def __init__(self, dim: int, num_seeds: int, num_classes: int, background: Sequence[int] = ()):
        """dim: d; num_seeds: N; num_classes: C; background: classes whose peaks are no objects."""
        super().__init__()
        self.num_seeds = num_seeds
        self.background = tuple(background)
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, dim)
        # Logarithm of the radius; at first, N discs of it cover the image about three times.
        self.log_radius = nn.Linear(dim, 1)
        nn.init.zeros_(self.log_radius.weight)
        nn.init.zeros_(self.log_radius.bias)
        self.class_logit = nn.Parameter(torch.tensor(start_logit(num_classes)))
        self.steepness = nn.Parameter(torch.tensor(STEEPNESS))

    def forward(self, class_odds: Tensor, pixels: Tensor, position: Tensor, known: Tensor | None = None) -> Seeds:
        """
        Args:
            class_odds: (B, C, h, w), log-odds of the classes.
            pixels: (B, d, h', w') features of the same images; position: (1, d, h', w') embedding of their places.
            known: (C,) bool, False for classes whose log-odds say nothing; None: all of them count.
        """
        if known is not None:
            class_odds = torch.where(known[:, None, None], class_odds, -BOUND)
        with without_autocast(class_odds.device):
            return self._start(class_odds.float(), pixels.float(), position.float())

    def _start(self, class_odds: Tensor, pixels: Tensor, position: Tensor) -> Seeds:
        y, x = (torch.arange(side, device=class_odds.device) for side in class_odds.shape[2:])
        height, width = y[-1] + 1, x[-1] + 1  # as tensors, so that an exported graph holds for images of any size
        probability = class_odds.sigmoid()
        probability = probability / probability.sum(1, keepdim=True).clamp(min=1e-6)
        # In images of fewer than N patches, places repeat.
        index = self._peaks(probability.detach()).remainder(height * width)  # (B, N)
        of_y = index.div(width, rounding_mode="floor")
        of_x = index - of_y * width
        grid = torch.stack(((of_x + 0.5) / width, (of_y + 0.5) / height), dim=-1).unsqueeze(1) * 2 - 1
        features = self.norm(_at(pixels, grid))

        share = probability.flatten(2).transpose(1, 2)
        share = share.gather(1, index.unsqueeze(-1).expand(-1, -1, share.shape[2]))  # (B, N, C), of the seeds
        of_class = torch.einsum("bnc,bchw->bnhw", share, class_odds)
        spacing = (height * width / self.num_seeds).sqrt()  # in patches
        radius = spacing * self.log_radius(features).exp().unsqueeze(-1)  # (B, N, 1, 1)
        square = (y[:, None] - of_y[..., None, None]).square() + (x - of_x[..., None, None]).square()
        nearness = (self.steepness * (1 - square / radius.square())).clamp(-BOUND, BOUND)
        return Seeds(
            self.projection(features),
            _at(position.expand(pixels.shape[0], -1, -1, -1), grid),
            self.class_logit * share,
            torch.minimum(of_class, nearness),  # nearly the log-odds of both together
        )

    def _peaks(self, probability: Tensor) -> Tensor:
        """(B, C, h, w) → places (B, N), row by row: the highest peaks of single classes, then whatever else is likely
        to be an object, then numbers above h·w."""
        foreground = [of_class for c, of_class in enumerate(probability.unbind(1)) if c not in self.background]
        objects = torch.stack(foreground, dim=1) if foreground else probability
        # Whole numbers: where CLIP is sure, many places are equal but for rounding. Which of them count is then the
        # same on every device and in every export, and one of neighbours alone is a peak.
        objects = (objects / RESOLUTION).round()
        y, x = (torch.arange(side, device=objects.device) for side in objects.shape[2:])
        turn = (y[:, None] * SPREAD[0] + x * SPREAD[1]).remainder(TURNS)
        ranked = objects * TURNS - turn  # below 2²⁴, where float32 still has all whole numbers
        is_peak = F.max_pool2d(ranked, 3, stride=1, padding=1) == ranked
        score = 10 * (objects * is_peak).amax(1) + objects.sum(1)
        rank = ((score.long() + 1) * TURNS - turn).flatten(1)
        beyond = torch.arange(-1, -self.num_seeds - 1, -1, device=rank.device).expand(rank.shape[0], -1)
        return torch.cat((rank, beyond), dim=1).topk(self.num_seeds, dim=1).indices


def _at(maps: Tensor, grid: Tensor) -> Tensor:
    """maps (B, d, h, w) at places (B, 1, N, 2) in [−1, 1] → (B, N, d)."""
    return F.grid_sample(maps, grid, align_corners=False).squeeze(2).transpose(1, 2)
