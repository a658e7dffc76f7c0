import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from hiervl.modeling.deformable_attention import reference_points
from hiervl.modeling.pixel_decoder import DeformableLayer, DeformablePixelDecoder
from hiervl.modeling.semantic_queries import TextQueries

INPUT_SHAPE = {f"res{i}": ShapeSpec(channels=8 * i, stride=2**i) for i in (2, 3, 4, 5)}


def features(batch=2):
    return {
        name: torch.randn(batch, spec.channels, 96 // spec.stride, 160 // spec.stride)
        for name, spec in INPUT_SHAPE.items()
    }


def text_queries(batch=2, num_queries=4, dim=32):
    return TextQueries(
        queries=torch.randn(batch, num_queries, dim),
        position=torch.randn(batch, num_queries, dim),
        classes=torch.arange(num_queries).expand(batch, -1),
        valid=torch.ones(batch, num_queries, dtype=torch.bool),
        log_relevance=torch.zeros(batch, num_queries),
        relevance_logits=torch.zeros(batch, num_queries),
    )


def test_layer_equals_mask2former():
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    from transformers import Mask2FormerConfig

    torch.manual_seed(0)
    config = Mask2FormerConfig(
        feature_size=32,
        num_attention_heads=4,
        encoder_feedforward_dim=48,
        dropout=0.0,
        backbone_config={"model_type": "swin"},
    )
    theirs = mask2former.Mask2FormerPixelDecoderEncoderLayer(config)
    ours = DeformableLayer(32, num_maps=3, num_heads=4, num_points=4, feedforward=48)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    renamed = {"norm1": "self_attn_layer_norm", "linear1": "fc1", "linear2": "fc2", "norm2": "final_layer_norm"}
    theirs.load_state_dict(
        {
            ".".join((renamed.get(name.split(".")[0], name.split(".")[0]), *name.split(".")[1:])): value
            for name, value in ours.state_dict().items()
        }
    )
    shapes = [(2, 3), (4, 6), (7, 5)]
    pixels = sum(h * w for h, w in shapes)
    x, position = torch.randn(2, pixels, 32), torch.randn(2, pixels, 32)
    points = reference_points(shapes, x.device)
    expected = theirs(
        x,
        attention_mask=None,
        position_embeddings=position,
        spatial_shapes_list=shapes,
        reference_points=points[:, :, None].expand(2, -1, 3, -1),
    )[0]
    torch.testing.assert_close(ours(x, position, points, shapes), expected, atol=1e-5, rtol=1e-5)


def test_maps_coarse_first_and_masks_at_the_finest_stride():
    decoder = DeformablePixelDecoder(INPUT_SHAPE, dim=32, layers=1, num_heads=4, feedforward=32)
    out = decoder(features(), text_queries())
    assert [tuple(m.shape) for m in out.pixel_features] == [(2, 32, 3, 5), (2, 32, 6, 10), (2, 32, 12, 20)]
    assert out.mask_features.shape == (2, 32, 24, 40)


def test_mask_features_by_hand(resize_by_opencv):
    """projection(output(lateral(finest map) + the finest refined map, resized)): Mask2Former's top-down path."""
    torch.manual_seed(0)
    decoder = DeformablePixelDecoder(INPUT_SHAPE, dim=32, layers=1, num_heads=4, feedforward=32)
    maps = features()
    with torch.no_grad():
        out = decoder(maps, None)
        lateral = decoder.lateral[1](torch.einsum("oc,bchw->bohw", decoder.lateral[0].weight[..., 0, 0], maps["res2"]))
        smooth = F.conv2d(
            F.pad(lateral + resize_by_opencv(out.pixel_features[-1], (24, 40)), (1, 1, 1, 1)), decoder.output[0].weight
        )
        smooth = decoder.output[1](smooth).clamp(min=0)
        weight, bias = decoder.mask_projection.weight[..., 0, 0], decoder.mask_projection.bias
        expected = torch.einsum("oc,bchw->bohw", weight, smooth) + bias.view(-1, 1, 1)
    torch.testing.assert_close(out.mask_features, expected, atol=1e-4, rtol=1e-4)


def test_cmsam_changes_nothing_until_its_scales_do():
    """At the start the pixel decoder computes what Mask2Former's does, with and without text; not after training."""
    torch.manual_seed(0)
    decoder = DeformablePixelDecoder(INPUT_SHAPE, dim=32, layers=2, num_heads=4, feedforward=32)
    maps, text = features(), text_queries()
    with torch.no_grad():
        without, at_start = decoder(maps, None), decoder(maps, text)
        assert torch.equal(at_start.mask_features, without.mask_features)
        assert all(map(torch.equal, at_start.pixel_features, without.pixel_features))
        assert torch.equal(at_start.text_queries, text.queries)

        for exchange in decoder.exchanges:
            exchange.pixels_read_text.scale.fill_(1.0)
        one_way = decoder(maps, text)
        assert not torch.allclose(one_way.mask_features, without.mask_features, atol=1e-2)
        assert torch.equal(one_way.text_queries, text.queries)
        for exchange in decoder.exchanges:
            exchange.text_reads_pixels.scale.fill_(1.0)
        assert not torch.allclose(decoder(maps, text).text_queries, text.queries, atol=1e-2)


def test_recomputed_layers_give_the_same_from_fewer_kept_tensors():
    results, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        decoder = DeformablePixelDecoder(
            INPUT_SHAPE, dim=32, layers=3, num_heads=4, feedforward=32, recompute=recompute
        )
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            loss = decoder(features(), text_queries()).mask_features.square().mean()
        loss.backward()
        results.append((loss.detach(), [p.grad for p in decoder.layers.parameters()]))
        kept.append(sum(sizes))
    torch.testing.assert_close(results[1], results[0])
    assert kept[1] < 0.6 * kept[0]
