import math

import pytest
import torch

from hiervl.losses.pixel_losses import normalized, pixel_cross_entropy, pixel_entropy, resized_at_labels


def test_pixel_cross_entropy_by_hand():
    """Four pixels of two classes with S = (3, 1), (2, 2), (1, 7), (5, 5); the third is ignored."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 5.0], [1.0, 2.0, 7.0, 5.0]]).view(1, 2, 1, 4)
    labels = torch.tensor([0, 1, 255, 1]).view(1, 1, 4)
    expected = (-math.log(3 / 4) - math.log(1 / 2) - math.log(1 / 2)) / 3
    assert pixel_cross_entropy(scores, labels, 255).item() == pytest.approx(expected, abs=1e-5)


def test_pixels_that_are_not_kept_still_count_in_the_average():
    """UniMatch: few confident pixels give a small loss. The keep of an ignored pixel changes nothing."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 5.0], [1.0, 2.0, 7.0, 5.0]]).view(1, 2, 1, 4)
    labels = torch.tensor([0, 1, 255, 1]).view(1, 1, 4)
    keep = torch.tensor([True, False, True, False]).view(1, 1, 4)
    expected = -math.log(3 / 4) / 3
    assert pixel_cross_entropy(scores, labels, 255, keep).item() == pytest.approx(expected, abs=1e-5)


def test_balanced_pixels_by_hand():
    """Three pixels of class 0 and one of class 1 weigh 3^−½ and 1, scaled to a sum of 4: 0.8453 each and 1.4641."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 5.0], [1.0, 2.0, 7.0, 5.0]]).view(1, 2, 1, 4)
    labels = torch.tensor([0, 0, 0, 1]).view(1, 1, 4)
    losses = [-math.log(p) for p in (3 / 4, 1 / 2, 1 / 8, 1 / 2)]
    expected = (0.845299 * sum(losses[:3]) + 1.464102 * losses[3]) / 4
    assert pixel_cross_entropy(scores, labels, 255, balance=0.5).item() == pytest.approx(expected, abs=1e-5)


def test_scores_are_resized_before_they_are_normalized():
    scores = torch.tensor([[[[1.0]], [[3.0]]]])
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert pixel_cross_entropy(scores, labels, 255).item() == pytest.approx(-math.log(1 / 4), abs=1e-4)


@pytest.mark.parametrize("size", [(12, 16), (7, 11)])
def test_scores_are_resized_about_the_centers_of_pixels(resize_by_opencv, size):
    torch.manual_seed(0)
    scores = 0.1 + torch.rand(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, *size))
    resized = resize_by_opencv(scores, size)
    p = resized.gather(1, labels.unsqueeze(1)).squeeze(1) / resized.sum(1)
    assert pixel_cross_entropy(scores, labels, 255).item() == pytest.approx(-p.log().mean().item(), abs=1e-4)


@pytest.mark.parametrize("scores", [torch.zeros(2, 3, 2, 2), 1e-30 * torch.ones(2, 3, 2, 2)])
def test_pixels_that_no_query_predicts_stay_finite(scores):
    scores.requires_grad_()
    loss = pixel_cross_entropy(scores, torch.ones(2, 2, 2, dtype=torch.long), 255)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), abs=1e-4)  # as if uniform
    assert scores.grad.isfinite().all()
    torch.testing.assert_close(normalized(scores.detach()), torch.full_like(scores, 1 / 3))


def test_nothing_labeled_is_zero_with_zero_gradient():
    scores = torch.rand(2, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(scores, torch.full((2, 2, 2), 255), 255)
    loss.backward()
    assert loss.item() == 0 and (scores.grad == 0).all()
    assert pixel_cross_entropy(scores, torch.full((2, 2, 2), 255), 255, balance=0.5).item() == 0


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    scores = (torch.rand(1, 3, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
    labels = torch.tensor([[[0, 1, 2, 255], [2, 1, 0, 0]]])
    assert torch.autograd.gradcheck(lambda s: pixel_cross_entropy(s, labels, 255), scores)


def test_entropy_by_hand():
    """p = (1/2, 1/2), (3/4, 1/4), (1, 0): log 2, 0.5623, 0; scores need no normalising; padding counts nowhere."""
    scores = torch.tensor([[5.0, 0.75, 1.0, 1.0], [5.0, 0.25, 0.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 4)
    valid = torch.tensor([[[True, True, True, False]]])
    expected = (math.log(2) + 0.562335 + 0) / 3
    assert pixel_entropy(scores, valid).item() == pytest.approx(expected, abs=2e-4)
    assert pixel_entropy(scores, torch.zeros_like(valid)).item() == 0
    # Labels of twice the size: the map keeps its own resolution.
    doubled = valid.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert pixel_entropy(scores, doubled).item() == pytest.approx(expected, abs=2e-4)


def test_entropy_of_pixels_whose_labels_are_padded():
    """Labels twice as fine as the map, valid in one corner alone, another in each image."""
    torch.manual_seed(0)
    scores = 0.1 + torch.rand(2, 3, 2, 3, dtype=torch.float64)
    valid = torch.zeros(2, 4, 6, dtype=torch.bool)
    valid[0, :2, 2:], valid[1, 2:, :2] = True, True
    p = scores / scores.sum(1, keepdim=True)
    entropy = -(p * p.log()).sum(1)
    expected = (entropy[0, 0, 1] + entropy[0, 0, 2] + entropy[1, 1, 0]) / 3
    assert pixel_entropy(scores, valid).item() == pytest.approx(expected.item(), abs=2e-4)


def test_gradient_of_the_entropy():
    torch.manual_seed(0)
    scores = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[[True, True], [True, False]]])
    assert torch.autograd.gradcheck(lambda s: pixel_entropy(s, valid), scores)
    step = scores.detach() - 0.01 * torch.autograd.grad(pixel_entropy(scores, valid), scores)[0]
    assert pixel_entropy(step, valid) < pixel_entropy(scores, valid)


@pytest.mark.parametrize("size", [(4, 6), (16, 24), (9, 14), (3, 5)])
def test_only_what_the_labels_ask_for_is_resized(size):
    """As if all classes were resized: up by a whole factor and by another, not at all, and down; gradients too."""
    torch.manual_seed(0)
    scores = torch.rand(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (2, *size))
    resized = torch.nn.functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    expected = resized.gather(1, labels.unsqueeze(1)).squeeze(1)
    found = resized_at_labels(scores, labels)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weight).sum(), scores)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
