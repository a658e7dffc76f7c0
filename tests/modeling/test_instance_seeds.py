"""Seeds of instance queries on maps made by hand."""

import math

import pytest
import torch

from hiervl.modeling.instance_seeds import InstanceSeeds, start_logit

SURE, LIKELY, AGAINST = 5.0, 0.5, -5.0


def odds_of(label_map, num_classes=3):
    """Log-odds (1, C, h, w) that find the labels (h, w) likely."""
    return torch.where(torch.tensor(label_map) == torch.arange(num_classes)[:, None, None], LIKELY, AGAINST)[None]


def seeds_of(odds, num_seeds, dim=4):
    torch.manual_seed(0)
    size = odds.shape[2:]
    place = torch.stack(torch.meshgrid(*(torch.arange(float(s)) for s in size), indexing="ij"))[None]  # (1, 2, h, w)
    seeds = InstanceSeeds(dim, num_seeds, num_classes=3, background=(0,))
    return seeds, seeds(odds, torch.rand(len(odds), dim, *size), place.repeat(1, dim // 2, 1, 1))


def test_seeds_lie_on_the_peaks_of_single_classes():
    labels = torch.zeros(6, 8).long()
    labels[0:2, 0:3], labels[4:6, 5:8] = 1, 2
    odds = odds_of(labels.tolist())
    odds[0, 1, 1, 1] = odds[0, 2, 5, 6] = SURE
    _, found = seeds_of(odds, num_seeds=2)
    assert {tuple(place[:2]) for place in found.position[0].tolist()} == {(1.0, 1.0), (5.0, 6.0)}
    torch.testing.assert_close(found.class_logits[0].max(-1).values, torch.full((2,), math.log(4.5)), atol=0.05, rtol=0)
    assert found.class_logits[0].argmax(-1).sort().values.tolist() == [1, 2]


@pytest.mark.parametrize("num_classes", [2, 13, 150])
def test_a_query_gives_its_class_three_fifths_at_first(num_classes):
    logits = torch.zeros(num_classes + 1, dtype=torch.float64)
    logits[0] = start_logit(num_classes)
    assert logits.softmax(0)[0].item() == pytest.approx(0.6)


def test_equal_places_are_taken_evenly_whatever_the_rounding():
    odds = odds_of(torch.ones(8, 8).long().tolist())
    odds[0, 1, 7, 7] = SURE
    _, found = seeds_of(odds, num_seeds=5)
    _, other = seeds_of(odds + 1e-6 * torch.arange(64.0).view(8, 8), num_seeds=5)
    places = found.position[0, :, :2].round()
    assert places.equal(other.position[0, :, :2].round())
    assert places[0].tolist() == [7, 7]
    assert torch.pdist(places[1:]).min() > 3  # 4 among 64 places: at best 4 apart


def test_images_of_fewer_places_than_seeds_repeat_them():
    _, found = seeds_of(odds_of([[1, 1], [1, 1]]), num_seeds=8)
    places = sorted(map(tuple, found.position[0, :, :2].round().tolist()))
    assert places == sorted([(0, 0), (0, 1), (1, 0), (1, 1)] * 2)


def test_a_mask_starts_as_what_is_of_the_class_and_near():
    """Two objects of one class, 12 patches apart: the seed of each claims its own alone."""
    labels = torch.zeros(3, 16).long()
    labels[:, 0:3], labels[:, 13:16] = 1, 1
    odds = odds_of(labels.tolist())
    odds[0, 1, 1, 1] = odds[0, 1, 1, 14] = SURE
    _, found = seeds_of(odds, num_seeds=2)
    columns = found.position[0, :, 1]
    left, right = found.mask_prior[0][columns.argsort()] > 0
    assert left.any(0).nonzero().flatten().tolist() == [0, 1, 2]
    assert right.any(0).nonzero().flatten().tolist() == [13, 14, 15]
    # In the seed itself nearness says 3; √(3 · 16 / 2) patches away it says 0, and at most −6 farther out.
    torch.testing.assert_close(found.mask_prior[0].amax((1, 2)), torch.full((2,), 3.0), atol=0.1, rtol=0)
    assert found.mask_prior.min() >= AGAINST - 1.0


def test_the_radius_is_counted_in_patches_and_follows_the_features():
    odds = odds_of(torch.ones(8, 8).long().tolist())
    seeds, _ = seeds_of(odds, num_seeds=4)
    with torch.no_grad():
        seeds.log_radius.bias.fill_(torch.tensor(0.5).log())  # half of √(64 / 4) = 4 patches
    found = seeds(odds, torch.rand(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))
    area = (found.mask_prior[0] > 0).flatten(1).sum(1)
    assert area.max() == 9  # a disc of radius 2 holds 9 patches whose centres are nearer


def test_a_query_takes_the_features_of_its_place(resize_by_opencv):
    """Features are finer than the odds: the place is the centre of the patch, between four of their pixels."""
    odds = odds_of([[0] * 6] * 4)
    odds[0, 1, 2, 4] = SURE
    torch.manual_seed(0)
    seeds = InstanceSeeds(4, 1, num_classes=3, background=(0,))
    pixels, place = torch.randn(1, 4, 8, 12), torch.randn(1, 4, 8, 12)
    found = seeds(odds, pixels, place)
    at_place = pixels[0, :, 4:6, 8:10].mean((1, 2))
    torch.testing.assert_close(found.queries[0, 0], seeds.projection(seeds.norm(at_place)))
    torch.testing.assert_close(found.position[0, 0], place[0, :, 4:6, 8:10].mean((1, 2)))
    coarse = seeds(odds, pixels[..., :3, :4], place[..., :3, :4])  # also where features are coarser
    expected = resize_by_opencv(place[0, :, :3, :4], (4, 6))[:, 2, 4]
    torch.testing.assert_close(coarse.position[0, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_seeds", [4, 40])
def test_more_seeds_than_patches_and_images_do_not_matter_to_each_other(num_seeds):
    odds = torch.randn(2, 3, 4, 5, requires_grad=True)
    pixels, place = torch.rand(2, 4, 8, 10), torch.rand(1, 4, 8, 10)
    seeds = InstanceSeeds(4, num_seeds, num_classes=3, background=(0,))
    both = seeds(odds, pixels, place)
    for got, alone in zip(both, seeds(odds[1:], pixels[1:], place)):
        assert got.shape[:2] == (2, num_seeds)
        torch.testing.assert_close(got[1:], alone)
    sum(part.sum() for part in both).backward()
    assert torch.isfinite(odds.grad).all() and all(torch.isfinite(p.grad).all() for p in seeds.parameters())


def test_a_network_with_seeds_gives_its_instance_queries_places(make_network):
    """The rows claim different pixels from the start; without seeds, they are learnable rows alone."""
    images = 255 * torch.rand(1, 3, 64, 64)
    with_seeds = make_network().eval()
    without = make_network("MODEL.QUERY_DECODER.INSTANCE_SEEDS", False).eval()
    assert without.query_decoder.instance_seeds is None
    assert make_network("MODEL.QUERY_DECODER.MASK_PRIOR", False).query_decoder.instance_seeds is None
    with torch.no_grad():
        text = with_seeds.encode_text()
        first = with_seeds.segment(with_seeds.normalize(list(images)), text, every_layer=True).predictions
        is_instance = first.query_classes[0] < 0
        masks = first.pred_masks[0][0, is_instance]
    assert (masks.flatten(1).std(0) > 0.5).float().mean() > 0.5
