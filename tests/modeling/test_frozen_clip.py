import pytest
import torch

from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.modeling.image_statistics import clip_statistics, image_statistics
from hiervl.modeling.switches import build_frozen_clip


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


def test_beside_another_encoder_it_sees_images_normalised_for_itself(make_cfg):
    cfg = make_cfg("MODEL.ENCODER.NAME", "test_vit", "MODEL.PIXEL_MEAN", [], "MODEL.PIXEL_STD", [])
    frozen = build_frozen_clip(cfg, backbone=None, logit_scale=100.0)
    pixels = 255 * torch.rand(2, 3, 64, 48)

    def normalized(statistics):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics)
        return (pixels - mean) / std

    expected = frozen.encoder.dense_embedding(normalized(clip_statistics(cfg)))
    found = frozen.embed(normalized(image_statistics(cfg))).dense
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(found, frozen.encoder.dense_embedding(normalized(image_statistics(cfg))), atol=1e-2)
