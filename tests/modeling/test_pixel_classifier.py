"""The baselines' per-pixel network: it fits where HierVL fits."""

import pytest
import torch
from torch.nn import functional as F

from hiervl.modeling import HierVL, PixelClassifier

STAGES = (
    "encode_text normalize segment supervised_losses prompt_losses semantic_scores semantic_maps device "
    "class_names background logit_scale backbone gate frozen_clip has_instance_queries set_classes pooled_embedding "
    "loss_scale pixel_loss_weight has_set_losses pseudo_losses mask_prior"
).split()


@pytest.fixture
def network(make_network):
    return make_network("MODEL.META_ARCHITECTURE", "PixelClassifier", trained=False)


def images(count, height=40, width=56):
    return 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def test_it_has_the_stages_of_hiervl(network, make_network):
    assert isinstance(network, PixelClassifier)
    whole = make_network(trained=False)
    assert isinstance(whole, HierVL)
    for name in STAGES:
        assert hasattr(network, name) and hasattr(whole, name), name
    assert network.text_encoder.prompts is None and network.prompt_losses(network.encode_text()) == {}


def test_the_loss_is_the_cross_entropy_of_a_softmax(network):
    """Logits resized after the softmax, as everything that this code base compares with labels."""
    labels = torch.randint(0, 6, (2, 40, 56), generator=torch.Generator().manual_seed(0))
    labels[:, :8] = 255
    items = [{"image": image, "sem_seg": label} for image, label in zip(images(2), labels)]
    losses = network(items)
    assert set(losses) == {"loss_pixel"}
    with torch.no_grad():
        output = network.segment(network.normalize(list(images(2))), network.encode_text())
        assert output.logits.shape == (2, 6, 24, 32)  # 48 × 64 padded, at a quarter of a patch of 8
        probability = F.interpolate(output.logits.softmax(1), size=(48, 64), mode="bilinear", align_corners=False)
        at_label = probability[:, :, :40, :56].gather(1, labels.clamp(max=5).unsqueeze(1)).squeeze(1)
        expected = -at_label[labels != 255].log().mean()
    torch.testing.assert_close(losses["loss_pixel"], expected, atol=1e-3, rtol=1e-3)
    losses["loss_pixel"].backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_maps_are_summed_at_the_finest_size(network, resize_by_opencv):
    """classify(mix(Σ_l project_l(map_l) resized)): FPN's sum, in one step."""
    network.eval()
    with torch.no_grad():
        batch = network.normalize(list(images(2)))
        features = network.backbone(batch)
        size = features["res2"].shape[2:]
        projected = [project(features[name]) for name, project in zip(network.maps, network.projections)]
        total = sum(resize_by_opencv(one, size) for one in projected)
        expected = network.classify(network.mix(total))
        found = network.segment(batch, network.encode_text()).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_maps_are_probabilities_of_each_image_alone(network, resize_by_opencv):
    network.eval()
    found = network.semantic_maps(images(3))
    assert found.shape == (3, 6, 40, 56)
    with torch.no_grad():
        text = network.encode_text()
        scores = network.semantic_scores(network.segment(network.normalize(list(images(3))), text), text)
    expected = resize_by_opencv(scores, (48, 64))[:, :, :40, :56]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(3, 40, 56), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.semantic_maps(images(3)[1:2]), found[1:2], atol=1e-5, rtol=1e-4)
    (resized,) = network([{"image": images(1)[0], "height": 20, "width": 28}])
    assert resized["sem_seg"].shape == (6, 20, 28)


def test_perturbed_maps_change_the_prediction(network):
    network.eval()
    batch, text = network.normalize(list(images(1))), network.encode_text()
    plain = network.segment(batch, text).logits
    without = network.segment(batch, text, perturb=lambda maps: {**maps, "res4": 0 * maps["res4"]}).logits
    assert (plain - without).abs().max() > 1e-3
