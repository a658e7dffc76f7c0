"""A checkpoint is enough: the network comes back from the file alone."""

import json
import logging
import os

import pytest
import torch

from hiervl.data.classes.definitions import ClassDefinition, distinct_color, read_classes
from hiervl.data.classes.records import from_records, to_records, write_classes
from hiervl.data.registered.catalogs import definitions_of, register_in_catalogs, remove_from_catalogs
from hiervl.engine.resume_check import check_resumed_config
from hiervl.engine.run_config import load_config
from hiervl.inference.predictor import HierVLPredictor
from hiervl.inference.restore import find_checkpoint, restore_network
from hiervl.modeling.clip import load_clip
from hiervl.utils.errors import UserError


@torch.no_grad()
def test_nothing_but_the_file_is_needed(save_run, clip_file, caplog):
    network, folder = save_run()
    images = 255 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = network.semantic_maps(images)
    caplog.clear()
    hidden = f"{clip_file}.hidden"
    os.rename(clip_file, hidden)
    try:
        with caplog.at_level(logging.WARNING):
            restored = restore_network(str(folder), device="cpu")
    finally:
        os.rename(hidden, clip_file)
    assert caplog.records == []
    torch.testing.assert_close(restored.network.semantic_maps(images), expected)
    assert [definition.name for definition in restored.classes] == network.class_names
    assert restored.classes[0].background and not restored.classes[1].background
    assert restored.path == folder / "model_final.pth"
    assert not restored.network.training


@torch.no_grad()
def test_a_network_without_language_predicts_its_own_classes_alone(save_run):
    network, folder = save_run("MODEL.META_ARCHITECTURE", "PixelClassifier")
    predictor = HierVLPredictor.from_checkpoint(folder, device="cpu")
    image = 255 * torch.rand(3, 40, 72, generator=torch.Generator().manual_seed(0))
    prediction = predictor(image.byte())
    assert prediction.semantic.shape == (40, 72) and not predictor.has_instance_queries
    other = [ClassDefinition("unseen", ("unseen",), (1, 2, 3))]
    with pytest.raises(UserError, match="has no language"):
        HierVLPredictor.from_checkpoint(folder, device="cpu", classes=other)


@torch.no_grad()
def test_a_frozen_clip_comes_from_its_own_weights(save_run, clip_file, tmp_path):
    """The frozen CLIP is in no checkpoint: it must not come from the random encoder of the network."""
    torch.manual_seed(1)
    clip, *_ = load_clip(clip_file, "")
    weights = tmp_path / "clip.pt"
    torch.save(clip.state_dict(), weights)
    trunk = ("MODEL.ENCODER.NAME", "test_vit", "MODEL.ENCODER.PRETRAINED", "", "MODEL.CLIP.VISUAL_PROMPTS", 0)
    network, folder = save_run(*trunk, "MODEL.CLIP.PRETRAINED", str(weights))
    restored = restore_network(str(folder), device="cpu").network
    images = network.normalize(list(255 * torch.rand(1, 3, 32, 32)))
    expected = network.frozen_clip.embed(images, pooled=True).pooled
    torch.testing.assert_close(restored.frozen_clip.embed(images, pooled=True).pooled, expected)


@torch.no_grad()
def test_a_network_without_text_queries_is_restored(save_run):
    _, folder = save_run("MODEL.QUERY_DECODER.TEXT_QUERIES", False, "MODEL.CMSAM.PIXELS_READ_TEXT", False)
    assert restore_network(str(folder), device="cpu").network.gate is None


