"""Targets sampled from shared maps equal those of every mask sampled on its own."""

import torch

from hiervl.losses.mask_losses import point_sample
from hiervl.losses.target_maps import TargetMaps
from hiervl.losses.targets import image_targets

SIZE = (7, 11)


def targets():
    """Classes alone; instances of one class beside each other; unlabelled pixels; nothing labelled."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, SIZE, generator=generator)
    instances = torch.randint(0, 3, SIZE, generator=generator)
    holes = classes.masked_fill(torch.rand(SIZE, generator=generator) < 0.3, 255)
    return [
        image_targets(classes, None, SIZE, 255),
        image_targets(holes[:5, :9], instances[:5, :9], SIZE, 255),
        image_targets(torch.full(SIZE, 255), None, SIZE, 255),
    ]


def plain(mask, points):
    return point_sample(mask[None, None].float(), points[None])[0, 0]


def test_masks_are_sampled_at_points_of_their_own():
    """Every class, every segment and an empty mask of every image; points reach the border of the image."""
    images = targets()
    rows = [(b, int(c), mask) for b, t in enumerate(images) for c, mask in zip(t.class_labels, t.class_masks)]
    rows += [(3 + b, s, mask) for b, t in enumerate(images) for s, mask in enumerate(t.segment_masks)]
    rows += [(b, 99, torch.zeros(SIZE)) for b in range(3)]  # a class that no image shows
    assert len(rows) > 15
    torch.manual_seed(0)
    points = torch.rand(len(rows), 50, 2)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.6], [0.3, 1.0]])
    which, numbers = (torch.tensor([row[i] for row in rows]) for i in (0, 1))
    truth, labeled = TargetMaps(images).sample(which, numbers, points)
    for (which, _, mask), at, sampled, counts in zip(rows, points, truth, labeled):
        torch.testing.assert_close(sampled, plain(mask, at), atol=1e-5, rtol=0)
        assert torch.equal(counts.bool(), plain(images[which % 3].valid, at) > 0.5)


def test_all_segments_at_shared_points():
    images = targets()
    torch.manual_seed(0)
    points = torch.rand(80, 2)
    most = max(len(target.segment_labels) for target in images)
    truth, labeled = TargetMaps(images).segments_at(points, most)
    assert truth.shape == (3, most, 80) and labeled.shape == (3, 1, 80)
    for target, image_truth, counts in zip(images, truth, labeled):
        for s in range(most):
            mask = target.segment_masks[s] if s < len(target.segment_labels) else torch.zeros(SIZE)
            torch.testing.assert_close(image_truth[s], plain(mask, points), atol=1e-5, rtol=0)
        assert torch.equal(counts[0].bool(), plain(target.valid, points) > 0.5)
