"""On CPUs the kernels' mathematics by Triton's interpreter (conftest.py), on CUDA devices the kernels themselves."""

import pytest
import torch

from hiervl.modeling.deformable_attention import sampled_maps
from hiervl.modeling.triton_attention import fused_sampling, try_kernels
from hiervl.utils.recompute import maybe_recomputed

pytest.importorskip("triton")
SHAPES = [(3, 5), (1, 4), (6, 2)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 5e-2)])
def test_equals_sampled_maps(dtype, tolerance):
    """Output and all gradients, against float64: samples inside, in the rims and outside; a width of 12 channels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    value = torch.randn(2, sum(h * w for h, w in SHAPES), 2, 12, dtype=torch.float64, device=device)
    locations = 1.6 * torch.rand(2, 35, 2, len(SHAPES), 2, 2, dtype=torch.float64, device=device) - 0.3
    weights = torch.randn(2, 35, 2, len(SHAPES), 2, dtype=torch.float64, device=device)
    value = value.to(dtype).double()  # half precision rounds the inputs, which is not what is tested
    precise = torch.promote_types(dtype, torch.float32)
    exact = [x.requires_grad_() for x in (value, locations, weights)]
    typed = [x.detach().to(dtype if x is value else precise).requires_grad_() for x in (value, locations, weights)]
    expected = sampled_maps(exact[0], SHAPES, *exact[1:])
    out = fused_sampling(typed[0], SHAPES, *typed[1:])
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    grad = torch.randn_like(expected).to(dtype).double()
    gradients = torch.autograd.grad(out, typed, grad.to(dtype))
    for found, wanted in zip(gradients, torch.autograd.grad(expected, exact, grad)):
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(found.double(), wanted, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_can_be_tried_inside_a_recomputed_layer(dtype):
    """The first layer that asks whether the kernels work may be one whose insides the backward pass computes again."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = []

    def layer(x):
        if not asked:
            asked.append(True)
            try_kernels(device, dtype)
        return x.exp().square()

    x = torch.ones(3, device=device, requires_grad=True)
    maybe_recomputed(True, layer, x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * torch.full_like(x, 2).exp())
