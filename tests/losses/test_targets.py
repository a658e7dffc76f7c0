import torch

from hiervl.losses.targets import COUNTABLE, image_targets

SEM_SEG = torch.tensor([[0, 0, 2], [2, 2, 255]])


def test_classes_by_hand_and_padding_is_ignored():
    target = image_targets(SEM_SEG, None, (3, 4), 255)
    assert target.sem_seg.tolist() == [[0, 0, 2, 255], [2, 2, 255, 255], [255] * 4]
    assert torch.equal(target.valid, target.sem_seg != 255)
    assert target.class_labels.tolist() == [0, 2]
    assert target.class_masks[1].tolist() == [[False, False, True, False], [True, True, False, False], [False] * 4]
    assert target.segments.tolist() == [[0, 0, 1, 2], [1, 1, 2, 2], [2] * 4]
    assert target.segment_labels.tolist() == [0, 2] and torch.equal(target.segment_masks, target.class_masks)
    assert target.presence(4).tolist() == [True, False, True, False]


def test_one_segment_per_instance():
    """Two instances of class 2, and class 0 which has none; the instance under the ignored pixel does not count."""
    instance_ids = torch.tensor([[0, 0, 7], [3, 3, 9]])
    target = image_targets(SEM_SEG, instance_ids, (2, 4), 255)
    assert target.class_labels.tolist() == [0, 2]
    assert target.segment_labels.tolist() == [0, 2, 2]
    pixels = [torch.nonzero(mask).tolist() for mask in target.segment_masks]
    assert pixels == [[[0, 0], [0, 1]], [[1, 0], [1, 1]], [[0, 2]]]


def test_an_image_without_labels():
    target = image_targets(torch.full((2, 2), 255), torch.ones(2, 2), (2, 2), 255)
    assert not target.valid.any() and not target.presence(3).any()
    assert target.class_masks.shape == target.segment_masks.shape == (0, 2, 2)


def test_targets_move_to_a_device_as_a_whole():
    target = image_targets(SEM_SEG, torch.ones(2, 3), (3, 4), 255)
    moved = target.to(torch.device("meta"))
    assert all(part.device.type == "meta" and part.shape == of.shape for part, of in zip(moved, target))
    assert all(torch.equal(a, b) for a, b in zip(target.to(torch.device("cpu")), target))


def test_instances_may_have_any_number():
    """Larger ones than could be counted up to, as COCO's panoptic masks hold them."""
    small = torch.tensor([[0, 0, 7], [3, 3, 9]])
    large = torch.tensor([[0, 0, 2**24], [COUNTABLE, COUNTABLE, 2**20 + 5]])
    expected, found = (image_targets(SEM_SEG, ids, (2, 4), 255) for ids in (small, large))
    assert all(map(torch.equal, found, expected))
