import math

import pytest
import torch
from torch.nn import functional as F

from hiervl.modeling.semantic_queries import HierarchicalSemanticQueryGenerator
from hiervl.structures import TextFeatures

CLASSES = 6


def axis_text(num_classes=CLASSES) -> TextFeatures:
    """Classes along the axes: an image's similarity to class c is its c-th coordinate."""
    axes = torch.eye(num_classes)
    return TextFeatures(axes, axes, axes, torch.arange(num_classes))


def images_with_relevance(generator, relevance) -> torch.Tensor:
    """ "Pooled embeddings" (B, C) that a gate with α = 20, β = 4 gives this relevance; not of length 1."""
    logit = torch.tensor(relevance).logit()
    return logit / generator.log_gate_scale.exp().detach() - generator.gate_offset.detach()


def make_generator(**options):
    torch.manual_seed(0)
    options = {"hard_negatives": 2, "threshold": 0.2, "min_active": 2, "always_active": (), "levels": 3, **options}
    return HierarchicalSemanticQueryGenerator(CLASSES, 8, **options)


def active_classes(queries, image, levels=3):
    """Classes of an image's valid rows, on every level the same."""
    level_classes = queries.classes[image].view(levels, -1)
    valid = queries.valid[image].view(levels, -1)
    assert (level_classes == level_classes[0]).all() and (valid == valid[0]).all()
    return level_classes[0][valid[0]].tolist()


def test_gate_decides_without_labels():
    """From the threshold on a class is active; background always; never fewer than min_active, the best ones."""
    generator = make_generator(always_active=(5,))
    pooled = images_with_relevance(
        generator,
        [
            [0.90, 0.21, 0.19, 0.50, 0.01, 0.01],
            [0.02, 0.03, 0.01, 0.15, 0.10, 0.02],
            [0.90, 0.80, 0.70, 0.60, 0.50, 0.40],
        ],
    )
    queries = generator(axis_text(), pooled)
    assert active_classes(queries, 0) == [0, 1, 3, 5]
    assert active_classes(queries, 1) == [3, 4, 5]
    assert active_classes(queries, 2) == [0, 1, 2, 3, 4, 5]
    assert queries.queries.shape == (3, 3 * 6, 8)


def test_threshold_itself_is_active():
    generator = make_generator(min_active=0)
    pooled = images_with_relevance(generator, [[0.9, 0.3, 0.3, 0.3, 0.3, 0.3]])
    gate = generator(axis_text(), pooled).relevance_logits.sigmoid()
    generator.threshold.fill_(gate[0, 1])
    assert active_classes(generator(axis_text(), pooled), 0) == [c for c in range(6) if gate[0, c] >= gate[0, 1]]


def test_labels_decide_in_training():
    """Present classes, the hard negatives of the highest gate, background; r is 1 where present, else the gate's."""
    generator = make_generator(always_active=(5,), min_active=4)
    relevance = [[0.3, 0.9, 0.8, 0.7, 0.1, 0.2]] * 3
    presence = torch.zeros(3, CLASSES, dtype=torch.bool)
    presence[0, [0, 4]] = True
    presence[1, :5] = True
    queries = generator(axis_text(), images_with_relevance(generator, relevance), presence)
    assert active_classes(queries, 0) == [0, 1, 2, 4, 5]  # 0 and 4 present, 1 and 2 hard negatives, 5 always
    assert active_classes(queries, 1) == [0, 1, 2, 3, 4, 5]
    assert active_classes(queries, 2) == [1, 2, 3, 5]  # nothing present: filled up to min_active
    r = queries.log_relevance[0].view(3, -1)[0][:5].exp()
    torch.testing.assert_close(r, torch.tensor([1.0, 0.9, 0.8, 1.0, 0.2]), atol=1e-4, rtol=0)


def test_hard_negatives_can_be_switched_off():
    generator = make_generator(hard_negatives=0, min_active=0)
    presence = torch.zeros(1, CLASSES, dtype=torch.bool)
    presence[0, [0, 4]] = True
    queries = generator(axis_text(), images_with_relevance(generator, [[0.9] * CLASSES]), presence)
    assert active_classes(queries, 0) == [0, 4]


def test_without_relevance_every_class_is_active_with_1():
    generator = make_generator(relevance=False)
    queries = generator(axis_text(), images_with_relevance(generator, [[0.01] * CLASSES]))
    assert active_classes(queries, 0) == list(range(CLASSES))
    assert (queries.log_relevance == 0).all()


