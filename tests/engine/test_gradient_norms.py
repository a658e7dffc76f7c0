import math

import torch
from torch import nn

from hiervl.engine.gradient_norms import GradientNorms


def test_norms_of_what_every_pass_adds():
    """(3, 0) with 4, then (0, 12) with 5: norms 5 and 13; a parameter without gradient takes no part."""
    pair, single, unused = (nn.Parameter(torch.zeros(n)) for n in (2, 1, 3))
    norms = GradientNorms([pair, single, unused])
    assert math.isnan(norms.ratio)
    (pair @ torch.tensor([3.0, 0.0]) + 4 * single).sum().backward()
    norms.add()
    (pair @ torch.tensor([0.0, 12.0]) + 5 * single).sum().backward()
    norms.add()
    assert norms.norms == [5.0, 13.0] and norms.ratio == 13.0 / 5.0
