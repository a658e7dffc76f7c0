import pytest
import torch

from hiervl.modeling.deformable_attention import DeformableAttention, deformable_attention, reference_points

SHAPES = [(3, 5), (6, 9), (11, 17)]
PIXELS = sum(h * w for h, w in SHAPES)


def test_equals_mask2former():
    """Outputs, and gradients to the queries, the maps and all weights, on maps that are not square."""
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    torch.manual_seed(0)
    ours = DeformableAttention(dim=32, num_maps=3, num_heads=4, num_points=4)
    theirs = mask2former.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(32, 4, 3, 4)
    for parameter in ours.parameters():  # offsets of some pixels, so that some samples fall outside the maps
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    points = reference_points(SHAPES, torch.device("cpu"))
    weight_of_output = torch.randn(2, PIXELS, 32)

    def run(module, call):
        torch.manual_seed(1)
        query = torch.randn(2, PIXELS, 32, requires_grad=True)
        maps = torch.randn(2, PIXELS, 32, requires_grad=True)
        out = call(query, maps)
        return out, torch.autograd.grad((out * weight_of_output).mean(), [query, maps, *module.parameters()])

    out, gradients = run(ours, lambda query, maps: ours(query, points, maps, SHAPES))
    expected, expected_gradients = run(
        theirs,
        lambda query, maps: theirs(
            query,
            encoder_hidden_states=maps,
            reference_points=points[:, :, None].expand(2, -1, 3, -1),
            spatial_shapes_list=SHAPES,
        )[0],
    )
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    for gradient, wanted in zip(gradients, expected_gradients):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_samples_by_hand():
    """One head, one map of 1×2 pixels with the values 1 and 3."""
    value = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    # the centre of each pixel, the point between them, and one far outside
    locations = torch.tensor([[0.25, 0.5], [0.75, 0.5], [0.5, 0.5], [5.0, 0.5]]).view(1, 1, 1, 1, 4, 2)
    for weights, expected in (([1, 0, 0, 0], 1.0), ([0, 1, 0, 0], 3.0), ([0, 0, 1, 0], 2.0), ([0, 0.5, 0, 0.5], 1.5)):
        weights = torch.tensor(weights, dtype=torch.float32).view(1, 1, 1, 1, 4)
        assert deformable_attention(value, [(1, 2)], locations, weights).item() == pytest.approx(expected)


def test_reference_points_are_the_centers_of_the_pixels():
    points = reference_points([(1, 2), (2, 1)], torch.device("cpu"))
    assert points.tolist() == [[[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]]


def test_heads_start_in_directions_of_their_own():
    """Deformable DETR's start: the k-th point lies k pixels away, heads going round the circle."""
    attention = DeformableAttention(dim=16, num_maps=2, num_heads=4, num_points=3)
    offsets = attention.sampling_offsets.bias.view(4, 2, 3, 2)  # heads, maps, points, (x, y)
    for head, direction in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
        for k in range(3):
            expected = torch.tensor(direction) * (k + 1.0)
            torch.testing.assert_close(offsets[head, :, k], expected.expand(2, 2), atol=1e-6, rtol=0)
