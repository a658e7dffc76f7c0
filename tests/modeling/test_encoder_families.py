"""Every family computes what open_clip computes; its dense embedding is the one that docs/encoders.md names."""

import copy
import json
import socket

import open_clip
import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from torch.nn import functional as F

from hiervl.config.files import SHIPPED
from hiervl.engine.run_config import load_config
from hiervl.modeling import encoders, vision_encoder
from hiervl.modeling.clip import load_clip
from hiervl.modeling.clip_image_encoder import ClipImageEncoder
from hiervl.modeling.convolutional_encoder import ConvolutionalEncoder, ResNetEncoder
from hiervl.modeling.encoders import check_clip, encoder_class
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.modeling.text_encoder import PromptedTextEncoder
from hiervl.modeling.timm_vit_encoder import TimmVitEncoder
from hiervl.modeling.vision_encoder import build_vision_encoder, check_vision_encoder
from hiervl.utils.errors import UserError
from tests.families import CONTEXT, FAMILIES, shake, write_clip, write_tokenizer

TEXTS = ["cat", "potted plant", "traffic light"]
WITHOUT_PROMPTS = {"vit": {"num_prompts": 0}, "eva": {"num_prompts": 0}, "siglip": {"num_prompts": 0},
                   "gap": {"num_prompts": 0}}  # fmt: skip
VITS = list(WITHOUT_PROMPTS)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """→ function from a family to its CLIP, in evaluation mode, and tokens, each made once."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            tokenizer = write_tokenizer(folder) if family == "siglip" else ""
            clip, tokens = load_clip(write_clip(family, folder), "", tokenizer)
            shake(clip)
            made[family] = clip.eval(), tokens, tokenizer
        clip, tokens, tokenizer = made[family]
        return copy.deepcopy(clip), tokens, tokenizer

    return make


def encoder_of(clip, family, **options):
    return encoder_class(clip.visual, family)(clip.visual, **{**WITHOUT_PROMPTS.get(family, {}), **options}).eval()


def native_images(family):
    size = FAMILIES[family][0]["image_size"]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_pooled_embedding_is_that_of_open_clip(loaded, family):
    clip, *_ = loaded(family)
    images = native_images(family)
    expected = clip.encode_image(images, normalize=True)
    encoder = encoder_of(copy.deepcopy(clip), family)
    out = encoder(images)
    torch.testing.assert_close(out["pooled_embedding"], expected, atol=1e-5, rtol=0)
    assert out["pooled_embedding"].shape[1] == encoder.embed_dim
    frozen = FrozenClip(encoder, 100.0).embed(images, pooled=True)
    torch.testing.assert_close(frozen.pooled, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(frozen.dense, out["dense_embedding"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_images_of_any_size_give_the_shapes_that_are_promised(loaded, family):
    encoder = encoder_of(loaded(family)[0], family, **({"num_prompts": 3} if family in VITS else {}))
    unit = encoder.size_divisibility
    out = encoder(torch.randn(1, 3, 2 * unit, 3 * unit))
    for name, spec in encoder.output_shape().items():
        assert out[name].shape == (1, spec.channels, 2 * unit / spec.stride, 3 * unit / spec.stride)
    grid = (2 * unit // encoder.dense_stride, 3 * unit // encoder.dense_stride)
    assert out["dense_embedding"].shape == (1, encoder.embed_dim, *grid)
    torch.testing.assert_close(out["dense_embedding"].norm(dim=1), torch.ones(1, *grid))


@pytest.mark.parametrize("family", VITS)
def test_every_map_ends_with_its_own_block(loaded, family):
    """The last block that a map depends on."""
    encoder = encoder_of(loaded(family)[0], family, trainable="all")
    visual = encoder.visual
    blocks = visual.transformer.resblocks if family == "vit" else visual.trunk.blocks
    out = encoder(native_images(family)[:1])
    for name, index in zip(("res2", "res3", "res4", "res5"), encoder.blocks, strict=True):
        loss = (out[name] * torch.randn_like(out[name])).sum()
        weights = [next(block.parameters()) for block in blocks]
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        assert max(i for i, gradient in enumerate(gradients) if gradient is not None) == index, name


@pytest.mark.parametrize("family", ["siglip", "mobileclip", "eva", "resnet"])
@torch.no_grad()
def test_text_embedding_is_that_of_open_clip(loaded, family):
    """Whole sequences by open_clip's own tokenizer; pooled at the end token or the last place, masked or not."""
    clip, tokens, tokenizer = loaded(family)
    encoder = PromptedTextEncoder(clip, tokens, [[text] for text in TEXTS], num_prompts=0).eval()
    tokenize = open_clip.SimpleTokenizer(context_length=CONTEXT)
    if tokenizer:
        tokenize = open_clip.tokenizer.HFTokenizer(tokenizer, context_length=CONTEXT, clean="canonicalize")
    expected = clip.encode_text(tokenize([f"a photo of a {text}." for text in TEXTS]), normalize=True)
    torch.testing.assert_close(encoder().text_embeddings, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["siglip", "mobileclip", "resnet"])