def test_phrases_and_colors_travel_in_the_checkpoint(save_run):
    name = "restore_test_dataset"
    names = ["background", "cat", "red bus", "tree", "potted plant", "sky"]
    phrases = [("wall", "floor"), *[(name,) for name in names[1:]]]
    classes = [ClassDefinition(names[index], phrases[index], (index, 2, 3)) for index in range(6)]
    register_in_catalogs(name, list, classes)
    try:
        network, folder = save_run("DATASETS.TRAIN", (name,), "MODEL.CLASS_NAMES", [])
    finally:
        remove_from_catalogs(name)
    restored = restore_network(str(folder), device="cpu")
    assert restored.classes[0] == ClassDefinition("background", ("wall", "floor"), (0, 2, 3), True)
    assert restored.classes[5].color == (5, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(restored.network.encode_text(), network.encode_text())


def test_names_alone_travel_where_the_training_asked_with_them(save_run):
    name = "restore_test_names"
    names = ["background", "cat", "red bus", "tree", "potted plant", "sky"]
    classes = [ClassDefinition(n, (f"some {n}", f"any {n}"), (1, 2, 3)) for n in names]
    register_in_catalogs(name, list, classes)
    try:
        options = ("DATASETS.TRAIN", (name,), "MODEL.CLASS_NAMES", [], "MODEL.TEXT.PHRASES", False)
        network, folder = save_run(*options)
    finally:
        remove_from_catalogs(name)
    restored = restore_network(str(folder), device="cpu")
    assert [definition.phrases for definition in restored.classes] == [(n,) for n in names]
    with torch.no_grad():
        torch.testing.assert_close(restored.network.encode_text(), network.encode_text())


def test_a_checkpoint_without_class_records_names_its_classes(save_run):
    _, folder = save_run()
    path = folder / "model_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["classes"]
    torch.save(checkpoint, path)
    classes = restore_network(str(path), device="cpu").classes
    assert classes[2] == ClassDefinition("red bus", ("red bus",), distinct_color(2), False)


def test_a_folder_without_a_run_is_one_sentence(save_run, tmp_path):
    with pytest.raises(UserError, match="neither a checkpoint nor a run"):
        find_checkpoint(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(str(tmp_path / "empty"))
    torch.save({"model": {}, "class_names": ["a"]}, tmp_path / "bare.pth")
    with pytest.raises(UserError, match="carries no config"):
        restore_network(str(tmp_path / "bare.pth"))
    _, folder = save_run()
    with pytest.raises(UserError, match="cannot be used here"):
        restore_network(str(folder), device="cuda:99")


def test_the_best_checkpoint_is_preferred_and_the_last_one_found(tmp_path):
    (tmp_path / "model_0000009.pth").touch()
    (tmp_path / "last_checkpoint").write_bytes(b"\xff../../elsewhere.pth")  # whatever it says
    assert find_checkpoint(str(tmp_path)).name == "model_0000009.pth"
    (tmp_path / "model_final.pth").touch()
    assert find_checkpoint(str(tmp_path)).name == "model_final.pth"
    (tmp_path / "model_best.pth").touch()
    assert find_checkpoint(str(tmp_path)).name == "model_best.pth"


@pytest.mark.parametrize(
    "metrics, name",
    [
        ('{"lr": 1}\n{"sem_seg/images": 9.0}\n{"lr', "model_final.pth"),
        ('{"sem_seg/images": 10.0}\n', "model_best.pth"),
        ('{"own_test/sem_seg/images": 50.0, "own_val/sem_seg/images": 2.0}\n', "model_final.pth"),
        ("", "model_best.pth"),
    ],
)
def test_the_final_checkpoint_is_taken_where_few_images_chose_the_best(tmp_path, metrics, name):
    (tmp_path / "model_best.pth").touch()
    (tmp_path / "metrics.json").write_text(metrics)
    (tmp_path / "results.json").write_text('{"sem_seg": {"images": 50}}')  # of a later evaluation on other images
    assert find_checkpoint(str(tmp_path)).name == "model_best.pth"  # there is no other
    (tmp_path / "model_final.pth").touch()
    assert find_checkpoint(str(tmp_path)).name == name


def test_records_are_a_class_file(tmp_path):
    classes = [ClassDefinition("a", ("a", "b c"), (1, 2, 3), True), ClassDefinition("ä", ("ä",), (0, 0, 255))]
    assert from_records(json.loads(json.dumps(to_records(classes)))) == classes
    write_classes(tmp_path / "classes.yaml", classes)
    assert read_classes(tmp_path / "classes.yaml") == classes


def test_classes_of_an_unknown_dataset_have_colors_of_their_own():
    first, second = definitions_of(["a", "b"], "no_such_dataset", ["b"])
    assert first.phrases == ("a",) and first.color != second.color and second.background


@pytest.mark.parametrize("saved, expected", [("maskclip", "maskclip"), ("value", "value"), (None, "value")])
def test_the_dense_embedding_is_that_of_the_training(save_run, tmp_path, saved, expected):
    """The key is newer than the first checkpoints, whose networks learnt from the value path alone."""
    _, folder = save_run(*(() if saved is None else ("MODEL.CLIP.DENSE", saved)))
    path = folder / "model_final.pth"
    if saved is None:
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["config"] = "".join(
            line for line in checkpoint["config"].splitlines(keepends=True) if "DENSE:" not in line
        )
        torch.save(checkpoint, path)
        (tmp_path / "config.yaml").write_text(checkpoint["config"])  # as it lies beside the checkpoint
        assert load_config(str(tmp_path / "config.yaml")).MODEL.CLIP.DENSE == "value"
        with pytest.raises(UserError, match="MODEL.CLIP.DENSE 'value', but the config has 'maskclip'"):
            check_resumed_config(checkpoint["config"], "MODEL: {CLIP: {DENSE: maskclip}}", "a.pth")
    restored = restore_network(str(path), device="cpu")
    assert (restored.network.backbone.dense, restored.cfg.MODEL.CLIP.DENSE) == (expected, expected)
