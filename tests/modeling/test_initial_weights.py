"""The decoders' weights start as Mask2Former's do."""

import math

import pytest
from torch import nn


def xavier(fan_in, fan_out):
    return math.sqrt(2 / (fan_in + fan_out))


def caffe2(fan_in):
    return math.sqrt(1 / fan_in)


def test_spread_of_the_decoders(make_network):
    """Standard deviations from the formulas; PyTorch's own of a layer with n inputs is 1/sqrt(3n)."""
    network = make_network(
        "MODEL.PIXEL_DECODER.DIM", 64, "MODEL.PIXEL_DECODER.FEEDFORWARD", 512,
        "MODEL.QUERY_DECODER.FEEDFORWARD", 512, trained=False,
    )  # fmt: skip
    pixels = network.pixel_decoder
    for layer in (pixels.layers[0], network.query_decoder.layers[0]):
        for linear in (layer.linear1, layer.linear2):
            assert linear.weight.std().item() == pytest.approx(xavier(64, 512), rel=0.05)
    for convolution in (pixels.lateral[0], pixels.output[0], pixels.mask_projection):
        assert isinstance(convolution, nn.Conv2d)
        fan_in = convolution.weight[0].numel()
        assert convolution.weight.std().item() == pytest.approx(caffe2(fan_in), rel=0.07)
    assert not pixels.mask_projection.bias.any()
