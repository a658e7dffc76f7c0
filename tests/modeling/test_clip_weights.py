"""CLIP's weights in files that open_clip does not read: the networks equal those of the files' own loaders."""

import json
import logging

import open_clip
import pytest
import torch
from open_clip.openai import load_openai_model

from hiervl.engine.run_config import load_config, prepare_config
from hiervl.modeling import clip_weights
from hiervl.modeling.clip import load_clip, name_of_weights
from hiervl.modeling.clip_weights import models_of
from hiervl.utils.errors import UserError

SIZES = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
}
PLAIN, QUICK = "hiervl_small", "hiervl_small-quickgelu"


@pytest.fixture(autouse=True, scope="module")
def models(tmp_path_factory):
    """A model that open_clip knows with GELU and with QuickGELU, as it knows ViT-B-16."""
    folder = tmp_path_factory.mktemp("models")
    for name, quick in ((PLAIN, False), (QUICK, True)):
        (folder / f"{name}.json").write_text(json.dumps({**SIZES, "quick_gelu": quick}))
        open_clip.add_model_config(folder / f"{name}.json")


def images_and_words(size=32):
    generator = torch.Generator().manual_seed(0)
    words = torch.zeros(2, 24, dtype=torch.long)
    words[:, :4] = torch.tensor([[49406, 320, 1125, 49407], [49406, 2368, 49407, 0]])
    return torch.randn(2, 3, size, size, generator=generator), words


@torch.no_grad()
def embeddings(clip):
    images, words = images_and_words()
    return clip.eval().encode_image(images), clip.encode_text(words)


