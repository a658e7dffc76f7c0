"""Mask2Former's decoders become HierVL's: the outputs are the same, and weights that do not fit are named."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from hiervl.modeling.mask2former_weights import convert, load_decoder_weights
from hiervl.modeling.pixel_decoder import DeformablePixelDecoder
from hiervl.modeling.query_decoder import DualQueryDecoder
from hiervl.utils.errors import UserError

CHANNELS = (8, 16, 32, 64)
CLASSES, QUERIES, DIM = 7, 5, 32


def decoders(channels=CHANNELS, classes=CLASSES, queries=QUERIES, text=False):
    """HierVL's two decoders in a network, with or without what HierVL adds."""
    torch.manual_seed(1)
    shapes = {f"res{i}": ShapeSpec(channels=c, stride=2**i) for i, c in zip((2, 3, 4, 5), channels)}
    sizes = {"dim": DIM, "num_heads": 4}
    network = nn.Module()
    network.pixel_decoder = DeformablePixelDecoder(
        shapes, layers=2, feedforward=48, text_reads_pixels=text, pixels_read_text=text, **sizes
    )
    network.query_decoder = DualQueryDecoder(
        classes, 16, layers=3, feedforward=64, num_instance_queries=queries, text_queries=text, align_head=text, **sizes
    )
    return network


