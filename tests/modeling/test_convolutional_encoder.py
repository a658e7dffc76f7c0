import copy
import json

import pytest
import torch
from torch.nn import functional as F

from hiervl.modeling.clip import load_clip
from hiervl.modeling.convolutional_encoder import ConvolutionalEncoder
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.modeling.image_encoder import MAPS
from hiervl.utils.errors import UserError

EFFICIENTNET, CONVNEXT = "test_efficientnet", "test_convnext"  # timm's own, made for tests


@pytest.fixture(params=[EFFICIENTNET, CONVNEXT])
def visual(request, tmp_path):
    return make_visual(request.param, tmp_path)


def make_visual(trunk, folder):
    """open_clip's encoder around a trunk of timm with random weights, statistics of its batch norms included."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "timm_model_name": trunk, "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = folder / f"{trunk}_clip.json"
    path.write_text(json.dumps(config))
    torch.manual_seed(0)
    clip, *_ = load_clip(str(path), "")
    for buffer in clip.visual.buffers():
        if buffer.dtype.is_floating_point:
            buffer.add_(0.3 * torch.rand_like(buffer))
    return clip.visual.eval()


@torch.no_grad()
def test_pooled_embedding_is_that_of_open_clip(visual):
    original = copy.deepcopy(visual)
    encoder = ConvolutionalEncoder(visual)
    images = torch.randn(2, 3, 64, 96)
    expected = F.normalize(original(images), dim=-1)
    for training in (False, True):
        pooled = encoder.train(training)(images)["pooled_embedding"]
        torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_dense_embedding_is_the_last_map_through_the_head(tmp_path):
    visual = make_visual(EFFICIENTNET, tmp_path)
    encoder = ConvolutionalEncoder(visual).eval()
    images = torch.randn(2, 3, 64, 96)
    projected = torch.einsum("bchw,dc->bdhw", visual.trunk.forward_features(images), visual.head.proj.weight)
    out = encoder(images)
    assert out["dense_embedding"].shape == (2, 24, 2, 3) and encoder.dense_stride == 32
    torch.testing.assert_close(out["dense_embedding"], F.normalize(projected, dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.dense_embedding(images), out["dense_embedding"])
    torch.testing.assert_close(encoder.embeddings(images)[1], out["pooled_embedding"])


@torch.no_grad()
def test_maps_have_the_shapes_that_are_promised(visual):
    encoder = ConvolutionalEncoder(visual).eval()
    out = encoder(torch.randn(1, 3, 64, 96))
    for name, spec in encoder.output_shape().items():
        assert out[name].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
    assert [spec.stride for spec in encoder.output_shape().values()] == [4, 8, 16, 32]


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_frozen_stages_end_where_a_map_is_read(visual, count):
    """What is not trained is what the first maps depend on, and nothing else of the maps that follow."""
    encoder = ConvolutionalEncoder(visual, frozen_stages=count)
    out = encoder(torch.randn(2, 3, 64, 64))
    assert [out[name].requires_grad for name in MAPS] == [index >= count for index in range(4)]
    trained = [parameter for parameter in visual.trunk.parameters() if parameter.requires_grad]
    if count == 0:
        assert len(trained) == len(list(visual.trunk.parameters()))
    if count < 4:
        gradients = torch.autograd.grad(out[MAPS[count]].square().sum(), trained, allow_unused=True)
        assert gradients[0].abs().sum() > 0  # training begins right after the last frozen map
    assert visual.head.proj.weight.requires_grad


def test_trainable_none_leaves_nothing(visual):
    encoder = ConvolutionalEncoder(visual, trainable="none")
    assert not encoder.trains_embeddings and not any(p.requires_grad for p in encoder.parameters())
    assert ConvolutionalEncoder(visual.requires_grad_(True), trainable="attention").trains_embeddings


def test_recomputing_changes_no_gradient(visual):
    images = torch.randn(2, 3, 64, 64)
    found = []
    for recompute in (False, True):
        encoder = ConvolutionalEncoder(copy.deepcopy(visual), recompute=recompute).train()
        encoder(images)["dense_embedding"].sum().backward()
        found.append([p.grad for p in encoder.visual.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for plain, again in zip(*found):
        torch.testing.assert_close(plain, again)


def test_a_frozen_copy_says_the_same_and_keeps_saying_it(visual):
    encoder = ConvolutionalEncoder(visual).eval()
    images = torch.randn(1, 3, 64, 64)
    frozen = FrozenClip(encoder, 100.0)
    with torch.no_grad():
        before = encoder(images)
        for parameter in encoder.parameters():
            parameter.add_(0.1)
        dense, pooled = frozen.embed(images, pooled=True)
    torch.testing.assert_close(dense, before["dense_embedding"])
    torch.testing.assert_close(pooled, before["pooled_embedding"])
    assert not frozen.state_dict()


@pytest.mark.parametrize("options", [{"frozen_stages": 5}, {"frozen_stages": -1}, {"trainable": "some"}])
def test_values_out_of_range_are_user_errors(visual, options):
    with pytest.raises(UserError, match="MODEL.CLIP.(FROZEN_STAGES is 0 to 4|TRAINABLE is one of)"):
        ConvolutionalEncoder(visual, **options)
