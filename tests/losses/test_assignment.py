import itertools

import pytest
import torch

from hiervl.losses import assignment
from hiervl.losses.assignment import assign, match, matching_costs
from hiervl.losses.mask_losses import point_sample
from hiervl.losses.target_maps import TargetMaps
from hiervl.losses.targets import image_targets

CLASSES = 4
WEIGHTS = (2.0, 5.0, 3.0)


def random_image(seed, size=(12, 16)):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, CLASSES, (size[0] // 4, size[1] // 4), generator=generator)
    return blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)


def cost_of(logits, masks, target, points):
    """Of one image, its target masks sampled one by one."""
    counts = (point_sample(target.valid[None, None].float(), points[None])[0] > 0.5).float()
    truth = point_sample(target.segment_masks[None].float(), points[None])[0] * counts
    return matching_costs(
        logits[None], masks[None], target.segment_labels[None], truth[None], counts[None], points, WEIGHTS
    )[0]


def assign_one(logits, masks, query_classes, valid, targets, fixed):
    maps = TargetMaps(targets)
    return maps, assign(
        [logits], [masks], query_classes, valid, targets, maps, fixed=fixed, points=torch.rand(100, 2), weights=WEIGHTS
    )[0]


def mask_of(maps, target_map, number):
    """The target mask itself, read at the centres of its pixels."""
    y, x = torch.meshgrid(torch.arange(maps.height), torch.arange(maps.width), indexing="ij")
    centers = torch.stack(((x + 0.5) / maps.width, (y + 0.5) / maps.height), -1).view(1, -1, 2)
    truth, _ = maps.sample(target_map.view(1), number.view(1), centers)
    return truth.view(maps.height, maps.width) > 0.5


def test_matching_equals_mask2former(monkeypatch):
    """The same assignment, and the same cost, on the same points."""
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    costs = []
    solve = mask2former.linear_sum_assignment
    monkeypatch.setattr(mask2former, "linear_sum_assignment", lambda cost: costs.append(cost) or solve(cost))
    for seed in range(5):
        torch.manual_seed(seed)
        points = 0.1 + 0.8 * torch.rand(200, 2)
        logits, masks = 2 * torch.randn(7, CLASSES + 1), 4 * torch.randn(7, 6, 8)
        target = image_targets(random_image(seed), None, (12, 16), 255)
        theirs = mask2former.Mask2FormerHungarianMatcher(*WEIGHTS, num_points=200)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *size, points=points, **options: points.view(size))
            expected = theirs(masks[None], logits[None], [target.segment_masks], [target.segment_labels])[0]
        cost = cost_of(logits, masks, target, points)
        torch.testing.assert_close(cost, costs[-1], atol=1e-5, rtol=1e-5)
        assert [part.tolist() for part in match(cost.numpy())] == [part.tolist() for part in expected]


def test_unlabeled_pixels_do_not_matter_to_the_cost():
    """Whatever is predicted at them; and their points do not thin out the average."""
    torch.manual_seed(0)
    sem_seg = random_image(0)
    sem_seg[:, 8:] = 255
    target = image_targets(sem_seg, None, (12, 16), 255)
    logits, masks = torch.randn(5, CLASSES + 1), torch.randn(5, 12, 16)
    changed = masks.clone()
    changed[:, :, 9:] = 50.0
    points = torch.rand(300, 2)
    points = points[(points[:, 0] < 7.5 / 16) | (points[:, 0] > 9.5 / 16)]  # away from the edge
    left = points[points[:, 0] < 0.5]

    torch.testing.assert_close(cost_of(logits, masks, target, points), cost_of(logits, changed, target, points))
    torch.testing.assert_close(
        cost_of(logits, masks, target, points), cost_of(logits, masks, target, left), atol=1e-5, rtol=1e-5
    )


def test_targets_are_empty_at_points_that_do_not_count(monkeypatch):
    """Also at the edge, where the bilinear value of a target reaches into the unlabelled pixels."""
    seen = []
    monkeypatch.setattr(assignment, "matching_costs", lambda *args: seen.append(args) or matching_costs(*args))
    torch.manual_seed(0)
    sem_seg = random_image(0)
    sem_seg[:, 8:] = 255
    targets = [image_targets(sem_seg, None, (12, 16), 255)]
    logits, masks = torch.randn(1, 5, CLASSES + 1), torch.randn(1, 5, 12, 16)
    assign_one(logits, masks, torch.full((1, 5), -1), torch.ones(1, 5, dtype=torch.bool), targets, fixed=True)
    truth, counts = seen[0][3:5]
    assert 0 < counts.sum() < counts.numel() and truth.shape[2] == counts.shape[2] == 100
    assert truth.sum() > 0 and not (truth * (1 - counts)).any()


def test_match_is_the_cheapest_and_survives_non_finite_costs():
    torch.manual_seed(0)
    cost = torch.rand(5, 3)
    queries, targets = match(cost.numpy())
    cheapest = min(sum(cost[r, t].item() for t, r in enumerate(p)) for p in itertools.permutations(range(5), 3))
    assert cost[queries, targets].sum().item() == pytest.approx(cheapest)
    cost[1], cost[:, 2] = float("nan"), float("inf")
    queries, targets = match(cost.numpy())
    assert 1 not in queries.tolist() and sorted(targets.tolist()) == [0, 1, 2]


