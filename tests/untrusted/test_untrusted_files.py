"""Files that would run code or fill the memory are refused, wherever they are read."""

import os
import pickle
import re
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from hiervl.data.classes.definitions import read_classes
from hiervl.data.loading import readers
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.modeling.clip import load_clip
from hiervl.modeling.vision_encoder import build_vision_encoder
from hiervl.utils.checkpoint_file import read_checkpoint
from hiervl.utils.errors import UserError


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def trap(tmp_path):
    """An object that runs code on loading; the test fails if it ran."""
    folder = tmp_path / "was_run"
    yield Runs(folder)
    assert not folder.exists()


def test_loading_the_pickle_would_run_its_code(tmp_path):
    pickle.loads(pickle.dumps(Runs(tmp_path / "was_run")))
    assert (tmp_path / "was_run").exists()


@pytest.mark.parametrize("protocol", ["zip", "legacy", "bare"])
def test_a_checkpoint_with_code_is_refused(trap, tmp_path, protocol):
    path = tmp_path / "evil.pth"
    if protocol == "bare":
        path.write_bytes(pickle.dumps({"model": trap}))
    else:
        torch.save({"model": trap}, path, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(UserError, match="carries code"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("text", ["MODEL:\n\tDEVICE: cpu\n", "# für Städte\n_BASE_: quickstart.yaml\n"])
def test_a_text_in_place_of_a_checkpoint_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is a text file, not a checkpoint: name the checkpoint"):
        read_checkpoint(str(tmp_path / "config.yaml"))


NEVER_ARRIVED = {
    "empty": (b"", "an empty file, not {}: copy or download it again"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer, not {}: fetch the contents"),
    "page": (b"\n<!DOCTYPE html><html>404</html>", "an HTML page, not {}: download the file again"),
}


@pytest.mark.parametrize("content, words", NEVER_ARRIVED.values(), ids=NEVER_ARRIVED)
def test_what_came_in_place_of_weights_is_named(tmp_path, content, words, make_cfg):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words.format("a checkpoint")):
        read_checkpoint(str(path))
    for kind in ("CLIP", "ENCODER"):
        cfg = make_cfg("MODEL.ENCODER.NAME", "test_vit", f"MODEL.{kind}.PRETRAINED", str(path))
        with pytest.raises(UserError, match=f"^MODEL.{kind}.PRETRAINED: .* is {words.format('a file of weights')}"):
            load_clip("ViT-B-16", str(path)) if kind == "CLIP" else build_vision_encoder(cfg)


@pytest.mark.parametrize("kind", ["CLIP", "ENCODER"])
@pytest.mark.parametrize("content", [pickle.dumps({"weights": print}), b"Dear reader", bytes(600)])
def test_files_that_are_no_weights_bring_no_advice_to_run_their_code(tmp_path, make_cfg, kind, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    cfg = make_cfg("MODEL.ENCODER.NAME", "test_vit", f"MODEL.{kind}.PRETRAINED", str(path))
    with pytest.raises(UserError, match=r"cannot be read as weights of .* or carries code, which is not run") as error:
        load_clip("ViT-B-32", str(path)) if kind == "CLIP" else build_vision_encoder(cfg)
    assert "(" + type(error.value.__cause__).__name__ + ")" in str(error.value)


BOMB = "\n".join(["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
                 + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)])  # fmt: skip
FETCHED = '{"embed_dim": 16, "vision_cfg": {"timm_model_name": "hf-hub:someone/model"}, "text_cfg": {}}'


@pytest.mark.parametrize(
    "part, value, words",
    [
        ("config", BOMB, "expands to more than"),
        ("config", 5, "holds int where a text belongs"),
        ("config", "[1, 2]", "written by another version"),
        ("config", "MODEL: {CLIP: {NAME: 'hf-hub:someone/model'}}", "neither an open_clip model"),
        ("classes", [{"name": "a"}], "classes are damaged"),
        ("classes", 5, "classes are damaged"),
        ("clip_config", FETCHED, "an image encoder that timm does not know"),
        ("clip_config", FETCHED.replace("hf-hub:", "timm/"), "an image encoder that timm does not know"),
        ("clip_config", FETCHED.replace("hf-hub:someone/model", "resnet18/hf-hub:a"), "that timm does not know"),
        (
            "clip_config",
            FETCHED.replace("timm_model_name", "timm_model_pretrained"),
            "not one of open_clip's own parts",
        ),
        ("clip_config", FETCHED.replace("timm_model_name", "hf_model_name"), "not one of open_clip's own parts"),
        ("clip_config", "[]", "config of CLIP in .* is damaged"),
        ("clip_config", 5, "config of CLIP in .* is damaged"),
    ],
)
def test_config_classes_and_clip_in_a_checkpoint_are_not_trusted(save_run, monkeypatch, part, value, words):
    """Its config, classes and CLIP: refused in a sentence, and nothing is fetched."""
    from hiervl.inference import restore

    _, folder = save_run()
    path = folder / "model_final.pth"
    content = torch.load(path, weights_only=True)
    if part == "config":
        del content["clip_config"]
    if part == "clip_config":
        content["config"] = re.sub(r"NAME: .*hiervl_test_clip.json", "NAME: /elsewhere/clip.json", content["config"])
    torch.save({**content, part: value}, path)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    with pytest.raises(UserError, match=words) as error:
        restore.restore_network(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".npz", ".npy", ".safetensors"])
def test_clip_weights_with_code_are_refused(trap, tmp_path, clip_file, suffix):
    path = tmp_path / f"evil{suffix}"
    if suffix in (".npz", ".npy"):
        evil = np.array([trap], dtype=object)
        with open(path, "wb") as file:
            np.savez(file, evil) if suffix == ".npz" else np.save(file, evil)
    else:
        torch.save({"state_dict": trap}, path)
    with pytest.raises(UserError, match=re.escape(path.name)):
        load_clip(clip_file, str(path))


def test_yaml_with_code_is_refused(trap, tmp_path):
    """In a config, in the file it builds on, in a list of classes."""
    evil = f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{trap.folder}']\n"
    (tmp_path / "evil.yaml").write_text(evil)
    (tmp_path / "delta.yaml").write_text("_BASE_: evil.yaml\nSEED: 3\n")
    for name in ("evil.yaml", "delta.yaml"):
        with pytest.raises(UserError, match="python/object"):
            load_config(str(tmp_path / name))
    (tmp_path / "classes.yaml").write_text(f"classes: [!!python/object/apply:os.mkdir ['{trap.folder}']]\n")
    with pytest.raises(UserError, match="classes.yaml is not YAML"):
        read_classes(tmp_path / "classes.yaml")
    with pytest.raises(UserError, match="MODEL.CLASS_NAMES"):
        load_config("", ["MODEL.CLASS_NAMES", f"__import__('os').mkdir('{trap.folder}')"])


def test_yaml_that_expands_to_gigabytes_is_refused(tmp_path):
    """Nine aliases of nine aliases of … nine values: 9¹⁰ of them in half a kilobyte."""
    (tmp_path / "bomb.yaml").write_text(f"{BOMB}\nclasses: *a9\nSEED: *a9")
    for read in (lambda path: load_config(str(path)), read_classes):
        with pytest.raises(UserError, match="expands to more than"):
            read(tmp_path / "bomb.yaml")
    (tmp_path / "circle.yaml").write_text("_BASE_: circle.yaml\n")
    with pytest.raises(UserError, match="circle"):
        load_config(str(tmp_path / "circle.yaml"))


def test_image_that_unfolds(tmp_path, monkeypatch):
    """The header alone decides."""
    monkeypatch.setattr(readers, "MAX_PIXELS", 999_999)
    Image.new("1", (1000, 1000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="bomb.png has more than 999999 pixels"):
        readers.read_image(str(tmp_path / "bomb.png"))
    monkeypatch.setattr(readers, "MAX_PIXELS", 1_000_000)
    assert readers.read_image(str(tmp_path / "bomb.png")).shape == (1000, 1000, 3)


def test_image_that_is_a_program(tmp_path):
    """Pillow would hand PostScript to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF\n")
    with pytest.raises(UserError, match="a.png cannot be read"):
        readers.read_image(str(tmp_path / "a.png"))


def test_cmyk_becomes_rgb(tmp_path):
    """No ink is white, all black ink is black."""
    cmyk = np.zeros((8, 16, 4), np.uint8)
    cmyk[:, 8:, 3] = 255
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "a.jpg", quality=100)
    image = readers.read_image(str(tmp_path / "a.jpg"))
    assert image[:, :7].min() > 250 and image[:, 9:].max() < 5


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("MODEL.PIXEL_DECODER.HEADS", "3", "DIM .256. must be a multiple of MODEL.PIXEL_DECODER.HEADS"),
        ("MODEL.QUERY_DECODER.HEADS", "0", "MODEL.QUERY_DECODER.HEADS is 0"),
        ("MODEL.PIXEL_DECODER.DIM", "30", "MODEL.PIXEL_DECODER.DIM is 30"),
        ("TEST.OVERLAP", "1.0", "TEST.OVERLAP is 1.0, but must be at least 0 and less than 1"),
        ("INPUT.CROP_SIZE", "0", "INPUT.CROP_SIZE is 0, but must be at least 1"),
        ("INPUT.SCALE", "(2.0, 0.5)", "INPUT.SCALE"),
        ("SOLVER.ACCUMULATION", "0", "SOLVER.ACCUMULATION is 0"),
        ("SEMI.THRESHOLD", "soft", "SEMI.THRESHOLD"),
        ("SEMI.STRONG_WEIGHT", "-1.0", "SEMI.STRONG_WEIGHT is -1.0, but must be at least 0"),
        ("INPUT.STRONG.JITTER", "(0.5, 0.5)", "INPUT.STRONG.JITTER"),
        ("MODEL.TEXT.TEMPLATE", "a photo", "MODEL.TEXT.TEMPLATE is a photo, but must be a sentence with one {}"),
        ("MODEL.TEXT.TEMPLATE", "a {} in {place}", "MODEL.TEXT.TEMPLATE"),
        ("MODEL.TEXT.TEMPLATE", "{} {}", "MODEL.TEXT.TEMPLATE"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is BGR, but CLIP was trained on RGB"),
        ("TEST.NETWORK", "techer", "TEST.NETWORK is 'teacher' or 'student'"),
    ],
)  # fmt: skip
def test_values_that_cannot_work(tmp_path, key, value, words):
    with pytest.raises(UserError, match=words):
        prepare_config(load_config("", [key, value, "OUTPUT_DIR", str(tmp_path)]), training=False)


def test_test_set_without_labels(camvid_root):
    from hiervl.engine.test_sets import check_test_labels

    with pytest.raises(UserError, match="DATASETS.TEST: 'camvid_train_12_unlabeled' holds .*png, which has no label"):
        check_test_labels("camvid_train_12_unlabeled")


@pytest.fixture
def camvid_root(world, monkeypatch):
    import hiervl.data  # noqa: F401  registers the datasets

    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
