import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hiervl.losses.prompt_losses import PromptRegularizer, prompt_anchor_loss, prompt_topology_loss

EMBEDDINGS = Path(__file__).parents[3] / "shared" / "clip_text_embeddings"
FILES = ["voc12_wbg_single.npy", "cityscapes_single.npy", "ade_single.npy"]


def load(name: str) -> torch.Tensor:
    """CLIP ViT-B/16 embeddings of real class names: (C, 512)."""
    if not (EMBEDDINGS / name).is_file():
        pytest.skip(f"CLIP's text embeddings of real classes lie beside the checkout only: no {EMBEDDINGS / name}")
    return torch.from_numpy(np.load(EMBEDDINGS / name)).float()


def test_topology_by_hand():
    """Cosines 0.6 instead of 0 between two classes: the two off-diagonal entries differ by 0.6, of four entries."""
    learnt = torch.tensor([[2.0, 0.0], [3.0, 4.0]])  # lengths play no role
    fixed = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert prompt_topology_loss(learnt, fixed).item() == pytest.approx(2 * 0.6**2 / 4)


def test_topology_allows_all_classes_to_turn_together():
    torch.manual_seed(0)
    prototypes = torch.randn(4, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    assert prompt_topology_loss(prototypes @ rotation, prototypes).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", FILES)
def test_topology_vanishes_at_clips_own_embeddings(name):
    prototypes = load(name)
    embeddings = prototypes.clone().requires_grad_()
    loss = prompt_topology_loss(embeddings, prototypes)
    loss.backward()
    assert loss.item() == 0
    assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("temperature, separation", [(1.0, 1.0), (0.5, 0.3)])
def test_anchor_by_hand(temperature, separation):
    """Three axes; h(t_0) and h(t_1) on their own, h(t_2) between its own and axis 0 (cosines 0.8 and 0.6)."""
    projected = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [3.0, 0, 4.0]])
    e = {c: math.exp(c / temperature) for c in (0.0, 0.6)}
    rows = [
        -1 / temperature + separation * math.log(e[0.0] + e[0.0]),
        -1 / temperature + separation * math.log(e[0.0] + e[0.0]),
        -0.8 / temperature + separation * math.log(e[0.6] + e[0.0]),
    ]
    found = prompt_anchor_loss(projected, torch.eye(3), temperature, separation)
    assert found.item() == pytest.approx(sum(rows) / 3, abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_anchor_is_a_cross_entropy_over_the_other_classes(num_classes):
    """On embeddings in no order and of any length, by PyTorch's cosine, class by class."""
    torch.manual_seed(0)
    projected, prototypes = 3 * torch.randn(num_classes, 4), 2 * torch.randn(num_classes, 4)
    total = 0.0
    for c in range(num_classes):
        cosine = torch.nn.functional.cosine_similarity(projected[c : c + 1], prototypes) / 0.3
        others = torch.cat((cosine[:c], cosine[c + 1 :]))
        total += -cosine[c] + 0.7 * others.exp().sum().log()
    torch.testing.assert_close(prompt_anchor_loss(projected, prototypes, 0.3, 0.7), total / num_classes)


def test_anchor_of_a_single_class_is_its_similarity():
    loss = prompt_anchor_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]), 0.5, 1.0)
    assert loss.item() == pytest.approx(-math.sqrt(0.5) / 0.5, abs=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_anchor_prefers_every_class_at_its_own_prototype(name):
    """Among real names, whose cosines are 0.6 to 0.95, the right order costs less than a shifted one."""
    prototypes = load(name)
    right = prompt_anchor_loss(prototypes, prototypes, 0.07, 1.0)
    assert right.isfinite() and right < prompt_anchor_loss(prototypes.roll(1, 0), prototypes, 0.07, 1.0)


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    learnt = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    fixed = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: prompt_topology_loss(t, fixed), learnt)
    assert torch.autograd.gradcheck(lambda t: prompt_anchor_loss(t, fixed, 0.3, 0.7), learnt)


def test_regularizer_weighs_its_losses_and_leaves_out_those_of_weight_0():
    torch.manual_seed(0)
    learnt, fixed = torch.randn(3, 4), torch.randn(3, 4)

    def losses(topology, anchor):
        torch.manual_seed(1)
        return PromptRegularizer(4, topology=topology, anchor=anchor, temperature=0.2, separation=1.0)(learnt, fixed)

    assert losses(0.0, 0.0) == {}
    once, weighted = losses(1.0, 1.0), losses(3.0, 5.0)
    assert set(once) == {"loss_prompt_topology", "loss_prompt_anchor"}
    torch.testing.assert_close(once["loss_prompt_topology"], prompt_topology_loss(learnt, fixed))
    torch.testing.assert_close(weighted["loss_prompt_topology"], 3 * once["loss_prompt_topology"])
    torch.testing.assert_close(weighted["loss_prompt_anchor"], 5 * once["loss_prompt_anchor"])
    assert set(losses(3.0, 0.0)) == {"loss_prompt_topology"} and set(losses(0.0, 5.0)) == {"loss_prompt_anchor"}


def test_the_anchor_compares_the_projected_embeddings():
    """h: two linear layers with a ReLU between them, the temperature and the separation those it was given."""
    torch.manual_seed(0)
    learnt, fixed = torch.randn(3, 4), torch.randn(3, 4)
    regularizer = PromptRegularizer(4, topology=0.0, anchor=1.0, temperature=0.2, separation=0.3)
    first, _, second = regularizer.projector
    projected = (learnt @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    expected = prompt_anchor_loss(projected, fixed, 0.2, 0.3)
    torch.testing.assert_close(regularizer(learnt, fixed)["loss_prompt_anchor"], expected)