def test_every_learnable_prompt_changes_the_text(loaded, family):
    clip, tokens, _ = loaded(family)
    encoder = PromptedTextEncoder(clip, tokens, [[text] for text in TEXTS], num_prompts=5, prompt_init="a photo")
    (encoder.train()().text_embeddings * torch.randn(3, 1)).square().sum().backward()
    assert encoder.prompts.grad.abs().sum(1).min() > 0
    with torch.no_grad():  # and prompts that are words are that text
        whole = PromptedTextEncoder(clip, tokens, [[text] for text in TEXTS], num_prompts=0, template="a photo {}.")
        words = len(tokens.encode("a photo"))
        same = PromptedTextEncoder(
            clip, tokens, [[text] for text in TEXTS], num_prompts=words, prompt_init="a photo"
        ).eval()()
        torch.testing.assert_close(same.text_embeddings, whole.eval()().text_embeddings, atol=1e-5, rtol=0)


@torch.no_grad()
def test_dense_embedding_of_a_class_token_is_its_last_block_on_lone_patches(loaded):
    """By hand: a mask under which every token attends to itself alone."""
    visual = loaded("eva")[0].visual
    images = native_images("eva")
    trunk = visual.trunk
    tokens, rotation = trunk._pos_embed(trunk.patch_embed(images))
    *first, last = trunk.blocks
    for block in first:
        tokens = block(tokens, rope=rotation)
    lone = torch.full((tokens.shape[1],) * 2, float("-inf")).fill_diagonal_(0)
    tokens = trunk.norm(last(tokens, rope=rotation, attn_mask=lone))[:, 1:]
    expected = F.normalize(visual.head(trunk.head(trunk.fc_norm(tokens))), dim=-1)
    dense = encoder_of(loaded("eva")[0], "eva").dense_embedding(images)
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_dense_embedding_of_an_encoder_without_language_is_the_head_on_its_last_patches(make_cfg):
    """By hand: what the new head is trained on."""
    trunk = ("MODEL.ENCODER.NAME", "test_vit", "MODEL.ENCODER.PRETRAINED", "")
    encoder = build_vision_encoder(make_cfg(*trunk, "MODEL.CLIP.VISUAL_PROMPTS", 0)).eval()
    images = torch.randn(2, 3, 160, 160)
    trunk, head = encoder.visual.trunk, encoder.visual.head
    expected = F.normalize(head(trunk.forward_features(images)[:, trunk.num_prefix_tokens :]), dim=-1)
    dense = encoder.dense_embedding(images)
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in head.parameters())


@torch.no_grad()
def test_dense_embedding_of_an_attention_pool_is_its_value_path(loaded):
    visual = loaded("siglip")[0].visual
    images = native_images("siglip")
    pool, tokens = visual.trunk.attn_pool, visual.trunk.forward_features(images)[:, visual.trunk.num_prefix_tokens :]
    value = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])
    expected = F.normalize(visual.trunk.fc_norm(value + pool.mlp(pool.norm(value))), dim=-1)
    dense = encoder_of(loaded("siglip")[0], "siglip").dense_embedding(images)
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=0)

    resnet = loaded("resnet")[0].visual
    images = native_images("resnet")
    pool = resnet.attnpool
    places = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(resnet.stem(images))))).flatten(2).transpose(1, 2)
    expected = F.normalize(pool.c_proj(pool.v_proj(places + pool.positional_embedding[1:])), dim=-1)
    dense = encoder_of(loaded("resnet")[0], "resnet").dense_embedding(images)
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["eva", "siglip"])
@torch.no_grad()
def test_visual_prompts_change_the_image_and_have_no_place_in_it(loaded, family):
    """Their tokens are in no map, the patches keep their own rotation, and a frozen copy is without them."""
    images = native_images(family)
    plain = encoder_of(loaded(family)[0], family)
    prompted = encoder_of(loaded(family)[0], family, num_prompts=3)
    assert prompted(images)["res4"].shape == plain(images)["res4"].shape
    assert not torch.allclose(prompted(images)["pooled_embedding"], plain(images)["pooled_embedding"], atol=1e-4)
    frozen = FrozenClip(prompted, 100.0).embed(images, pooled=True)
    torch.testing.assert_close(frozen.pooled, plain(images)["pooled_embedding"], atol=1e-5, rtol=0)
    if family == "eva":
        assert prompted.visual.trunk.blocks[0].attn.num_prefix_tokens == 4


@pytest.mark.parametrize("family", ["eva", "siglip"])
def test_trainable_parts_of_timms_vits(loaded, family):
    trained = {}
    for trainable, frozen_stages in (("all", 0), ("attention", 0), ("none", 0), ("all", 2)):
        encoder = encoder_of(loaded(family)[0], family, trainable=trainable, frozen_stages=frozen_stages)
        names = {name for name, parameter in encoder.visual.named_parameters() if parameter.requires_grad}
        trained[trainable, frozen_stages] = names
    everything = {name for name, _ in encoder.visual.named_parameters()}
    assert trained["all", 0] == everything and not trained["none", 0]
    attention = {name for name in everything if ".attn." in name or name.endswith("pos_embed")}
    assert trained["attention", 0] == attention and any("qkv" in name or "q_proj" in name for name in attention)
    frozen = everything - trained["all", 2]
    stem = ("patch_embed.", "cls_token", "pos_embed", "reg_token", "norm_pre.", "blocks.0.", "blocks.1.")
    assert all(name.startswith(tuple(f"trunk.{part}" for part in stem)) for name in frozen), sorted(frozen)
    assert any("patch_embed" in name for name in frozen) and any("blocks.1." in name for name in frozen)
    assert not any("blocks.2." in name or name.startswith("trunk.norm") or "attn_pool" in name for name in frozen)


