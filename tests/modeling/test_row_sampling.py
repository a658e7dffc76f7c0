"""The sums of rows against PyTorch's own bilinear sampling."""

import pytest
import torch

from hiervl.modeling.deformable_attention import sampled_maps
from hiervl.modeling.row_sampling import sum_rows

SHAPES = [(3, 5), (1, 4), (6, 2)]
PIXELS = sum(h * w for h, w in SHAPES)


def inputs(batch=2, queries=7, heads=3, head_dim=4, points=2):
    """Locations inside the maps, in their rims, where a sample has neighbours outside, and far from them."""
    torch.manual_seed(0)
    value = torch.randn(batch, PIXELS, heads, head_dim, dtype=torch.float64)
    locations = 1.6 * torch.rand(batch, queries, heads, len(SHAPES), points, 2, dtype=torch.float64) - 0.3
    locations[0, 0, 0, 0] = torch.tensor([[7.0, 0.5], [-9.0, 4.0]])
    weights = torch.randn(batch, queries, heads, len(SHAPES), points, dtype=torch.float64)
    return [x.requires_grad_() for x in (value, locations, weights)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_sampled_maps(dtype, tolerance):
    """Output and all gradients."""
    value, locations, weights = inputs()
    typed = [x.detach().to(dtype).requires_grad_() for x in (value, locations, weights)]
    out = sum_rows(typed[0], SHAPES, *typed[1:])
    expected = sampled_maps(value, SHAPES, locations, weights)
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    grad = torch.randn_like(expected)
    found = torch.autograd.grad(out, typed, grad.to(dtype))
    for found_grad, expected_grad in zip(found, torch.autograd.grad(expected, [value, locations, weights], grad)):
        assert expected_grad.abs().max() > 0.1
        torch.testing.assert_close(found_grad.double(), expected_grad, atol=10 * tolerance, rtol=10 * tolerance)


def test_gradients_equal_finite_differences():
    value, locations, weights = inputs(batch=1, queries=3)
    assert torch.autograd.gradcheck(lambda v, at, w: sum_rows(v, SHAPES, at, w), (value, locations, weights))


def test_views_and_locations_that_are_no_numbers():
    """Inputs need not be contiguous, and a diverged network reads no memory that is not its own."""
    value, locations, weights = inputs()
    strided = value.detach().transpose(1, 2).contiguous().transpose(1, 2)
    expected = sum_rows(value, SHAPES, locations, weights)
    torch.testing.assert_close(sum_rows(strided, SHAPES, locations, weights), expected)
    broken = locations.detach().clone()
    broken[0, 1, 0, 0, 0, 0] = float("nan")
    out = sum_rows(value, SHAPES, broken, weights)
    assert out[0, 1].isnan().any() and out[1].isfinite().all()
