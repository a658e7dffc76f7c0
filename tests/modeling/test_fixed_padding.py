import copy

import timm
import torch
from timm.layers import Conv2dSame

from hiervl.modeling.fixed_padding import FixedSameConv2d, fix_same_padding


@torch.no_grad()
def test_padding_in_numbers_is_that_which_timm_computes():
    """Kernels of 3 and 5, strides of 1 and 2, dilations, at sides that are multiples of the stride."""
    torch.manual_seed(0)
    for kernel, stride, dilation in (
        (3, 2, 1),
        (5, 2, 1),
        (3, 1, 1),
        (2, 1, 1),
        (3, 2, 2),
        (1, 2, 1),
        ((3, 5), (1, 2), 1),
    ):
        conv = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation, groups=2)
        fixed = FixedSameConv2d(conv)
        for size in ((8, 12), (2, 6)):
            images = torch.randn(1, 4, *size)
            torch.testing.assert_close(fixed(images), conv(images), atol=0, rtol=0)
        assert fixed.weight is conv.weight and fixed.bias is conv.bias


@torch.no_grad()
def test_a_trunk_keeps_its_names_and_its_features():
    trunk = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    fixed = copy.deepcopy(trunk)
    fix_same_padding(fixed)
    assert not any(isinstance(part, Conv2dSame) for part in fixed.modules())
    assert list(fixed.state_dict()) == list(trunk.state_dict())
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(fixed.forward_features(images), trunk.forward_features(images), atol=0, rtol=0)
