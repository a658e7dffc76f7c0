import pytest
import torch

from hiervl.losses.mask_losses import (
    PointDraw,
    _smallest,
    draw_points,
    point_sample,
    sampled_mask_losses,
    uncertain_points,
)


def test_mask_losses_equal_mask2former():
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(5, 40), torch.rand(5, 40)
    cross_entropy, dice = sampled_mask_losses(logits, targets, torch.ones(5, 40))
    torch.testing.assert_close(cross_entropy.sum() / 5, mask2former.sigmoid_cross_entropy_loss(logits, targets, 5))
    torch.testing.assert_close(dice.sum() / 5, mask2former.dice_loss(logits, targets, 5))


def test_points_without_label_do_not_count():
    """As if they were not there, whatever is predicted at them; a mask without any labelled point costs nothing."""
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 10), torch.rand(3, 10)
    counts = torch.ones(3, 10)
    counts[:, 6:] = 0
    counts[2] = 0
    found = torch.stack(sampled_mask_losses(logits, targets, counts))
    expected = torch.stack(sampled_mask_losses(logits[:, :6], targets[:, :6], counts[:, :6]))
    torch.testing.assert_close(found, expected)
    assert (found[:, 2] == 0).all()


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets, counts = torch.rand(3, 5, dtype=torch.float64), torch.tensor([1.0, 1, 1, 0, 1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sampled_mask_losses(x, targets, counts.expand(3, -1)), logits)


def test_point_sample_at_the_centers_of_pixels_reads_them():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[[1 / 6, 0.25], [0.5, 0.25], [5 / 6, 0.75], [1 / 3, 0.5]]])  # (x, y)
    torch.testing.assert_close(point_sample(maps, points), torch.tensor([[[0.0, 1.0, 5.0, 2.0]]]))


def test_uncertain_points_lie_where_the_prediction_changes_sign():
    """Left half sure of inside, right half sure of outside: the important points gather at the edge."""
    torch.manual_seed(0)
    logits = torch.cat((torch.full((1, 8, 16), 9.0), torch.full((1, 8, 16), -9.0)), dim=2)
    draw = draw_points(1, num_points=400, oversample_ratio=30.0, importance_share=0.75, device=logits.device)
    points = uncertain_points(logits, draw)
    assert points.shape == (1, 400, 2) and points.min() >= 0 and points.max() <= 1
    near = (points[0, :, 0] - 0.5).abs() < 1 / 32
    assert near[:300].float().mean() > 0.6  # beyond the border of the image grid_sample finds 0, which looks unsure
    assert near[300:].float().mean() < 0.2  # uniform: 1/16 of them


def test_the_least_sure_places_of_every_mask_are_taken(resize_by_opencv):
    """Those where the bilinear logit is nearest to 0, by OpenCV: here the candidates are the pixels of a finer grid."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 4)
    finer = resize_by_opencv(logits, (12, 12))
    steps = (torch.arange(12) + 0.5) / 12
    y, x = (side.flatten() for side in torch.meshgrid(steps, steps, indexing="ij"))
    inside = ((y > 1 / 8) & (y < 7 / 8) & (x > 1 / 8) & (x < 7 / 8)).nonzero().flatten()  # no padding comes in
    candidates = torch.stack((x, y), -1)[inside].expand(2, -1, 2).contiguous()
    draw = PointDraw(2 * candidates - 1, torch.zeros(2, 0, 2), num_important=9)
    points = uncertain_points(logits, draw)
    for found, values, places in zip(points, finer.flatten(1)[:, inside], candidates):
        expected = places[values.abs().argsort()[:9]]
        assert {tuple(p) for p in found.mul(24).round().tolist()} == {tuple(p) for p in expected.mul(24).tolist()}


@pytest.mark.parametrize("kind", ["distinct", "many equal", "some NaN", "no row"])
def test_the_smallest_values_of_every_row(kind):
    torch.manual_seed(0)
    values = torch.rand(0 if kind == "no row" else 5, 40)
    if kind == "many equal":
        values = (4 * values).floor()
    if kind == "some NaN":
        values[1, 3:38], values[2, 0] = float("nan"), float("nan")
    for count in (1, 7, 40):
        places = _smallest(values, count)
        assert places.shape == (len(values), count)
        assert all(len(set(row)) == count for row in places.tolist())
        expected = values.sort(dim=1).values[:, :count]
        torch.testing.assert_close(values.gather(1, places).sort(dim=1).values, expected, equal_nan=True)


def test_the_smallest_values_stay_in_their_row_if_others_have_more():
    """A row of NaN has none, another one has two that are equal: together as many as are asked for."""
    nan = float("nan")
    places = _smallest(torch.tensor([[nan, nan, nan], [0.5, 0.5, 1.0]]), 1)
    assert places.shape == (2, 1) and 0 <= places[0, 0] < 3 and places[1, 0] in (0, 1)
    places = _smallest(torch.tensor([[0.5, 0.5, 1.0], [nan, nan, nan]]), 1)
    assert places[0, 0] in (0, 1) and 0 <= places[1, 0] < 3


def test_one_labeled_point_is_the_mean_of_itself():
    cross_entropy, dice = sampled_mask_losses(torch.tensor([[0.3, 5.0]]), torch.ones(1, 2), torch.tensor([[1.0, 0.0]]))
    p = torch.tensor(0.3).sigmoid()
    torch.testing.assert_close(cross_entropy[0], -p.log())
    torch.testing.assert_close(dice[0], 1 - (2 * p + 1) / (p + 2))
