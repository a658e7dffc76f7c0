"""The starts of the text queries' masks: by hand, and in a small network."""

import pytest
import torch
from torch.nn import functional as F

from hiervl.losses.mask_losses import point_sample
from hiervl.modeling.instance_seeds import InstanceSeeds
from hiervl.modeling.mask_prior import PixelPrior, TextMaskPrior, log_odds
from hiervl.structures import TextFeatures
from tests.inputs import IGNORE, labeled, random_images


def text_of(rows):
    rows = torch.nn.functional.normalize(torch.tensor(rows), dim=-1)
    return TextFeatures(rows, rows, rows, torch.arange(len(rows)))


def test_prior_is_the_log_odds():
    """Two classes: p = σ(scale·(s_1 − s_2)), whose log-odds are scale·(s_1 − s_2); gain on top; at most ±6."""
    prior = TextMaskPrior(5.0, 2)
    dense = torch.tensor([[0.6, 0.8], [1.0, 0.0]]).T.view(1, 2, 1, 2)
    text = text_of([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[-1.0, 5.0], [1.0, -5.0]]).view(1, 2, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(prior(text, dense), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(TextMaskPrior(100.0, 2)(text, dense)[0, :, 0, 1], torch.tensor([6.0, -6.0]))
        prior.gain.fill_(0.5)
        torch.testing.assert_close(prior(text, dense), 0.5 * expected, atol=1e-4, rtol=0)
    # Three classes: p = 1/3 each where nothing is more similar, log-odds log(1/2).
    even = TextMaskPrior(5.0, 3)(text_of([[1.0, 1.0]] * 3), dense)
    torch.testing.assert_close(even, torch.full_like(even, 0.5).log(), atol=1e-4, rtol=0)


def test_unknown_classes_have_no_prior_and_no_seeds():
    prior = TextMaskPrior(5.0, 2)
    dense = torch.tensor([[0.6, 0.8], [1.0, 0.0]]).T.view(1, 2, 1, 2)
    text = text_of([[1.0, 0.0], [0.0, 1.0]])
    with torch.no_grad():
        before = prior(text, dense)
        prior.set_known([True, False])
        after = prior(text, dense)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert before[:, 1].all() and not after[:, 1].any()
    seeds = InstanceSeeds(4, num_seeds=2, num_classes=2)
    logits = seeds(after, torch.rand(1, 4, 1, 2), torch.rand(1, 4, 1, 2), prior.known).class_logits
    assert (logits[..., 0] > 0.9 * seeds.class_logit).all()


def test_classes_unknown_to_clip_are_saved_with_the_network(make_network):
    network, other = make_network(), make_network()
    network.mask_prior.known[2] = False
    other.load_state_dict(network.state_dict())
    assert other.mask_prior.known.tolist() == [True, True, False, True, True, True]
    network.set_classes(["red bus", "wild dog"], [["red bus"], ["wild dog"]])
    assert network.mask_prior.known.tolist() == [False, True]
    of_older_version = {key: value for key, value in make_network().state_dict().items() if "known" not in key}
    other.load_state_dict(of_older_version)
    assert other.mask_prior.known.all()


def test_certain_prior_has_finite_gradients():
    prior = TextMaskPrior(1000.0, 2)
    dense = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    prior(text_of([[1.0, 0.0], [-1.0, 0.0]]), dense).square().sum().backward()
    gradients = [dense.grad, *(p.grad for p in prior.parameters())]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_prior_is_read_by_the_text_queries_of_the_network(make_network):
    """The first masks with and without it differ by the resized log-odds of the row's class, and on no other row."""
    network = make_network("MODEL.QUERY_DECODER.INSTANCE_SEEDS", False).eval()
    images = random_images(1)
    with torch.no_grad():
        text = network.encode_text()
        batch = network.normalize(list(images))
        with_prior = network.segment(batch, text, every_layer=True)
        odds = network.mask_prior(text, with_prior.features["dense_embedding"])
        network.mask_prior = None
        without = network.segment(batch, text, every_layer=True)
    difference = (with_prior.predictions.pred_masks[0] - without.predictions.pred_masks[0])[0]
    classes = with_prior.predictions.query_classes[0]
    assert (classes < 0).sum() == 8 and not difference[classes < 0].any()
    points = 0.2 + 0.6 * torch.rand(1, 50, 2)
    size = difference.shape[1:]
    resized = torch.nn.functional.interpolate(odds, size=size, mode="bilinear", align_corners=False)
    wanted = point_sample(resized, points)[0]
    found = point_sample(difference.unsqueeze(0), points)[0]
    for row in torch.nonzero(classes >= 0).flatten():
        torch.testing.assert_close(found[row], wanted[classes[row]], atol=1e-4, rtol=0)
    assert make_network("MODEL.QUERY_DECODER.MASK_PRIOR", False, trained=False).mask_prior is None


def test_pixel_prior_by_hand():
    """The projected features are compared with the texts: log softmax of scale·cosine, at the features' size."""
    prior = PixelPrior(4, 2, 5.0)
    with torch.no_grad():
        prior.project = torch.nn.Conv2d(4, 2, 1)
        prior.project.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0]])[:, :, None, None])
        prior.project.bias.zero_()
        features = torch.tensor([[0.6, 0.8, 9.0, 9.0], [0.2, 0.0, -9.0, 1.0]]).T.view(1, 4, 1, 2)
        found = prior(text_of([[1.0, 0.0], [0.0, 1.0]]), features)
    odds = torch.tensor([-1.0, 5.0])  # 5·(0.6 − 0.8), 5·(1 − 0), whatever the length
    torch.testing.assert_close(found[0, :, 0], torch.stack((odds, -odds)).sigmoid().log())
    torch.testing.assert_close(log_odds(found)[0, 0, 0], odds, atol=1e-4, rtol=0)


def test_pixel_prior_is_added_to_clips(make_network):
    """The first masks start from both, and the pixel prior learns by a loss with the pixel loss's weight."""
    settings = ("MODEL.QUERY_DECODER.INSTANCE_SEEDS", False, "MODEL.QUERY_DECODER.PIXEL_PRIOR", True, "LOSS.PIXEL", 3.0)
    network = make_network(*settings)
    (item,) = labeled(1)
    losses, scale = network.supervised_losses([item], network.encode_text()), network.loss_scale
    network.eval()
    with torch.no_grad():
        text = network.encode_text()
        batch = network.normalize([item["image"]])
        both = network.segment(batch, text, every_layer=True)
        network.pixel_prior = None
        one = network.segment(batch, text, every_layer=True)
    assert one.pixel_prior is None and scale == network.loss_scale + 3.0
    probability = F.interpolate(both.pixel_prior.exp(), size=(64, 64), mode="bilinear")
    by_hand = F.nll_loss(probability.log(), item["sem_seg"].unsqueeze(0), ignore_index=IGNORE)
    assert losses["loss_pixel_prior"].item() == pytest.approx(3.0 * by_hand.item(), rel=1e-3)

    difference = (both.predictions.pred_masks[0] - one.predictions.pred_masks[0])[0]
    odds = log_odds(both.pixel_prior)[0]
    for row, c in enumerate(both.predictions.query_classes[0].tolist()):
        expected = odds[c] if c >= 0 else torch.zeros_like(odds[0])
        torch.testing.assert_close(difference[row], expected, atol=1e-4, rtol=0)
