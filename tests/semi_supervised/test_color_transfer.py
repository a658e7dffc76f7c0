"""Labelled images in the colours of unlabelled ones: statistics by hand, and what the step does with them."""

import pytest
import torch

from hiervl.semi_supervised import step as step_module
from hiervl.semi_supervised.color_transfer import in_colors_of_others, transfer_colors
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
    assert transfer_colors(image, valid, torch.tensor([0.0, 250.0]).expand(3, 2), 1.0).max() <= 255


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


def sample(key, values, valid):
    return {key: channel(values).to(torch.uint8), "valid": torch.tensor([valid]), "name": key}


def test_padding_of_the_other_image_does_not_count():
    torch.manual_seed(0)
    labeled = [sample("image", [100.0, 100.0], [True, True])] * 8
    unlabeled = [sample("image_weak", [200.0, 0.0], [True, False])]
    changed = in_colors_of_others(labeled, unlabeled, 1.0, CPU)
    assert all(100 <= item["image"].min() and item["name"] == "image" for item in changed)
    assert len({float(item["image"].max()) for item in changed}) == 8  # each by an amount of its own
    assert all(item["image"].dtype == torch.uint8 for item in labeled)  # the samples handed in stay as they are


@pytest.mark.parametrize(("unlabeled", "probability"), [([], 1.0), ([sample("image_weak", [9.0], [True])], 0.0)])
def test_nothing_changes_without_another_image_or_by_chance(unlabeled, probability):
    labeled = [sample("image", [100.0], [True])]
    assert in_colors_of_others(labeled, unlabeled, probability, CPU)[0] is labeled[0]


@pytest.mark.parametrize(("enabled", "burn_in"), [(True, 0), (True, 100), (False, 0)])
def test_labelled_losses_see_the_colours_also_in_the_burn_in(make_cfg, make_network, monkeypatch, enabled, burn_in):
    """With everything black, the labelled losses are those of black images; supervised-only training is left alone."""
    options = ("SEMI.COLOR_TRANSFER", 1.0, "SEMI.ENABLED", enabled, "SEMI.BURN_IN", burn_in)
    options += ("SEMI.SUPERVISED_SHARE", 1.0)
    step = SemiSupervisedStep.from_config(make_cfg(*options), make_network(*options)).train()

    def black(labeled, unlabeled, probability, device):
        assert probability == 1.0 and len(unlabeled) == 1
        return [{**item, "image": torch.zeros_like(item["image"])} for item in labeled]

    monkeypatch.setattr(step_module, "in_colors_of_others", black)
    image, valid = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8), torch.ones(32, 32, dtype=torch.bool)
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[16:] = 2
    other = {f"image_{view}": image for view in ("weak", "strong1", "strong2")}
    other.update(cutmix_box1=torch.zeros(4, dtype=torch.long), cutmix_box2=torch.zeros(4, dtype=torch.long), valid=valid)
    labeled = [{"image": image, "sem_seg": labels, "valid": valid}]

    def pixel_loss(samples):
        torch.manual_seed(1)
        return step({"labeled": samples, "unlabeled": [other]})["loss_pixel"]

    seen = pixel_loss(labeled)
    step.objective = step_module.UnlabelledObjective(enabled=False)
    expected = {flag: pixel_loss([{**labeled[0], "image": image * (not flag)}]) for flag in (True, False)}
    assert abs(expected[True] - expected[False]) > 1e-3
    torch.testing.assert_close(seen, expected[enabled])
