"""Images in the colours of others: statistics by hand, and what the step does with them."""

from dataclasses import replace

import pytest
import torch

from hiervl.semi_supervised import step as step_module
from hiervl.semi_supervised.color_transfer import in_labeled_colors, in_unlabeled_colors, transfer_colors
from hiervl.semi_supervised.step import SemiSupervisedStep

CPU = torch.device("cpu")


def channel(values):
    """One row of pixels, in all three channels alike."""
    return torch.tensor(values).expand(3, 1, -1).clone()


def test_mean_and_spread_move_by_the_amount_and_padding_stays():
    """Mean 100 and deviation 10 become, half of the way to 60 and 30, mean 80 and deviation 20."""
    image, valid = channel([90.0, 110.0, 0.0]), torch.tensor([[True, True, False]])
    look = torch.tensor([30.0, 90.0]).expand(3, 2)
    half = transfer_colors(image, valid, look, 0.5)
    torch.testing.assert_close(half, channel([60.0, 100.0, 0.0]))
    torch.testing.assert_close(transfer_colors(image, valid, look, 0.0), image)
    torch.testing.assert_close(transfer_colors(image, valid, look, 1.0), channel([30.0, 90.0, 0.0]))


def test_values_stay_within_those_of_a_pixel():
    """Mean 20 and deviation 40 become 125 and 125: 0 and 100 would be 62.5 and 375, mirrored 187.5 and −125."""
    image, look = channel([0.0, 0.0, 0.0, 0.0, 100.0]), torch.tensor([0.0, 250.0]).expand(3, 2)
    valid = torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(transfer_colors(image, valid, look, 1.0), channel([62.5, 62.5, 62.5, 62.5, 255.0]))
    torch.testing.assert_close(transfer_colors(100 - image, valid, look, 1.0), channel([187.5] * 4 + [0.0]))


def test_channels_move_apart():
    image = torch.stack([torch.tensor([[10.0, 30.0]]), torch.tensor([[50.0, 60.0]]), torch.tensor([[0.0, 2.0]])])
    look = torch.tensor([[100.0, 120.0], [0.0, 40.0], [200.0, 204.0]])
    moved = transfer_colors(image, torch.ones(1, 2, dtype=torch.bool), look, 1.0)
    torch.testing.assert_close(moved.flatten(1), look)


def test_flat_images_stay_finite():
    flat = transfer_colors(channel([7.0, 7.0]), torch.ones(1, 2, dtype=torch.bool), torch.zeros(3, 4), 1.0)
    torch.testing.assert_close(flat, channel([0.0, 0.0]))
    nothing = transfer_colors(channel([7.0, 7.0]), torch.zeros(1, 2, dtype=torch.bool), torch.zeros(3, 4), 1.0)
    torch.testing.assert_close(nothing, channel([7.0, 7.0]))


def batch_of(labeled, weak, strong=(), valid=None):
    """One unlabelled sample and labelled ones, each a row of pixels in all channels alike."""
    unlabeled = {"image_weak": channel(weak), **{f"image_strong{n}": channel(v) for n, v in enumerate(strong, 1)}}
    unlabeled["valid"] = torch.tensor([valid or [True] * len(weak)])
    labeled = [{"image": channel(v), "valid": torch.ones(1, len(v), dtype=torch.bool), "name": "a"} for v in labeled]
    return {"labeled": labeled, "unlabeled": [unlabeled]}


def test_student_sees_labeled_images_and_strong_views_in_the_light_of_weak_ones():
    """All are brighter than the weak view's one valid pixel: each moves part of the way, by an amount of its own."""
    torch.manual_seed(0)
    batch = batch_of([[100.0, 100.0]] * 6, [50.0, 0.0], [[150.0, 150.0], [200.0, 200.0]], [True, False])
    seen = in_unlabeled_colors(batch, 1.0, CPU)
    moved = [float(item["image"].max()) for item in seen["labeled"]]
    assert all(50 < value < 100 for value in moved) and len(set(moved)) == 6
    strong = seen["unlabeled"][0]
    assert 50 < strong["image_strong1"][0, 0, 0] < 150 and 50 < strong["image_strong2"][0, 0, 0] < 200
    assert strong["image_strong1"][0, 0, 1] == 150  # padding
    assert strong["image_weak"] is batch["unlabeled"][0]["image_weak"] and seen["labeled"][0]["name"] == "a"
    assert all(float(item["image"].max()) == 100 for item in batch["labeled"])  # what was handed in stays


def test_student_is_left_alone_without_other_images_or_by_chance():
    batch = batch_of([[100.0, 100.0]], [50.0, 0.0])
    assert in_unlabeled_colors(batch, 0.0, CPU)["labeled"][0]["image"] is batch["labeled"][0]["image"]
    alone = {**batch, "unlabeled": []}
    assert in_unlabeled_colors(alone, 1.0, CPU)["labeled"][0]["image"] is batch["labeled"][0]["image"]