def randomized(clip):
    """open_clip starts biases at 0 and norms at 1, which would hide that they were exchanged."""
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return clip


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """As OpenAI published: traced, all but norms and embeddings in half precision, three numbers among the buffers."""
    torch.manual_seed(0)
    model = randomized(open_clip.create_model(QUICK)).eval()
    for name, number in {"input_resolution": 32, "context_length": 24, "vocab_size": 49408}.items():
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(number))
    mask = model._buffers.pop("attn_mask")
    model.attn_mask = mask  # there it is a plain attribute, which no state dict has
    images, words = images_and_words()
    inputs = {"forward": (images, words), "encode_image": images, "encode_text": words}
    traced = torch.jit.trace_module(model, inputs)
    for name, parameter in traced.named_parameters():
        if not any(kept in name for kept in ("ln_", "embedding", "logit_scale")):
            parameter.data = parameter.data.half()
    path = tmp_path_factory.mktemp("openai") / "ViT-S-8.pt"
    torch.jit.save(traced, str(path))
    return str(path)


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel

    text, vision = SIZES["text_cfg"], SIZES["vision_cfg"]
    common = {"intermediate_size": 256, "num_attention_heads": 1, "hidden_size": 64}
    config = CLIPConfig(
        text_config={"num_hidden_layers": text["layers"], "max_position_embeddings": 24, "vocab_size": 49408,
                     "eos_token_id": 49407, **common},
        vision_config={"num_hidden_layers": vision["layers"], "image_size": 32, "patch_size": 8, **common},
        projection_dim=SIZES["embed_dim"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = randomized(CLIPModel(config)).eval()
    folder = tmp_path_factory.mktemp("transformers")
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder, model


@pytest.mark.parametrize("name", [PLAIN, QUICK])
def test_openai_archive_equals_open_clips_own_loading(archive, name):
    """Which runs the archive's code; and it is computed with QuickGELU, whatever the name says."""
    expected = load_openai_model(archive, precision="fp32", device="cpu")
    found = load_clip(name, archive)[0]
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys() and all(tensor.dtype == torch.float32 for tensor in ours.values())
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    for ours, theirs in zip(embeddings(found), embeddings(expected)):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_transformers_layout_equals_transformers(transformers_folder, file):
    folder, model = transformers_folder
    clip = load_clip(QUICK, str(folder / file))[0]
    images, words = images_and_words()
    with torch.no_grad():
        expected = (model.get_image_features(pixel_values=images), model.get_text_features(input_ids=words))
    for ours, theirs in zip(embeddings(clip), expected):
        theirs = getattr(theirs, "pooler_output", theirs)  # of newer versions
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert clip.logit_scale == model.logit_scale


def test_the_file_chooses_the_activation(archive, transformers_folder, tmp_path, caplog):
    folder, model = transformers_folder
    assert (
        name_of_weights("ViT-B-16", archive) == name_of_weights("ViT-B-16-quickgelu", archive) == "ViT-B-16-quickgelu"
    )
    with_gelu = tmp_path / "gelu"
    with_gelu.mkdir()
    (with_gelu / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with caplog.at_level(logging.WARNING):
        # Without the config.json that lies beside it, nobody knows.
        assert name_of_weights(PLAIN, str(with_gelu / "model.safetensors")) == PLAIN
    assert f"if it holds OpenAI's weights, set MODEL.CLIP.NAME to {QUICK}" in caplog.text
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (with_gelu / "config.json").write_text(json.dumps(config))
    assert name_of_weights(QUICK, str(with_gelu / "model.safetensors")) == PLAIN
    assert name_of_weights(QUICK, str(folder / "model.safetensors")) == QUICK
    del config["vision_config"]["hidden_act"]  # transformers then takes QuickGELU
    (with_gelu / "config.json").write_text(json.dumps(config))
    assert name_of_weights(PLAIN, str(with_gelu / "model.safetensors")) == QUICK
    assert name_of_weights(PLAIN, "openai") == PLAIN


def test_a_run_is_named_after_the_activation_of_its_weights(archive, tmp_path):
    """Its checkpoints bring their weights, so that the file is not asked again."""
    options = ["MODEL.CLIP.NAME", PLAIN, "MODEL.CLIP.PRETRAINED", archive, "OUTPUT_DIR", str(tmp_path)]
    assert prepare_config(load_config("", options), training=False).MODEL.CLIP.NAME == QUICK


def test_a_model_config_of_ones_own_with_the_other_activation(archive, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(SIZES))
    with pytest.raises(UserError, match='trained with QuickGELU: set "quick_gelu": true in the model config'):
        load_clip(str(tmp_path / "mine.json"), archive)


def test_position_embeddings_of_another_image_size_are_interpolated(archive, tmp_path):
    config = {**SIZES, "quick_gelu": True, "vision_cfg": {**SIZES["vision_cfg"], "image_size": 48}}
    (tmp_path / "larger.json").write_text(json.dumps(config))
    assert load_clip(str(tmp_path / "larger.json"), archive)[0].visual.positional_embedding.shape == (37, 64)


@pytest.mark.parametrize("layout", ["openai", "transformers", "open_clip"])
def test_another_architecture_is_named(archive, transformers_folder, tmp_path, layout):
    path = {"openai": archive, "transformers": str(transformers_folder[0] / "model.safetensors")}.get(layout)
    if path is None:
        path = str(tmp_path / "weights.pt")
        torch.save(open_clip.create_model(QUICK).state_dict(), path)
    config = {**SIZES, "quick_gelu": True, "vision_cfg": {**SIZES["vision_cfg"], "width": 128}}
    (tmp_path / "wider.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_clip(str(tmp_path / "wider.json"), path)
    said = str(error.value)
    assert f"'{path}' holds another architecture than MODEL.CLIP.NAME 'wider'" in said and "download" not in said
    assert "is 64" in said and f"its sizes are those of {QUICK}, {PLAIN}" in said


def test_models_are_found_by_their_sizes():
    shapes = {
        "visual.proj": (1024, 768), "visual.conv1.weight": (1024, 3, 14, 14), "token_embedding.weight": (49408, 768),
        "visual.positional_embedding": (257, 1024), "positional_embedding": (77, 768),
        **{f"visual.transformer.resblocks.{i}.ln_1.bias": (1024,) for i in range(24)},
        **{f"transformer.resblocks.{i}.ln_1.bias": (768,) for i in range(12)},
    }  # fmt: skip
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    assert models_of(state) == ["ViT-L-14-quickgelu", "ViT-L-14"]
    assert models_of({"anything": torch.zeros(2)}) == []


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"<html>", "torchscript", "state", "cut"])
def test_other_files_are_no_weights(archive, tmp_path, content):
    path = tmp_path / "file.pt"
    if content == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), str(path))
    elif content == "state":
        torch.save({"weight": torch.zeros(2)}, path)
    elif content == "cut":
        path.write_bytes(open(archive, "rb").read()[:-1000])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"MODEL.CLIP.PRETRAINED: '{path}'") as error:
        load_clip(QUICK, str(path))
    assert "network" not in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_weight_is_left_out_of_every_part_of_an_archive(monkeypatch):
    """OpenAI's have the text's mask in every block."""
    names = ("ln_final.weight", "vocab_size", "attn_mask", "transformer.resblocks.0.attn_mask")
    monkeypatch.setattr(clip_weights, "is_torchscript", lambda path: True)
    monkeypatch.setattr(clip_weights, "read_torchscript", lambda path: dict.fromkeys(names))
    assert list(clip_weights.read_foreign("ViT-B-16.pt")) == ["ln_final.weight"]
