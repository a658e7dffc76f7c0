"""TensorFlow's "same" padding of timm's convolutions, computed once instead of for every input."""

from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F


class FixedSameConv2d(nn.Conv2d):
    """A :class:`Conv2dSame` with the same weights, for inputs whose sides are multiples of its stride.

    For a side x, stride s, kernel k and dilation d the padding is (x/s − 1)·s + (k − 1)·d + 1 − x. If s divides x, this
    is (k − 1)·d + 1 − s and does not depend on x. timm computes it anew from every input. In a graph with free sizes,
    the expressions of all layers then nest, which slows down ``torch.export``.
    """

    def __init__(self, conv: Conv2dSame):
        (height, width), (down, right), (rows, columns) = conv.kernel_size, conv.stride, conv.dilation
        super().__init__(
            conv.in_channels, conv.out_channels, (height, width), (down, right),
            dilation=(rows, columns), groups=conv.groups, bias=False, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        totals = [
            max((kernel - 1) * dilation + 1 - stride, 0)
            for kernel, dilation, stride in zip(conv.kernel_size, conv.dilation, conv.stride)
        ]
        # In the order of F.pad: left, right, top, bottom. An odd pixel is added on the right or at the bottom.
        self.pads = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, self.pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def fix_same_padding(module: nn.Module) -> None:
    """Replace every ``Conv2dSame`` of ``module`` by a :class:`FixedSameConv2d`. The ``state_dict`` does not change."""
    for part in module.modules():
        for name, child in list(part.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(part, name, FixedSameConv2d(child))