def test_teacher_sees_weak_views_in_the_light_of_labeled_ones():
    batch = batch_of([[90.0, 110.0]], [10.0, 30.0, 0.0], valid=[True, True, False])
    torch.testing.assert_close(in_labeled_colors(batch, CPU), channel([90.0, 110.0, 0.0])[None])


@pytest.fixture
def photographs():
    """A labelled and an unlabelled sample as the loader makes them; the unlabelled one is dark."""
    torch.manual_seed(5)
    image, valid = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8), torch.ones(32, 32, dtype=torch.bool)
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[16:] = 2
    other = {f"image_{view}": image // 8 for view in ("weak", "strong1", "strong2")}
    other.update({f"cutmix_box{view}": torch.zeros(4, dtype=torch.long) for view in (1, 2)})
    return {"labeled": [{"image": image, "sem_seg": labels, "valid": valid}], "unlabeled": [{**other, "valid": valid}]}


def all_black(batch, probability, device):
    """In place of the colours of unlabelled images, which is what the student sees."""
    black = {key: [{**s, **{n: 0 * s[n] for n in s if n.startswith("image")}} for s in batch[key]] for key in batch}
    for sample, own in zip(black["unlabeled"], batch["unlabeled"]):
        sample["image_weak"] = own["image_weak"]
    return black


@pytest.mark.parametrize(("enabled", "burn_in"), [(True, 0), (True, 100), (False, 0)])
def test_labeled_losses_see_the_colors_also_in_the_burn_in(
    make_cfg, make_network, monkeypatch, photographs, enabled, burn_in
):
    """With everything black, the labelled losses are those of black images; supervised-only training is left alone."""
    options = ("SEMI.COLOR_TRANSFER", 0.9, "SEMI.ENABLED", enabled, "SEMI.BURN_IN", burn_in)
    options += ("SEMI.SUPERVISED_SHARE", 1.0)
    step = SemiSupervisedStep.from_config(make_cfg(*options), make_network(*options)).train()

    def pixel_loss(batch):
        torch.manual_seed(1)
        return step(batch)["loss_pixel"]

    monkeypatch.setattr(step_module, "in_unlabeled_colors", all_black)
    seen = pixel_loss(photographs)
    step.objective = step_module.UnlabeledObjective(enabled=False)
    expected = {True: pixel_loss(all_black(photographs, 0.9, CPU)), False: pixel_loss(photographs)}
    assert abs(expected[True] - expected[False]) > 1e-3
    torch.testing.assert_close(seen, expected[enabled])


def test_student_learns_strong_views_in_the_colors(make_cfg, make_network, monkeypatch, photographs):
    """With black strong views, their losses are those of a batch that has them."""
    options = ("SEMI.COLOR_TRANSFER", 0.9, "SEMI.CONFIDENCE", 0.0)
    step = SemiSupervisedStep.from_config(make_cfg(*options), make_network(*options)).train()
    monkeypatch.setattr(step_module, "in_unlabeled_colors", all_black)

    def strong_losses(batch):
        torch.manual_seed(1)
        losses = step(batch)
        return torch.stack([losses["loss_strong1"], losses["loss_strong2"]])

    seen = strong_losses(photographs)
    step.objective = replace(step.objective, color_transfer=0.0)
    assert (seen - strong_losses(photographs)).abs().min() > 1e-4
    torch.testing.assert_close(seen, strong_losses(all_black(photographs, 0.9, CPU)))


@pytest.mark.parametrize("agrees", [True, False])
def test_pseudo_labels_are_the_mean_of_both_looks_of_the_teacher(
    make_cfg, make_network, monkeypatch, photographs, agrees
):
    """The second look has the colours of the labelled image itself, not those that the student sees it in."""
    options = ("SEMI.COLOR_AGREEMENT", agrees, "SEMI.CONFIDENCE", 0.3, "SEMI.COLOR_TRANSFER", 0.9)
    step = SemiSupervisedStep.from_config(make_cfg(*options), make_network(*options)).train()
    monkeypatch.setattr(step_module, "in_unlabeled_colors", all_black)
    step(photographs)
    looks = [photographs["unlabeled"][0]["image_weak"][None].float()]
    looks += [in_labeled_colors(photographs, CPU)] * agrees
    shares = sum(m / m.sum(1, keepdim=True) for m in map(step.teacher.network.semantic_maps, looks)) / len(looks)
    confidence, labels = shares.max(1)
    assert torch.equal(step.last_pseudo.labels, labels)
    clear = (confidence - 0.3).abs() > 1e-3
    assert torch.equal(step.last_pseudo.keep[clear], (confidence >= 0.3)[clear])
