import pytest
import torch

from hiervl.modeling.pixel_decoder import PixelFeatures
from hiervl.modeling.query_decoder import (
    DualQueryDecoder,
    MaskedAttentionLayer,
    _resize,
    _visible_pixels,
    semantic_map,
)
from hiervl.modeling.semantic_queries import TextQueries


def test_layer_equals_mask2former():
    """With position embeddings, a boolean mask that differs between images, and no bias on the rows."""
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    from transformers import Mask2FormerConfig

    torch.manual_seed(0)
    config = Mask2FormerConfig(
        hidden_dim=32,
        num_attention_heads=4,
        dim_feedforward=48,
        dropout=0.0,
        pre_norm=False,
        backbone_config={"model_type": "swin"},
    )
    theirs = mask2former.Mask2FormerMaskedAttentionDecoderLayer(config)
    ours = MaskedAttentionLayer(32, 4, 48)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    copied = {
        "cross_attn_layer_norm": ours.norm1,
        "self_attn": ours.self_attn,
        "self_attn_layer_norm": ours.norm2,
        "fc1": ours.linear1,
        "fc2": ours.linear2,
        "final_layer_norm": ours.norm3,
        "cross_attn.out_proj": ours.cross_attn.out_proj,
    }
    state = {f"{name}.{key}": value for name, part in copied.items() for key, value in part.state_dict().items()}
    projections = (ours.cross_attn.q_proj, ours.cross_attn.k_proj, ours.cross_attn.v_proj)
    state["cross_attn.in_proj_weight"] = torch.cat([projection.weight for projection in projections])
    state["cross_attn.in_proj_bias"] = torch.cat([projection.bias for projection in projections])
    theirs.load_state_dict(state)

    queries, query_position = torch.randn(2, 6, 32), torch.randn(2, 6, 32)
    pixels, pixel_position = torch.randn(2, 15, 32), torch.randn(2, 15, 32)
    may_see = torch.rand(2, 1, 6, 15) > 0.5

    expected = theirs(  # sequence first; True in its mask hides a pixel
        queries.transpose(0, 1),
        level_index=0,
        position_embeddings=[pixel_position.transpose(0, 1)],
        query_position_embeddings=query_position.transpose(0, 1),
        encoder_hidden_states=[pixels.transpose(0, 1)],
        encoder_attention_mask=~may_see.expand(-1, 4, -1, -1).flatten(0, 1),
    )[0].transpose(0, 1)
    found = ours(queries, query_position, pixels, pixel_position, may_see, None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_queries_see_their_own_mask_or_everything():
    """Row by row: its mask from a logit of 0 on; a row whose mask is empty sees all pixels."""
    masks = torch.tensor([[2.0, -3.0, 0.0, -1.0], [-2.0, 3.0, -1.0, 1.0], [-1.0, -2.0, -0.1, -4.0]]).view(1, 3, 2, 2)
    seen = _visible_pixels(masks)
    assert seen.shape == (1, 1, 3, 4)
    assert seen[0, 0].tolist() == [[True, False, True, False], [False, True, False, True], [True] * 4]


def decode(mask_prior, layers=2):
    """A small decoder: text queries of the classes 2, 0, 2 (the last one is padding) and two instance queries. Also
    returns the arguments of every layer call."""
    torch.manual_seed(0)
    decoder = DualQueryDecoder(3, 8, dim=8, layers=layers, num_heads=2, feedforward=8, num_instance_queries=2)
    classes, valid = torch.tensor([[2, 0, 2]]), torch.tensor([[True, True, False]])
    log_r = torch.tensor([[0.0, -1.0, -2.0]])
    text = TextQueries(torch.randn(1, 3, 8), torch.randn(1, 3, 8), classes, valid, log_r, torch.zeros(1, 3))
    sizes = ((2, 2), (4, 4), (8, 8))
    pixels = PixelFeatures([torch.randn(1, 8, *size) for size in sizes], torch.randn(1, 8, 16, 16), text.queries)
    calls = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda module, args: calls.append(args))
    with torch.no_grad():
        return decoder(pixels, text, mask_prior, every_layer=True), calls


def test_prior_is_added_to_the_masks_of_its_class():
    """To all rows that the class owns and to no instance query; before any layer, its value is all that changes."""
    prior = torch.tensor([1.5, -20.0, 40.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    plain, _ = decode(None)
    primed, calls = decode(prior)
    added = torch.tensor([40.0, 1.5, 40.0, 0.0, 0.0]).view(1, 5, 1, 1).expand(1, 5, 16, 16)
    torch.testing.assert_close(primed.pred_masks[0] - plain.pred_masks[0], added, atol=1e-4, rtol=0)
    may_see = calls[0][4]  # 40 is above every mask logit: the rows of class 2 see all
    assert may_see[0, 0, 0].all()
    # A map is read at its own resolution: the left half of the picture belongs to class 2 alone.
    left = torch.full((1, 3, 4, 4), -40.0)
    left[:, 2, :, :2] = 40.0
    _, calls = decode(left)
    assert calls[0][4][0, 0, 0].view(2, 2).tolist() == [[True, False]] * 2
    assert calls[1][4][0, 0, 0].view(4, 4).tolist() == [[True, True, False, False]] * 4
    assert calls[0][4][0, 0, 1].all()  # class 0 has an empty mask


def test_recomputed_layers_give_the_same_from_fewer_kept_tensors():
    results, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        decoder = DualQueryDecoder(3, 16, dim=32, layers=3, num_heads=4, feedforward=64, recompute=recompute)
        maps = [torch.randn(2, 32, side, side) for side in (2, 4, 8)]
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            found = decoder(PixelFeatures(maps, torch.randn(2, 32, 16, 16), None), None)
            loss = found.pred_masks[-1].square().mean() + found.pred_logits[-1].square().mean()
        loss.backward()
        results.append((loss.detach(), [p.grad for p in decoder.layers.parameters()]))
        kept.append(sum(sizes))
    torch.testing.assert_close(results[1], results[0])
    assert kept[1] < 0.6 * kept[0]


def test_semantic_map_by_hand():
    """Two rows, two classes, one pixel: S_c = Σ_i p_i(c)·M_i; "no object" claims nothing, padded rows neither."""
    log = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2], [0.9, 0.05, 0.05]]).log()
    masks = torch.tensor([0.8, 0.5, 0.9]).logit().view(1, 3, 1, 1)
    valid = torch.tensor([[True, True, False]])
    found = semantic_map(log.unsqueeze(0), masks, valid).flatten()
    torch.testing.assert_close(found, torch.tensor([0.5 * 0.8 + 0.1 * 0.5, 0.25 * 0.8 + 0.7 * 0.5]))


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (2, 3), (5, 7), (8, 11), (7, 12), (32, 48), (16, 12)])
def test_resizing_equals_bilinear_interpolation(size):
    """By whole even factors and by others, down and up."""
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(_resize(maps, size), expected)