def make_prediction(query_classes):
    torch.manual_seed(0)
    queries = len(query_classes[0])
    return torch.randn(2, queries, CLASSES + 1), torch.randn(2, queries, 6, 8), torch.tensor(query_classes)


def test_fixed_assignment_by_hand():
    """Text queries meet their class on every level, no mask where it is absent; the rest is matched; padding not."""
    logits, masks, query_classes = make_prediction([[0, 3, 0, 3, -1, -1, -1], [2, 1, 2, 1, -1, -1, -1]])
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, [1, 3]] = False  # image 1 has class 2 alone as a text query
    first = torch.zeros(12, 16, dtype=torch.long)
    first[:, 8:] = 1
    second = torch.full((12, 16), 2)
    targets = [image_targets(sem_seg, None, (12, 16), 255) for sem_seg in (first, second)]
    # Instance query 5 of image 0 fits class 1, row 6 class 0; row 4 of image 1 fits class 2.
    with torch.no_grad():
        masks[0, 5], masks[0, 6], masks[1, 4] = -9.0, 9.0, 9.0
        masks[0, 5, :, 4:], masks[0, 6, :, 4:] = 9.0, -9.0
        logits[0, 5, 1] = logits[0, 6, 0] = logits[1, 4, 2] = 9.0
    maps, found = assign_one(logits, masks, query_classes, valid, targets, fixed=True)
    none = CLASSES
    assert found.target_classes.tolist() == [[0, none, 0, none, none, 1, 0], [2, none, 2, none, 2, none, none]]
    query_target = {
        (image, query): mask_of(maps, target_map, number)
        for image, query, target_map, number in zip(
            found.image.tolist(), found.query.tolist(), found.target_map, found.target_number
        )
    }
    # Rows 1 and 3 of image 0 belong to class 3, which is absent.
    assert set(query_target) == {(0, r) for r in (0, 2, 5, 6)} | {(1, r) for r in (0, 2, 4)}
    for query in (0, 2, 6):
        assert torch.equal(query_target[0, query], first == 0)
    assert torch.equal(query_target[0, 5], first == 1)
    assert all(query_target[1, query].all() for query in (0, 2, 4))


def test_hungarian_assignment_gives_every_segment_one_query_of_any_kind():
    logits, masks, query_classes = make_prediction([[0, 3, -1, -1], [2, 1, -1, -1]])
    valid = torch.tensor([[True, False, True, True], [True, True, True, True]])
    targets = [image_targets(random_image(seed), None, (12, 16), 255) for seed in (0, 1)]
    with torch.no_grad():  # the padded row would fit best
        masks[0, 1] = torch.where(targets[0].segment_masks[0][::2, ::2], 9.0, -9.0)
        logits[0, 1, targets[0].segment_labels[0]] = 9.0
    maps, found = assign_one(logits, masks, query_classes, valid, targets, fixed=False)
    for image, target in enumerate(targets):
        here = found.image == image
        queries = found.query[here].tolist()
        assert len(set(queries)) == len(queries) == min(int(valid[image].sum()), len(target.segment_labels))
        for query, target_map, number in zip(queries, found.target_map[here], found.target_number[here]):
            assert valid[image, query]
            which = found.target_classes[image, query]
            assert torch.equal(mask_of(maps, target_map, number), target.sem_seg == which)


def test_all_layers_at_once_equal_each_alone():
    """Also where images have different numbers of segments and rows, and one has no label at all."""
    torch.manual_seed(0)
    sem_segs = [random_image(0), torch.full((12, 16), 255), torch.zeros(12, 16, dtype=torch.long)]
    targets = [image_targets(sem_seg, None, (12, 16), 255) for sem_seg in sem_segs]
    query_classes = torch.tensor([[0, 1, -1, -1, -1, -1]] * 3)
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1], valid[2, 1] = False, False
    logits = [torch.randn(3, 6, CLASSES + 1) for _ in range(3)]
    masks = [3 * torch.randn(3, 6, 6, 8) for _ in range(3)]
    points, maps = torch.rand(100, 2), TargetMaps(targets)

    def run(logits, masks):
        return assign(logits, masks, query_classes, valid, targets, maps, fixed=True, points=points, weights=WEIGHTS)

    together = run(logits, masks)
    assert not torch.equal(together[0].target_classes, together[1].target_classes)
    for layer, found in enumerate(together):
        alone = run(logits[layer : layer + 1], masks[layer : layer + 1])[0]
        assert all(torch.equal(a, b) for a, b in zip(found, alone))
        # By the costs of every image alone, too.
        for image in (0, 2):
            target = targets[image]
            queries, segments = match(
                cost_of(logits[layer][image, 2:], masks[layer][image, 2:], target, points).numpy()
            )
            expected = torch.full((4,), CLASSES)
            expected[queries] = target.segment_labels[segments]
            assert torch.equal(found.target_classes[image, 2:], expected)