def test_queries_by_hand():
    """q = r·MLP_l(t̂_c), levels one after the other, each with its own position; r below 1e-4 stays finite."""
    generator = make_generator(min_active=CLASSES)
    pooled = images_with_relevance(generator, [[0.5, 0.9, 0.1, 1e-8, 0.2, 0.3]])
    queries = generator(axis_text(), pooled)
    r = generator.gate_logits(pooled).sigmoid()[0]
    for level, mlp in enumerate(generator.level_mlps):
        rows = slice(level * CLASSES, (level + 1) * CLASSES)
        # Before the text is fitted its mean is 0 and its spread that of a vector of length 1: 1/√6 per dimension.
        torch.testing.assert_close(queries.queries[0, rows], r[:, None] * mlp(math.sqrt(6) * torch.eye(CLASSES)))
        torch.testing.assert_close(queries.position[0, rows], generator.level_embedding.weight[level].expand(6, -1))
        torch.testing.assert_close(queries.log_relevance[0, rows], r.clamp(min=1e-4).log())


def test_fitted_text_is_seen_relative_to_the_other_classes():
    """What all classes share, and how far they are apart, must not reach the queries: (3, 4) and (3, −4) around
    (3, 0) become (0, √2) and (0, −√2), whose mean square is 1."""
    torch.manual_seed(0)
    generator = HierarchicalSemanticQueryGenerator(2, 8, relevance=False, always_active=())
    classes = torch.tensor([[3.0, 4.0], [3.0, -4.0]])
    generator.fit_text(classes)
    queries = generator(TextFeatures(classes, classes, classes, torch.arange(2)), torch.zeros(1, 2))
    expected = generator.level_mlps[0](torch.tensor([[0.0, math.sqrt(2)], [0.0, -math.sqrt(2)]]))
    torch.testing.assert_close(queries.queries[0, :2], expected)


def test_a_single_class_can_be_fitted():
    generator = HierarchicalSemanticQueryGenerator(4, 8)
    generator.fit_text(torch.eye(4)[:1])
    assert generator.text_mean.eq(0).all() and generator.text_spread == 0.5


def test_fitted_gate_is_half_open_at_the_mean():
    """r = 0.5 at the mean similarity, σ(±2) one standard deviation (over the classes) away from it."""
    generator = make_generator()
    similarity = 0.22 + 0.02 * torch.randn(200, 50)
    generator.fit_gate(similarity)
    mean, spread = similarity.mean(), similarity.var(1, correction=0).sqrt().mean()
    found = generator.gate_logits(torch.stack((mean, mean + spread, mean - spread))).sigmoid()
    torch.testing.assert_close(found, torch.tensor([0.5, math.exp(2) / (1 + math.exp(2)), 1 / (1 + math.exp(2))]))


@pytest.mark.parametrize("num_classes", [1, 2])
def test_fitted_gate_is_finite_with_few_classes(num_classes):
    """A single class differs from no other: its gate is as steep as before."""
    generator = HierarchicalSemanticQueryGenerator(4, 8)
    scale = generator.log_gate_scale.item()
    similarity = torch.full((5, num_classes), 0.3)
    generator.fit_gate(similarity)
    half = torch.full((5, num_classes), 0.5)
    torch.testing.assert_close(generator.gate_logits(similarity).sigmoid(), half, atol=1e-3, rtol=0)
    assert (generator.log_gate_scale.item() == scale) == (num_classes == 1)


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("present_classes", [1, 7, 10, 101])
def test_calibrated_threshold_reaches_the_recall(recall, present_classes):
    """At least the share asked for passes, and with one class less it would not."""
    generator = make_generator()
    torch.manual_seed(present_classes)
    relevance = torch.rand(present_classes, CLASSES)
    presence = torch.zeros(present_classes, CLASSES, dtype=torch.bool)
    presence[:, 2] = True
    threshold = generator.calibrate_threshold(relevance, presence, recall, highest=1.0)
    present = relevance[:, 2]
    assert (present >= threshold).float().mean() >= recall - 1e-6
    assert (present > threshold).sum() <= math.floor(recall * present_classes + 1 + 1e-6)
    assert generator.threshold.item() == threshold


def test_calibrated_threshold_stays_below_the_highest():
    generator = make_generator()
    presence = torch.ones(4, CLASSES, dtype=torch.bool)
    assert generator.calibrate_threshold(torch.full((4, CLASSES), 0.9), presence, 0.99, 0.2) == pytest.approx(0.2)
    assert generator.calibrate_threshold(torch.full((4, CLASSES), 0.9), ~presence, 0.99, 0.2) == pytest.approx(0.2)


def test_gate_is_as_precise_under_autocast():
    """Similarities differ by hundredths and α multiplies them: half precision would decide about classes."""
    generator = make_generator()
    torch.manual_seed(1)
    rows = F.normalize(torch.randn(CLASSES, 64), dim=-1)
    text = TextFeatures(rows, rows, rows, torch.arange(CLASSES))
    generator = HierarchicalSemanticQueryGenerator(64, 8)
    pooled = F.normalize(torch.randn(3, 64), dim=-1)
    expected = generator(text, pooled).relevance_logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = generator(text, pooled).relevance_logits
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=0)
