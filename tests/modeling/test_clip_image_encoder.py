import cv2
import pytest
import torch
from torch.nn import functional as F

from hiervl.modeling.clip import load_clip
from hiervl.modeling.clip_image_encoder import MAPS, ClipImageEncoder, DetailStem
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.utils.errors import UserError


def dense_embedding(visual, images, dense):
    """Written from MaskCLIP's description: in the last block every patch attends to itself alone; then the final norm
    and the projection. A hook on open_clip's own pass gives what enters that block."""
    last = visual.transformer.resblocks[-1]
    entering = []
    handle = last.register_forward_pre_hook(
        lambda module, args, kwargs: entering.append((args, kwargs)), with_kwargs=True
    )
    visual(images)
    handle.remove()
    args, kwargs = entering[0]
    tokens = (args[0] if args else kwargs["q_x"])[:, 1:]  # without the class token
    batch, count, width = tokens.shape
    # One token a sequence: softmax over a single key is 1, so that open_clip's own attention is its value path.
    alone = tokens.reshape(batch * count, 1, width)
    if dense == "maskclip":
        out = last(alone)
    else:
        normed = last.ln_1(alone)
        out = last.attn(normed, normed, normed, need_weights=False)[0]
    dense = F.normalize(visual.ln_post(out.view(batch, count, width)) @ visual.proj, dim=-1)
    height, width = images.shape[2] // visual.patch_size[0], images.shape[3] // visual.patch_size[1]
    return dense.transpose(1, 2).reshape(batch, -1, height, width)


def randomize(visual):
    """open_clip starts biases at 0 and norms at 1, which would hide a missing one."""
    with torch.no_grad():
        for name, parameter in visual.named_parameters():
            if parameter.dim() == 1 and name != "class_embedding":
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("name, dense", [("tiny", "maskclip"), ("tiny", "value"), ("ViT-B-16-quickgelu", "maskclip")])
def test_embeddings_equal_open_clip(name, dense, clip_file):
    torch.manual_seed(0)
    clip, *_ = load_clip(clip_file if name == "tiny" else name, "")
    clip.eval()
    randomize(clip.visual)
    last = len(clip.visual.transformer.resblocks) - 1
    encoder = ClipImageEncoder(clip.visual, blocks=(0, 1, 2, last), num_prompts=0, dense=dense).eval()
    images = torch.randn(2, 3, *clip.visual.image_size)
    with torch.no_grad():
        out = encoder(images)
        expected = clip.encode_image(images, normalize=True)
        torch.testing.assert_close(out["pooled_embedding"], expected, atol=1e-5, rtol=0)
        by_open_clip = dense_embedding(clip.visual, images, dense)
        torch.testing.assert_close(out["dense_embedding"], by_open_clip, atol=1e-5, rtol=0)
        assert torch.equal(encoder.dense_embedding(images), out["dense_embedding"])


def test_dense_embedding_is_one_of_two(make_network):
    by_default = make_network().backbone
    assert by_default.dense == "maskclip"
    with pytest.raises(UserError, match="MODEL.CLIP.DENSE is one of maskclip, value, not 'mean'"):
        make_network("MODEL.CLIP.DENSE", "mean")


def test_frozen_copy_has_the_dense_embedding_of_its_encoder(make_network):
    images = torch.randn(1, 3, 64, 64)
    found = []
    for dense in ("maskclip", "value"):
        backbone = make_network("MODEL.CLIP.DENSE", dense, "MODEL.CLIP.VISUAL_PROMPTS", 0).backbone.eval()
        found.append(FrozenClip(backbone, 100.0).embed(images).dense)
        torch.testing.assert_close(found[-1], backbone(images)["dense_embedding"])
    assert not torch.allclose(*found, atol=0.1)


def test_maps_have_the_announced_channels_and_strides(clip):
    encoder = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), num_prompts=3).eval()
    out = encoder(torch.randn(1, 3, 48, 112))
    for name, spec in encoder.output_shape().items():
        assert out[name].shape == (1, spec.channels, 48 / spec.stride, 112 / spec.stride)
    assert [spec.stride for spec in encoder.output_shape().values()] == [2, 4, 8, 16]
    assert out["dense_embedding"].shape == (1, 32, 6, 14)


def test_position_embedding_keeps_rows_and_columns_apart(clip):
    """On a grid twice as wide, an embedding that tells the row stays constant along the row."""
    visual = clip[0].visual
    with torch.no_grad():
        rows = torch.arange(8.0)[:, None].expand(8, 8).reshape(64, 1)
        visual.positional_embedding[1:] = rows
        visual.positional_embedding[0] = -5.0
    encoder = ClipImageEncoder(visual, blocks=(0, 1, 2, 3), num_prompts=0)
    resized = encoder._position_embedding((8, 16))
    assert (resized[0] == -5.0).all()
    torch.testing.assert_close(resized[1:], rows.reshape(8, 8)[:, :1].expand(8, 16).reshape(128, 1).expand(-1, 64))


