"""Classes of labelled images on the strong views: what is drawn, and what the losses see of it."""

from dataclasses import replace

import pytest
import torch

from hiervl.semi_supervised import step as step_module
from hiervl.semi_supervised.class_mix import PastedClasses, draw_classes
from hiervl.semi_supervised.pseudo_labels import PseudoLabels
from hiervl.semi_supervised.step import SemiSupervisedStep

CPU = torch.device("cpu")


def labeled(values):
    """A sample with these labels in one row, whose grey value is ten times the label."""
    labels = torch.tensor([values])
    return {"image": (10 * labels).expand(3, -1, -1).to(torch.uint8), "sem_seg": labels}


def test_half_of_the_classes_are_pasted_with_their_pixels():
    """Of classes 1, 2, 3 two; ignored pixels never. Over many draws every class has its turn."""
    pasted = draw_classes([labeled([1, 1, 2, 3, 25])], 50, 1.0, 25, CPU)
    chosen = [set(row[mask].tolist()) for row, mask in zip(pasted.labels, pasted.inside)]
    assert all(len(classes) == 2 and classes < {1, 2, 3} for classes in chosen)
    assert set().union(*chosen) == {1, 2, 3}
    for row, mask, classes in zip(pasted.labels, pasted.inside, chosen):  # whole classes
        assert torch.equal(mask, torch.isin(row, torch.tensor(sorted(classes))))
    torch.testing.assert_close(pasted.images[:, 0], 10.0 * pasted.labels)


@pytest.mark.parametrize("classes, pasted", [([4], 1), ([4, 5], 1), ([4, 5, 6], 2), ([4, 5, 6, 7], 2)])
def test_half_of_the_classes_is_rounded_up(classes, pasted):
    drawn = draw_classes([labeled(classes)], 5, 1.0, 255, CPU)
    assert drawn.inside.sum((1, 2)).tolist() == [pasted] * 5


def test_sample_and_chance_are_drawn_for_every_view():
    samples = [labeled([1, 1]), labeled([2, 2])]
    pasted = draw_classes(samples, 200, 0.25, 255, CPU)
    assert 25 <= pasted.inside.any(-1).any(-1).sum() <= 75
    assert set(pasted.labels.unique().tolist()) == {1, 2}
    assert not draw_classes(samples, 50, 0.0, 255, CPU).inside.any()
    assert not draw_classes([labeled([255, 255])], 5, 1.0, 255, CPU).inside.any()


def test_pasted_pixels_have_true_labels_and_are_kept():
    inside = torch.tensor([[[True, False, False]]])
    pasted = PastedClasses(torch.full((1, 3, 1, 3), 200.0), torch.full((1, 1, 3), 7), inside)
    pseudo = PseudoLabels(torch.tensor([[[255, 1, 2]]]), torch.tensor([[[False, True, False]]]))
    labels, keep = pasted.onto_labels(pseudo)
    assert labels.tolist() == [[[7, 1, 2]]] and keep.tolist() == [[[True, True, False]]]
    assert pasted.onto_images(torch.zeros(1, 3, 1, 3))[0, 2].tolist() == [[200.0, 0.0, 0.0]]


@pytest.fixture
def photographs():
    """A labelled and an unlabelled sample of noise, as the loader makes them."""
    torch.manual_seed(5)
    image, valid = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8), torch.ones(32, 32, dtype=torch.bool)
    valid[30:] = False
    other = {f"image_{view}": image for view in ("weak", "strong1", "strong2")}
    other.update({f"cutmix_box{view}": torch.zeros(4, dtype=torch.long) for view in (1, 2)})
    labels = torch.ones(32, 32, dtype=torch.long)
    return {"labeled": [{"image": image, "sem_seg": labels, "valid": valid}], "unlabeled": [{**other, "valid": valid}]}


def test_losses_of_strong_views_are_those_of_what_is_pasted(make_cfg, make_network, monkeypatch, photographs):
    """With the whole of a black image of class 2 pasted: as with black strong views that the teacher calls class 2."""
    options = ("SEMI.CLASS_MIX", 1.0, "SEMI.CONFIDENCE", 1.1, "SEMI.PERTURBATION_WEIGHT", 0.0, "LOSS.ENTROPY", 0.1)
    step = SemiSupervisedStep.from_config(make_cfg(*options), make_network(*options)).train()
    black = {"image": torch.zeros(3, 32, 32), "sem_seg": torch.full((32, 32), 2)}
    monkeypatch.setattr(step_module, "draw_classes", lambda samples, *rest: draw_classes([black], *rest))

    def losses_of(batch):
        torch.manual_seed(1)
        losses = step(batch)
        return torch.stack([losses[f"loss_{name}"] for name in ("strong1", "strong2", "entropy")])

    found = losses_of(photographs)
    assert found[0] > 0  # though the teacher is sure of nothing
    unlabeled = dict(photographs["unlabeled"][0], valid=torch.ones(32, 32, dtype=torch.bool))
    unlabeled.update(image_strong1=torch.zeros(3, 32, 32), image_strong2=torch.zeros(3, 32, 32))
    everywhere_2 = PseudoLabels(black["sem_seg"][None], torch.ones(1, 32, 32, dtype=torch.bool))
    monkeypatch.setattr(step, "_pseudo_labels", lambda views, options: everywhere_2)
    step.objective = replace(step.objective, class_mix=0.0)
    torch.testing.assert_close(found, losses_of({**photographs, "unlabeled": [unlabeled]}))


def test_guidance_gives_way_to_true_labels(make_cfg, make_network, monkeypatch, photographs):
    options = ("SEMI.CLASS_MIX", 1.0, "SEMI.GUIDANCE_WEIGHT", 1.0, "SEMI.PERTURBATION_WEIGHT", 0.0)
    step = SemiSupervisedStep.from_config(make_cfg(*options), make_network(*options)).train()
    seen = []
    monkeypatch.setattr(
        step, "_pixel_loss", lambda scores, target, size, balance=0.0: seen.append(target) or scores.new_ones(())
    )
    step(photographs)
    assert len(seen) == 4  # two strong views; pseudo-labels and guidance
    assert all((target.labels == 1).all() and target.keep.all() for target in seen)
