"""Target masks read at points, from one map of numbers per image instead of one mask per query."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .targets import ImageTargets

NO_LABEL = -1  # number of a pixel without label, or outside the image


class TargetMaps:
    """The class maps and segment maps of a batch: a target mask is all pixels of map ``m`` with the number ``n``.

    Masks of one image do not overlap, so two maps of numbers hold all of them. No tensor of the size (queries, height,
    width) is ever built. The four pixels around a point lie beside each other in memory, so a bilinear sample is one
    look-up. Its value equals that of ``point_sample`` on the mask.

    Maps 0 … B − 1 hold the classes of the B images, maps B … 2·B − 1 the numbers of their segments.
    """

    def __init__(self, targets: Sequence[ImageTargets]):
        classes = [target.sem_seg.masked_fill(~target.valid, NO_LABEL) for target in targets]
        segments = [target.segments.masked_fill(~target.valid, NO_LABEL) for target in targets]
        self.num_images = len(targets)
        self.height, self.width = classes[0].shape
        maps = F.pad(torch.stack(classes + segments).to(torch.int16), (1, 1, 1, 1), value=NO_LABEL)
        rows = torch.stack((maps[:, :, :-1], maps[:, :, 1:]), dim=-1)
        around = torch.cat((rows[:, :-1], rows[:, 1:]), dim=-1)  # (2·B, H + 1, W + 1, 4): two above, two below
        self._quads = around.contiguous().view(torch.int64).flatten()  # four numbers of 16 bits in one of 64

    def neighbors(self, which: Tensor, points: Tensor):
        """
        Args:
            which: (R,) maps; points: (R, P, 2), x and y in [0, 1].

        Returns:
            (R, P, 4) int16: numbers of the pixels above left, above right, below left and below right of the points;
            (R, P) the points' distance from the left ones, and (R, P) from the upper ones, both in [0, 1]
        """
        x = points[..., 0] * self.width + 0.5
        y = points[..., 1] * self.height + 0.5
        left, upper = x.floor(), y.floor()
        row = upper.long().add_((which * (self.height + 1))[:, None])
        place = row.mul_(self.width + 1).add_(left.long())
        numbers = self._quads.index_select(0, place.flatten()).view(*place.shape, 1)
        return numbers.view(torch.int16), x.sub_(left), y.sub_(upper)

    def sample(self, which: Tensor, number: Tensor, points: Tensor):
        """Target masks, each read at its own points.

        Args:
            which, number: (R,) map and number of every mask; points: (R, P, 2).

        Returns:
            (R, P) the masks' bilinear values; (R, P) 1 where the pixel has a label, else 0
        """
        numbers, x, y = self.neighbors(which, points)
        truth = _bilinear((numbers == number.to(torch.int16)[:, None, None]).to(points.dtype), x, y)
        labeled = _bilinear((numbers != NO_LABEL).to(points.dtype), x, y)
        return truth, (labeled > 0.5).to(points.dtype)

    def segments_at(self, points: Tensor, num_segments: int):
        """All segments of all images at points (P, 2).

        Returns:
            (B, num_segments, P) bilinear values of the segments; (B, 1, P) 1 where the pixel has a label, else 0
        """
        which = torch.arange(self.num_images, device=points.device)
        numbers, x, y = self.neighbors(which + self.num_images, points.expand(self.num_images, -1, -1))
        weights = torch.stack(((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x), dim=-1)
        columns = numbers.long().masked_fill(numbers == NO_LABEL, num_segments)
        values = points.new_zeros(*weights.shape[:2], num_segments + 1).scatter_add_(2, columns, weights)
        values = values.transpose(1, 2)
        return values[:, :num_segments], (values[:, num_segments:] < 0.5).to(points.dtype)


def _bilinear(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(…, 4) in the order of ``neighbors`` → (…)"""
    above = torch.lerp(corners[..., 0], corners[..., 1], x)
    return torch.lerp(above, torch.lerp(corners[..., 2], corners[..., 3], x), y)