@pytest.mark.parametrize(
    "name, words",
    [
        ("roberta-ViT-B-32", "its text encoder is a model of transformers .roberta-base."),
        ("coca_ViT-B-32", "its text encoder .CoCa."),
        ("swin_base_patch4_window7_224", "cannot read its image encoder"),
        ("ViT-L-14-CLIPA", "cannot read its image encoder"),
        ("hf-hub:someone/model", "neither an open_clip model"),
        ("no_such_model", "neither an open_clip model"),
    ],
)
def test_unsupported_models_are_refused_before_any_download(monkeypatch, name, words):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    with pytest.raises(UserError, match=words) as error:
        check_clip(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "encoder, names",
    {
        ClipImageEncoder: ["ViT-L-14"],
        TimmVitEncoder: ["EVA02-B-16", "ViT-B-16-SigLIP2", "PE-Core-B-16", "ViTamin-S"],
        ConvolutionalEncoder: ["convnext_base_w", "MobileCLIP2-S2", "imagenet-lite"],
        ResNetEncoder: ["RN50"],
    }.items(),
)
def test_models_that_open_clip_knows_are_taken(monkeypatch, encoder, names):
    """Each by the class that reads its image tower, and without its weights."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    chosen = []
    monkeypatch.setattr(encoders, "encoder_class", lambda *tower: chosen.append(encoder_class(*tower)))
    for name in names:
        check_clip(name)
    assert chosen == [encoder] * len(names)


def test_a_tokenizer_that_cannot_be_had_is_one_sentence(tmp_path):
    name = write_clip("siglip", tmp_path)
    with pytest.raises(UserError, match="MODEL.CLIP.TOKENIZER: there is no folder"):
        load_clip(name, "", str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="give their folder as MODEL.CLIP.TOKENIZER") as error:
        load_clip(name, "", str(tmp_path / "empty"))
    assert "\n" not in str(error.value)


def test_weights_of_an_encoder_of_timm_are_fetched_or_read(monkeypatch, tmp_path):
    asked = []

    def create_model(name, **options):
        asked.append((name, options))
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", create_model)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    for pretrained in (vision_encoder.FETCHED, str(file)):
        assert vision_encoder._pretrained_trunk("resnet18", pretrained)
    given = {"pretrained": True, "num_classes": 0}
    overlay = {"pretrained_cfg_overlay": {"file": str(file)}}
    assert asked == [("resnet18", given), ("resnet18", {**given, **overlay})]


def test_the_weights_that_a_config_names_are_read(make_cfg):
    cfg = make_cfg("MODEL.ENCODER.NAME", "test_vit", "MODEL.ENCODER.PRETRAINED", "nowhere.pth")
    with pytest.raises(UserError, match="MODEL.ENCODER.PRETRAINED: no weights at 'nowhere.pth'"):
        build_vision_encoder(cfg)


def test_a_trunk_that_timm_does_not_know_is_one_sentence(tmp_path):
    path = tmp_path / "strange.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": {"timm_model_name": "no_such_net"}, "text_cfg": {}}))
    with pytest.raises(UserError, match="its image encoder cannot be built"):
        check_clip(str(path))


@pytest.mark.parametrize("delta", sorted(path.stem for path in (SHIPPED / "encoders").glob("*.yaml")))
def test_shipped_deltas_name_what_exists(monkeypatch, delta):
    """Their encoder can be read, its weights are known by that name, and the crop is a multiple of its patches."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    cfg = load_config(str(SHIPPED / "pascal_92.yaml"), (), [str(SHIPPED / "encoders" / f"{delta}.yaml")])
    clip, encoder = cfg.MODEL.CLIP, cfg.MODEL.ENCODER
    check_clip(clip.NAME)
    assert clip.PRETRAINED in open_clip.list_pretrained_tags_by_model(clip.NAME)
    if encoder.NAME:
        check_vision_encoder(encoder.NAME)
        assert encoder.PRETRAINED == "timm" and get_pretrained_cfg(encoder.NAME).hf_hub_id
    patch = 14 if "patch14" in encoder.NAME else 16
    assert cfg.INPUT.CROP_SIZE % patch == 0 and cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER <= 1e-5


@pytest.mark.parametrize(
    "name, words",
    [("no_such_net", "not a model of timm"), ("hf-hub:a/b", "not a model of timm"), ("gmlp_s16_224", "neither")],
)
def test_vision_encoders_that_cannot_be_read_are_refused(monkeypatch, name, words):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    with pytest.raises(UserError, match=words):
        check_vision_encoder(name)
