"""TensorFlow's "same" padding of timm's convolutions, as numbers."""

from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F


class FixedSameConv2d(nn.Conv2d):
    """A :class:`Conv2dSame` for inputs whose sides are multiples of its stride, with the same weights.

    Its padding for such a side, (x/s − 1)·s + (k − 1)·d + 1 − x, is (k − 1)·d + 1 − s whatever x is. timm computes it
    anew from every input, and in a graph with free sizes the terms of all layers nest. EfficientNet-Lite0 as a graph of
    ``torch.export`` takes 10 s of one core with these numbers, and over 14 s without them.
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
        # As F.pad has them: left, right, top, bottom; the odd pixel comes after the image.
        self.pads = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, self.pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def fix_same_padding(module: nn.Module) -> None:
    """Put a :class:`FixedSameConv2d` in the place of every ``Conv2dSame`` of ``module``; its ``state_dict`` stays."""
    for part in module.modules():
        for name, child in list(part.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(part, name, FixedSameConv2d(child))
