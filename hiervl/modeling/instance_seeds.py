"""Seeds: places where instance queries start, with a first class and mask from CLIP and nearness (not in the paper)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import without_autocast

CLASS_SHARE = 0.6  # probability that a query gives to its own class at first
STEEPNESS = 3.0  # log-odds, by nearness alone, that the pixel of the seed belongs to its object
BOUND = 6.0  # highest log-odds that nearness may give
RESOLUTION = 0.01  # probabilities that differ by less count as equal
# The order of equal places: 0.5698·y + 0.7549·x modulo 1, the lattice of the plastic number. Its first n places are
# spread evenly for every n.
TURNS = 2**16
SPREAD = (37345, 49472)


class Seeds(NamedTuple):
    """The start of N instance queries."""

    queries: Tensor  # (B, N, d), added to them
    position: Tensor  # (B, N, d), added to their position
    class_logits: Tensor  # (B, N, C), added to their class logits
    mask_prior: Tensor  # (B, N, h, w), added to their mask logits


def start_logit(num_classes: int) -> float:
    """Logit that a query gives to its own class at first. With the C other logits at 0 (including "no object") the
    class then has the probability ``CLASS_SHARE``, whether there are 10 classes or 1,000."""
    return math.log(num_classes * CLASS_SHARE / (1 - CLASS_SHARE))


class InstanceSeeds(nn.Module):
    """Gives every instance query a start in the image: its seed.

    Seeds are peaks of the similarity between a class and the dense CLIP embedding. A query starts with the pixel
    features and the class of its seed. Its mask starts with the pixels that are of that class *and* near; each query
    learns from its features how near. Without seeds, learnable queries had not learnt to divide the objects among
    themselves after a few hundred iterations with few labels (docs/experiments.md).
    """

    def __init__(self, dim: int, num_seeds: int, num_classes: int, background: Sequence[int] = ()):
        """dim: d; num_seeds: N; num_classes: C; background: classes whose peaks are not objects."""
        super().__init__()
        self.num_seeds = num_seeds
        self.background = tuple(background)
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, dim)
        # Logarithm of the radius. At first, N discs of this radius cover the image about three times.
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
            known: (C,) bool, False for classes whose log-odds mean nothing; None: all count.
        """
        if known is not None:
            class_odds = torch.where(known[:, None, None], class_odds, -BOUND)
        with without_autocast(class_odds.device):
            return self._start(class_odds.float(), pixels.float(), position.float())

    def _start(self, class_odds: Tensor, pixels: Tensor, position: Tensor) -> Seeds:
        y, x = (torch.arange(side, device=class_odds.device) for side in class_odds.shape[2:])
        height, width = y[-1] + 1, x[-1] + 1  # tensors, so that an exported graph takes images of any size
        probability = class_odds.sigmoid()
        probability = probability / probability.sum(1, keepdim=True).clamp(min=1e-6)
        # Images with fewer than N patches use places several times.
        index = self._peaks(probability.detach()).remainder(height * width)  # (B, N)
        seed_y = index.div(width, rounding_mode="floor")
        seed_x = index - seed_y * width
        grid = torch.stack(((seed_x + 0.5) / width, (seed_y + 0.5) / height), dim=-1).unsqueeze(1) * 2 - 1
        features = self.norm(_at(pixels, grid))

        share = probability.flatten(2).transpose(1, 2)
        share = share.gather(1, index.unsqueeze(-1).expand(-1, -1, share.shape[2]))  # (B, N, C), of the seeds
        class_map = torch.einsum("bnc,bchw->bnhw", share, class_odds)
        spacing = (height * width / self.num_seeds).sqrt()  # in patches
        radius = spacing * self.log_radius(features).exp().unsqueeze(-1)  # (B, N, 1, 1)
        square = (y[:, None] - seed_y[..., None, None]).square() + (x - seed_x[..., None, None]).square()
        nearness = (self.steepness * (1 - square / radius.square())).clamp(-BOUND, BOUND)
        return Seeds(
            self.projection(features),
            _at(position.expand(pixels.shape[0], -1, -1, -1), grid),
            self.class_logit * share,
            torch.minimum(class_map, nearness),  # about the log-odds of both together
        )

    def _peaks(self, probability: Tensor) -> Tensor:
        """(B, C, h, w) → places (B, N) as indices into h·w: first the highest peaks of single classes, then other
        places that are likely to be an object, then numbers above h·w."""
        foreground = [class_map for c, class_map in enumerate(probability.unbind(1)) if c not in self.background]
        objects = torch.stack(foreground, dim=1) if foreground else probability
        # Round to whole numbers: if CLIP is certain, many places are equal except for rounding errors. Rounded, the
        # choice is the same on every device and in every export, and only one of several neighbours is a peak.
        objects = (objects / RESOLUTION).round()
        y, x = (torch.arange(side, device=objects.device) for side in objects.shape[2:])
        turn = (y[:, None] * SPREAD[0] + x * SPREAD[1]).remainder(TURNS)
        ranked = objects * TURNS - turn  # below 2²⁴: float32 holds all whole numbers up to there
        is_peak = F.max_pool2d(ranked, 3, stride=1, padding=1) == ranked
        score = 10 * (objects * is_peak).amax(1) + objects.sum(1)
        rank = ((score.long() + 1) * TURNS - turn).flatten(1)
        beyond = torch.arange(-1, -self.num_seeds - 1, -1, device=rank.device).expand(rank.shape[0], -1)
        return torch.cat((rank, beyond), dim=1).topk(self.num_seeds, dim=1).indices


def _at(maps: Tensor, grid: Tensor) -> Tensor:
    """maps (B, d, h, w) at places (B, 1, N, 2) in [−1, 1] → (B, N, d)."""
    return F.grid_sample(maps, grid, align_corners=False).squeeze(2).transpose(1, 2)