@pytest.mark.parametrize("grid", [(8, 16), (5, 7), (16, 12)])
def test_position_embedding_of_another_grid_is_resized_bicubically(clip, resize_by_opencv, grid):
    torch.manual_seed(0)
    encoder = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), num_prompts=0)
    learnt = clip[0].visual.positional_embedding.detach()
    torch.nn.init.normal_(learnt)
    resized = resize_by_opencv(learnt[1:].T.view(-1, 8, 8), grid, cv2.INTER_CUBIC)
    expected = torch.cat((learnt[:1], resized.flatten(1).T))
    torch.testing.assert_close(encoder._position_embedding(grid), expected, atol=1e-4, rtol=0)
    assert torch.equal(encoder._position_embedding((8, 8)), learnt)  # its own


def test_details_of_patches_of_14_pixels_are_resized_about_the_centers_of_pixels(resize_by_opencv):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 28, 56)
    stem = DetailStem(14, (6,))
    with torch.no_grad():
        expected = resize_by_opencv(stem.outputs[0](stem.layers(images)), (8, 16))
        torch.testing.assert_close(stem(images, [(8, 16)])[0], expected, atol=1e-5, rtol=1e-5)


def test_visual_prompts_change_the_image_and_are_cut_out_again(clip):
    """They change every map and no map's size: the patches are found behind them."""
    images = torch.randn(1, 3, 64, 64)
    with_prompts = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), num_prompts=3).eval()
    without = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), num_prompts=0).eval()
    without.load_state_dict(with_prompts.state_dict(), strict=False)
    with torch.no_grad():
        changed, plain = with_prompts(images), without(images)
    for name in plain:
        assert changed[name].shape == plain[name].shape
        assert not torch.allclose(changed[name], plain[name], atol=1e-5)


@pytest.mark.parametrize("trainable", ["all", "attention", "none"])
def test_what_is_trained(clip, trainable):
    encoder = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), num_prompts=1, trainable=trainable)
    trained = {name for name, parameter in encoder.visual.named_parameters() if parameter.requires_grad}
    everything = {name for name, _ in encoder.visual.named_parameters()}
    attention = {name for name in everything if ".attn." in name or name == "positional_embedding"}
    assert len(attention) == 4 * 4 + 1
    assert trained == {"all": everything, "attention": attention, "none": set()}[trainable]
    assert encoder.visual_prompts.requires_grad


@pytest.mark.parametrize("blocks", [(0, 1, 2), (0, 2, 1, 3), (0, 1, 2, 4), (-1, 1, 2, 3)])
def test_refuses_blocks_that_are_not_there(clip, blocks):
    with pytest.raises(UserError, match="MODEL.CLIP.BLOCKS"):
        ClipImageEncoder(clip[0].visual, blocks=blocks)


@pytest.mark.parametrize("patch_size, fits", [(8, True), (14, False), (16, True), (32, True)])
def test_detail_stem_gives_the_finest_maps(patch_size, fits):
    """Strides of powers of two come from the convolutions, patches of 14 pixels (stride 3.5) by interpolation."""
    images = torch.randn(1, 3, 2 * patch_size, 4 * patch_size)
    stem = DetailStem(patch_size, (6, 12))
    assert (stem.layers(images).shape[2:] == (8, 16)) == fits
    shapes = [details.shape for details in stem(images, ((8, 16), (4, 8), (2, 4)))]
    assert shapes == [(1, 6, 8, 16), (1, 12, 4, 8)]


@pytest.mark.parametrize("count", [1, 4])
def test_detail_stem_adds_to_the_finest_maps_and_can_be_switched_off(clip, count):
    """The other maps and the embeddings, which CLIP's text is compared with, know nothing of it."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    with_stem = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), detail_maps=count).eval()
    without = ClipImageEncoder(clip[0].visual, blocks=(0, 1, 2, 3), detail_maps=0).eval()
    without.load_state_dict(with_stem.state_dict(), strict=False)
    assert not any("detail" in name for name, _ in without.named_parameters())
    with torch.no_grad():
        ours, theirs = with_stem(images), without(images)
        details = with_stem.detail_stem(images, [ours[name].shape[2:] for name in MAPS])
    for name, detail in zip(MAPS, details, strict=False):
        assert detail.abs().max() > 0
        torch.testing.assert_close(ours[name] - detail, theirs[name])
    for name in (*MAPS[count:], "dense_embedding", "pooled_embedding"):
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize(
    "outputs",
    [lambda encoder, images: encoder(images).values(), lambda encoder, images: encoder.embeddings(images)],
    ids=["all", "embeddings"],
)
def test_recomputed_blocks_give_the_same_gradients_from_fewer_kept_tensors(clip, outputs):
    visual = clip[0].visual
    for block in visual.transformer.resblocks:  # random numbers, which the second computation must meet again
        block.mlp = torch.nn.Sequential(block.mlp, torch.nn.Dropout(0.5))
    images = torch.randn(2, 3, 64, 96)
    results, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = ClipImageEncoder(visual, blocks=(0, 1, 2, 3), num_prompts=3, trainable="all", recompute=recompute)
        encoder.train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            loss = sum(out.square().sum() for out in outputs(encoder, images))
        encoder.zero_grad(set_to_none=True)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients, torch.rand(1).item()))
        kept.append(sum(sizes))
    (loss, gradients, drawn), (again, recomputed, drawn_again) = results
    assert (loss, drawn) == (pytest.approx(again), drawn_again)
    assert gradients.keys() == recomputed.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)
    assert kept[1] < 0.6 * kept[0]