@pytest.fixture(scope="module")
def theirs():
    """transformers' Mask2Former, small, every weight random."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    encoder = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=encoder,
        feature_size=DIM,
        mask_feature_size=DIM,
        hidden_dim=DIM,
        encoder_feedforward_dim=48,
        encoder_layers=2,
        decoder_layers=4,  # one of which is the prediction before the first
        num_attention_heads=4,
        dim_feedforward=64,
        num_queries=QUERIES,
        num_labels=CLASSES,
        output_auxiliary_logits=True,
    )
    network = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mask2former.bin"
    torch.save(theirs.state_dict(), path)
    return str(path)


@torch.no_grad()
def test_same_outputs_as_transformers(theirs, file):
    """Of every layer, on images of which no side is a power of two."""
    network = decoders().eval()
    loaded = load_decoder_weights(network, file)
    assert not loaded.unfit and loaded.kept == ["query_decoder.own_class_logit"]

    images = torch.randn(2, 3, 96, 160)
    expected = theirs(pixel_values=images)
    maps = theirs.model.pixel_level_module.encoder(images).feature_maps
    features = {f"res{i}": feature for i, feature in zip((2, 3, 4, 5), maps)}
    pixels = network.pixel_decoder(features, None)
    torch.testing.assert_close(pixels.mask_features, expected.pixel_decoder_last_hidden_state, rtol=1e-4, atol=1e-4)
    ours = network.query_decoder(pixels, None, every_layer=True)
    layers = [*expected.auxiliary_logits, {k: expected[k] for k in ("class_queries_logits", "masks_queries_logits")}]
    assert len(ours.pred_logits) == len(layers) == 4
    for logits, masks, layer in zip(ours.pred_logits, ours.pred_masks, layers):
        torch.testing.assert_close(logits, layer["class_queries_logits"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(masks, layer["masks_queries_logits"], rtol=1e-3, atol=1e-3)


def official_names(pixel_prefix="sem_seg_head.pixel_decoder.", query="query_feat"):
    """Names of the official code and their shapes, with two layers of pixels and three of queries."""
    d, p, q = DIM, pixel_prefix, "sem_seg_head.predictor."

    def linear(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name):
        return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

    def attention(name):
        return {
            f"{name}.in_proj_weight": (3 * d, d),
            f"{name}.in_proj_bias": (3 * d,),
            **linear(f"{name}.out_proj", d, d),
        }

    shapes = {f"{p}transformer.level_embed": (3, d), **linear(f"{p}mask_features", d, d)}
    shapes[f"{p}mask_features.weight"] = (d, d, 1, 1)
    for i, channels in enumerate(CHANNELS[:0:-1]):
        shapes |= {f"{p}input_proj.{i}.0.weight": (d, channels, 1, 1), f"{p}input_proj.{i}.0.bias": (d,)}
        shapes |= norm(f"{p}input_proj.{i}.1")
    shapes |= {f"{p}adapter_1.weight": (d, CHANNELS[0], 1, 1), **norm(f"{p}adapter_1.norm")}
    shapes |= {f"{p}layer_1.weight": (d, d, 3, 3), **norm(f"{p}layer_1.norm")}
    for i in range(2):
        layer = f"{p}transformer.encoder.layers.{i}."
        shapes |= linear(f"{layer}self_attn.sampling_offsets", 96, d) | linear(
            f"{layer}self_attn.attention_weights", 48, d
        )
        shapes |= linear(f"{layer}self_attn.value_proj", d, d) | linear(f"{layer}self_attn.output_proj", d, d)
        shapes |= linear(f"{layer}linear1", 48, d) | linear(f"{layer}linear2", d, 48)
        shapes |= norm(f"{layer}norm1") | norm(f"{layer}norm2")
    for i in range(3):
        shapes |= attention(f"{q}transformer_cross_attention_layers.{i}.multihead_attn")
        shapes |= attention(f"{q}transformer_self_attention_layers.{i}.self_attn")
        shapes |= linear(f"{q}transformer_ffn_layers.{i}.linear1", 64, d)
        shapes |= linear(f"{q}transformer_ffn_layers.{i}.linear2", d, 64)
        for kind in ("cross_attention", "self_attention", "ffn"):
            shapes |= norm(f"{q}transformer_{kind}_layers.{i}.norm")
        shapes |= linear(f"{q}mask_embed.layers.{i}", d, d)
    shapes |= norm(f"{q}decoder_norm") | linear(f"{q}class_embed", CLASSES + 1, d)
    shapes |= {f"{q}{name}.weight": (QUERIES, d) for name in (query, "query_embed")}
    return shapes | {f"{q}level_embed.weight": (3, d)}


@pytest.mark.parametrize("form", [(), ("sem_seg_head.", "static_query")], ids=["published", "first version"])
def test_the_official_names_are_known(form, tmp_path):
    """In a pickle of arrays, as the model zoo has them; the encoder and the criterion are left aside."""
    rng = np.random.default_rng(0)
    weights = {name: rng.random(shape, dtype=np.float32) for name, shape in official_names(*form).items()}
    others = {"backbone.res2.0.conv1.weight": np.ones(3, np.float32), "criterion.empty_weight": np.ones(8, np.float32)}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": weights | others, "__author__": "third party"}))
    network = decoders()
    loaded = load_decoder_weights(network, str(path))
    assert not loaded.unfit and loaded.kept == ["query_decoder.own_class_logit"]

    own = network.state_dict()
    joint = weights["sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.in_proj_weight"]
    for place, letter in enumerate("qkv"):
        taken = own[f"query_decoder.layers.1.self_attn.{letter}_proj.weight"]
        np.testing.assert_array_equal(taken, joint[place * DIM : (place + 1) * DIM])
    for name, source in (
        ("layers.2.norm1.weight", "transformer_cross_attention_layers.2.norm.weight"),
        ("layers.2.norm2.weight", "transformer_self_attention_layers.2.norm.weight"),
        ("layers.2.norm3.weight", "transformer_ffn_layers.2.norm.weight"),
        ("instance_queries.weight", f"{form[1] if form else 'query_feat'}.weight"),
        ("instance_position.weight", "query_embed.weight"),
        ("map_embedding.weight", "level_embed.weight"),
    ):
        np.testing.assert_array_equal(own[f"query_decoder.{name}"], weights[f"sem_seg_head.predictor.{source}"])


def test_weights_that_do_not_fit_are_named_and_left_out(file, caplog):
    """Another encoder, other classes, fewer queries, and what HierVL adds."""
    network = decoders(channels=(24, 24, 24, 24), classes=3, queries=4, text=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with caplog.at_level("INFO"):
        loaded = load_decoder_weights(network, file)
    assert loaded.unfit == {
        "pixel_decoder.input_projections.0": "has 0.weight of 32×64×1×1 in place of 32×24×1×1",
        "pixel_decoder.input_projections.1": "has 0.weight of 32×32×1×1 in place of 32×24×1×1",
        "pixel_decoder.input_projections.2": "has 0.weight of 32×16×1×1 in place of 32×24×1×1",
        "pixel_decoder.lateral": "has 0.weight of 32×8×1×1 in place of 32×24×1×1",
        "query_decoder.instance_position": "has weight of 5×32 in place of 4×32",
        "query_decoder.instance_queries": "has weight of 5×32 in place of 4×32",
        "query_decoder.class_head": "has weight of 8×32 in place of 4×32",
    }
    assert loaded.kept == [
        "pixel_decoder.exchanges",
        "query_decoder.own_class_logit",
        "query_decoder.align_head",
    ]
    assert "pixel_decoder.layers (2)" in caplog.text and "query_decoder.class_head has weight of 8×32" in caplog.text
    expected = convert(torch.load(file, weights_only=True))
    for name, value in network.state_dict().items():
        is_kept = name.startswith((*loaded.unfit, *loaded.kept))
        assert torch.equal(value, before[name] if is_kept else expected[name]), name


def test_a_file_with_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Runs()}))
    with pytest.raises(UserError, match="carries code, which is not run"):
        load_decoder_weights(decoders(), str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"backbone.weight": torch.ones(2)}, "holds no pixel or query decoder of Mask2Former"),
        (
            {"class_predictor.weight": torch.ones(3, 99)},
            "nothing in .* fits, query_decoder.class_head for example has weight",
        ),
        (None, "there is no file"),
    ],
)
def test_a_file_of_no_use_is_one_sentence(tmp_path, weights, message):
    path = tmp_path / "weights.pth"
    if weights is not None:
        torch.save({"state_dict": weights}, path)
    with pytest.raises(UserError, match=f"MODEL.DECODER_WEIGHTS: .*{message}"):
        load_decoder_weights(decoders(), str(path))


def test_safetensors_are_read(theirs, tmp_path):
    from safetensors.torch import save_file

    save_file(
        {name: value.contiguous().clone() for name, value in theirs.state_dict().items()}, tmp_path / "a.safetensors"
    )
    assert not load_decoder_weights(decoders(), str(tmp_path / "a.safetensors")).unfit


def test_training_starts_from_them(world, options, tmp_path, monkeypatch):
    """Student and teacher; a resumed training does not ask for the file again."""
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer

    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    path = tmp_path / "weights.pth"
    torch.save({"model.transformer_module.decoder.layernorm.weight": torch.full((16,), 7.0),
                "model.transformer_module.decoder.layernorm.bias": torch.full((16,), 3.0)}, path)  # fmt: skip

    def start(*extra, resume=False):
        chosen = ("MODEL.DECODER_WEIGHTS", str(path), "TEST.PICTURES", "0", "SOLVER.MAX_ITER", "2", *extra)
        trainer = SemiSupervisedTrainer(prepare_config(load_config("", options(world, tmp_path / "out", *chosen))))
        trainer.resume_or_load(resume)
        return trainer

    trainer = start()
    for network in (trainer.student, trainer.step.teacher.network):
        assert torch.equal(network.query_decoder.norm.weight, torch.full((16,), 7.0))
    trainer.train()
    path.unlink()
    start("SOLVER.MAX_ITER", "3", resume=True)
    with pytest.raises(UserError, match="there is no file"):
        start()
    with pytest.raises(UserError, match="MODEL.WEIGHTS already contains decoders"):
        start("MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"))
    with pytest.raises(UserError, match="PixelClassifier has no Mask2Former decoders"):
        start("MODEL.META_ARCHITECTURE", "PixelClassifier")
