"""The whole network on unusual classes, labels and settings, each of which must train and segment."""

import pytest
import torch

from hiervl.losses import assignment, criterion

CLASSES = 6
ALONE = {"atol": 1e-5, "rtol": 1e-4}


def random_images(count, size=64):
    return 255 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def labeled(count=2, size=64):
    """Images of blocks of 16×16 pixels of random classes, their first rows of pixels without a label."""
    generator = torch.Generator().manual_seed(5)
    items = []
    for image in random_images(count, size):
        blocks = torch.randint(0, CLASSES, (size // 16, size // 16), generator=generator)
        sem_seg = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
        sem_seg[:4] = 255
        items.append({"image": image, "sem_seg": sem_seg})
    return items


def train_once(network, batch):
    losses = network.train()(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    return losses


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.QUERY_DECODER.INSTANCE_QUERIES", 0),
        ("MODEL.QUERY_DECODER.TEXT_QUERIES", False),
        ("MODEL.QUERY_DECODER.MASK_PRIOR", False),
        ("MODEL.QUERY_DECODER.INSTANCE_SEEDS", False),
        ("MODEL.HSQG.RELEVANCE", False),
        ("MODEL.HSQG.GROUND_TRUTH_PRESENCE", False),
        ("MODEL.CMSAM.TEXT_READS_PIXELS", False),
        ("MODEL.CMSAM.PIXELS_READ_TEXT", False),
        ("MODEL.TEXT.PROMPTS", 0, "MODEL.CLIP.VISUAL_PROMPTS", 0),
        ("MODEL.CLIP.TRAINABLE", "none"),
        ("LOSS.ASSIGNMENT", "hungarian"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_variant_trains_and_segments(make_network, overrides):
    network = make_network(*overrides)
    train_once(network, labeled())
    assert all(p.grad.any() for name, p in network.query_decoder.layers.named_parameters() if "k_proj.bias" not in name)
    assert torch.isfinite(network.eval().semantic_maps(random_images(1))).all()


def test_the_order_of_the_classes_does_not_matter(make_network):
    """Named in another order, the rows of the class head moved along, the semantic map is permuted and no more."""
    network = make_network("MODEL.HSQG.ALWAYS_ACTIVE", []).eval()
    images = random_images(2)
    before = network.semantic_maps(images)
    order = [3, 5, 0, 2, 4, 1]
    network.text_encoder.set_classes([[network.class_names[c]] for c in order])
    head = network.query_decoder.class_head
    with torch.no_grad():
        head.weight.copy_(head.weight[[*order, CLASSES]])
        head.bias.copy_(head.bias[[*order, CLASSES]])
    torch.testing.assert_close(network.semantic_maps(images), before[:, order], **ALONE)
    assert (before - before[:, order]).abs().max() > 0.01


@pytest.mark.parametrize("instance_queries", [8, 0])
def test_an_image_without_active_classes(make_network, instance_queries):
    """MIN_ACTIVE 0 allows it: attention to no row at all is finite, and the neighbour's result stays."""
    network = make_network(
        "MODEL.QUERY_DECODER.INSTANCE_QUERIES", instance_queries, "MODEL.HSQG.MIN_ACTIVE", 0,
        "MODEL.HSQG.HARD_NEGATIVES", 0, "MODEL.HSQG.ALWAYS_ACTIVE", [],
    ).eval()  # fmt: skip
    images = random_images(2)
    presence = torch.zeros(2, CLASSES, dtype=torch.bool)
    presence[1, :3] = True

    def scores(which):
        with torch.no_grad():
            text = network.encode_text()
            output = network.segment(network.normalize(list(images[which])), text, presence[which])
            return network.semantic_scores(output, text)

    together = scores([0, 1])
    assert torch.isfinite(together).all()
    torch.testing.assert_close(scores([1]), together[1:], **ALONE)
    torch.testing.assert_close(scores([0]), together[:1], **ALONE)  # here the text has no rows at all
    if not instance_queries:
        assert not together[0].any()
    batch = labeled()
    batch[0]["sem_seg"][:] = 255  # nothing is present
    train_once(network, batch)


@pytest.mark.parametrize("class_names", [["background"], ["cat"]])
def test_a_single_class(make_network, class_names):
    """As of a user who looks for one thing."""
    network = make_network("MODEL.CLASS_NAMES", class_names)
    batch = labeled()
    for item in batch:
        item["sem_seg"][4:] = 0
    train_once(network, batch)
    assert torch.isfinite(network.eval().semantic_maps(random_images(1))).all()


def watch(monkeypatch, module, name):
    """Keep what a function of a module was given and returned."""
    seen, original = [], getattr(module, name)

    def watched(*args, **kwargs):
        result = original(*args, **kwargs)
        seen.append((args, result))
        return result

    monkeypatch.setattr(module, name, watched)
    return seen


def test_instances_are_the_targets_of_instance_queries(make_network, monkeypatch):
    """Two instances of one class: two targets for the instance queries, one whole class for the text queries."""
    seen = watch(monkeypatch, criterion, "assign")
    instance_ids = torch.ones(64, 64, dtype=torch.long)
    instance_ids[:, 40:] = 2
    item = {"image": random_images(1)[0], "sem_seg": torch.full((64, 64), 2), "instance_ids": instance_ids}
    train_once(make_network(), [item])
    (((_, _, query_classes, _, (target,), *_), assignments),) = seen
    assert len(assignments) == 4  # before the first layer, and after each of three
    for found in assignments:
        numbers = [(target.sem_seg, target.segments)[which] for which in found.target_map]  # one image: maps 0 and 1
        areas = torch.stack([(at == number).sum() for at, number in zip(numbers, found.target_number)])
        is_instance = query_classes[found.image, found.query] < 0
        assert sorted(areas[is_instance].tolist()) == [64 * 24, 64 * 40]
        assert areas[~is_instance].tolist() == [64 * 64] * 2  # class 2 on both levels


@pytest.mark.parametrize("mask_prior", [True, False])
def test_matching_is_in_float32_under_autocast(make_network, monkeypatch, mask_prior):
    seen = watch(monkeypatch, assignment, "matching_costs")
    in_autocast, types = [], []
    sample = assignment.point_sample
    monkeypatch.setattr(
        assignment, "point_sample",
        lambda maps, points: in_autocast.append(torch.is_autocast_enabled("cpu"))
        or types.append(maps.dtype)
        or sample(maps, points),
    )  # fmt: skip
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_once(make_network("MODEL.QUERY_DECODER.MASK_PRIOR", mask_prior), labeled())
    assert seen and in_autocast and not any(in_autocast)
    assert {*types, *(cost.dtype for _, cost in seen)} == {torch.float32}


@pytest.mark.parametrize("prompts, anchor", [(4, 0.3), (0, 0.0)])
def test_prompts_are_anchored_only_if_there_are_any(make_network, prompts, anchor):
    """Fixed prompts are where they should be, and a projector would be trained for nothing."""
    regularizer = make_network("MODEL.TEXT.PROMPTS", prompts, "LOSS.PROMPT_ANCHOR", 0.3).prompt_regularizer
    assert regularizer.anchor == anchor and (regularizer.projector is not None) == (anchor > 0)
