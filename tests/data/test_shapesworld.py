"""The synthetic world and the CLIP that is shipped with it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiervl.data import shapesworld
from hiervl.data.shapesworld import CAPTION_TEMPLATES, CLASS_NAMES, generate_scene, write_split

ASSETS = Path(shapesworld.__file__).resolve().parent.parent / "assets/shapesworld_clip"
UNSEEN_SEED = 977  # neither a split's nor the CLIP training's


def test_a_scene_depends_on_seed_and_index_only():
    first = generate_scene(UNSEEN_SEED, 3)
    np.random.default_rng(0).random(5)
    generate_scene(UNSEEN_SEED, 4)
    again = generate_scene(UNSEEN_SEED, 3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.semantic, again.semantic)
    assert (first.classes, first.caption) == (again.classes, again.caption)
    for other in (generate_scene(UNSEEN_SEED, 4), generate_scene(UNSEEN_SEED + 1, 3)):
        assert not np.array_equal(first.image, other.image)


def test_labels_instances_and_caption_agree():
    for index in range(60):
        scene = generate_scene(UNSEEN_SEED, index)
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert 1 <= len(scene.classes) <= 4
        shown = np.unique(scene.instances)
        assert set(shown) - {0} == set(range(1, len(scene.classes) + 1))
        assert np.all(scene.semantic[scene.instances == 0] == 0)
        for number, label in enumerate(scene.classes, start=1):
            assert np.all(scene.semantic[scene.instances == number] == label)
        named = {label for label, name in enumerate(CLASS_NAMES) if name in scene.caption}
        assert named == set(scene.classes)


def test_an_objects_pixels_have_its_color():
    """Mean red, green, blue of plain objects; swapped channels or labels would fail."""
    means = {label: [] for label in range(1, 5)}
    for index in range(150):
        scene = generate_scene(UNSEEN_SEED, index)
        for label in set(scene.classes) & set(means):
            means[label].append(scene.image[scene.semantic == label].mean(0))
    red, orange, green, blue = (np.mean(means[label], 0) for label in range(1, 5))
    assert red.argmax() == 0 and green.argmax() == 1 and blue.argmax() == 2
    assert orange.argmax() == 0 and orange[1] > 2 * orange[2] and orange[1] > 2 * red[1]


def test_the_rarest_class_is_rare():
    counts = np.zeros(len(CLASS_NAMES))
    for index in range(400):
        np.add.at(counts, list(generate_scene(UNSEEN_SEED, index, 32).classes), 1)
    ratio = counts[1:].max() / counts[1:].min()
    assert 3 < ratio < 9  # 5 up to sampling


def test_write_split_completes_what_was_interrupted(tmp_path):
    write_split(tmp_path, "val", count=4, seed=UNSEEN_SEED)
    scene = generate_scene(UNSEEN_SEED, 2)
    image_file = tmp_path / "images/val/00002.png"
    assert np.array_equal(cv2.imread(str(image_file))[..., ::-1], scene.image)
    for kind, expected in (("labels", scene.semantic), ("instances", scene.instances)):
        written = cv2.imread(str(tmp_path / kind / "val/00002.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, expected)
    listing = json.loads((tmp_path / "captions_val.json").read_text())
    assert listing["captions"][2] == scene.caption

    untouched = image_file.stat().st_mtime_ns
    write_split(tmp_path, "val", count=4, seed=UNSEEN_SEED)
    assert image_file.stat().st_mtime_ns == untouched
    before = image_file.read_bytes()
    image_file.unlink()
    write_split(tmp_path, "val", count=4, seed=UNSEEN_SEED)
    assert image_file.read_bytes() == before
    write_split(tmp_path, "val", count=3, seed=UNSEEN_SEED + 1)  # another world replaces it
    assert sorted(p.name for p in image_file.parent.iterdir()) == [f"0000{i}.png" for i in range(3)]
    assert image_file.read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "captions_val.json", "images", "instances", "labels",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    """The shipped model and tokenizer, built from the files alone."""
    pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import load_file

    config = json.loads((ASSETS / "shapesworld.json").read_text())
    text = config["text_cfg"]
    tokenizer = open_clip.SimpleTokenizer(
        bpe_path=str(ASSETS / text["tokenizer_kwargs"]["bpe_path"]),
        context_length=text["context_length"],
    )
    model = open_clip.CLIP(**config).eval()
    model.load_state_dict(load_file(str(ASSETS / "weights.safetensors")))  # holds tensors only
    return model, tokenizer


def test_shipped_clip_tells_the_classes_apart(clip):
    import torch

    model, tokenizer = clip
    scenes = [generate_scene(UNSEEN_SEED, index) for index in range(60)]
    pixels = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2) / 255.0
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
    with torch.no_grad():
        images = model.encode_image((pixels - mean) / std, normalize=True)
        prompts = tokenizer([f"a photo of a {name}." for name in CLASS_NAMES[1:]])
        scores = (images @ model.encode_text(prompts, normalize=True).T).numpy()
    areas = []
    for column, label in enumerate(range(1, len(CLASS_NAMES))):
        present = np.array([label in scene.classes for scene in scenes])
        if present.any() and not present.all():
            pairs = scores[present, column][:, None] > scores[~present, column]
            areas.append(pairs.mean())
    assert len(areas) >= 10 and np.mean(areas) >= 0.9


def test_shipped_tokenizer_knows_the_captions_words(clip):
    model, tokenizer = clip
    assert tokenizer.vocab_size == model.vocab_size
    for template in CAPTION_TEMPLATES:
        for name in CLASS_NAMES:
            words = template.format(name).replace(".", " .").split()
            assert len(tokenizer.encode(" ".join(words))) == len(words)
    unknown = "zebra crossing, naïve"
    assert tokenizer.decode(tokenizer.encode(unknown)).replace(" ,", ",").strip() == unknown
    assert len(tokenizer.encode("zebra")) > 1
    # A prompt of eight learnable tokens starts from this phrase.
    assert len(tokenizer.encode("this is a clear photo that shows a")) == 8
