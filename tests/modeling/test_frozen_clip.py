import pytest
import torch

from hiervl.modeling.frozen_clip import FrozenClip


@pytest.mark.parametrize("mixed", [False, True])
def test_equals_zero_shot_classification_by_hand(make_network, mixed):
    """softmax_c(scale · cos(dense, prototype_c)), in float32 also under autocast: the scale multiplies its errors."""
    network = make_network().eval()
    clip = FrozenClip(network.backbone, logit_scale=100.0)
    images = network.normalize(list(255 * torch.rand(2, 3, 64, 48)))
    text = network.encode_text()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        dense = clip.encoder.dense_embedding(images).detach()
        found = clip(images, text)
    cosine = torch.stack([(dense.float() * prototype[:, None, None]).sum(1) for prototype in text.prototypes], dim=1)
    assert found.shape == (2, 6, 8, 6) and found.dtype == torch.float32
    torch.testing.assert_close(found, (100.0 * cosine).softmax(1), atol=1e-4, rtol=0)


def test_dense_embedding_alone_equals_that_of_the_whole_pass(make_network):
    backbone = make_network().backbone.eval()
    images = torch.randn(1, 3, 48, 80)
    assert torch.equal(backbone.dense_embedding(images), backbone(images)["dense_embedding"])
