"""The snippets of docs/extending.md, as they stand: each is short, and a network is trained with it."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from PIL import Image

from hiervl.config import defaults
from hiervl.config.keys_read import as_read, keys_read
from hiervl.engine.main import argument_parser, main
from hiervl.engine.run_config import load_config
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.inference.predictor import HierVLPredictor
from hiervl.modeling import PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY
from hiervl.utils.errors import UserError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
REGISTRIES = (BACKBONE_REGISTRY, META_ARCH_REGISTRY, PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The module my_parts, of all snippets but the script; what it registers is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("parts")
    script, *snippets = SNIPPETS
    (folder / "my_parts.py").write_text("\n\n".join(snippets))
    registered = [dict(registry._obj_map) for registry in REGISTRIES]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("my_parts")
    del sys.modules["my_parts"]
    defaults._OF_PLUG_INS.clear()
    for registry, before in zip(REGISTRIES, registered):
        registry._obj_map = before
    for name in ("boxes_train", "boxes_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def train(parts, world, tmp_path, options, monkeypatch):
    """→ function from ``KEY, VALUE, …`` to the results of two iterations, by the command line's work."""

    def run(*extra, trainer=SemiSupervisedTrainer):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
        chosen = ("SOLVER.MAX_ITER", "2", "TEST.PICTURES", "0", "SEMI.HEALTH_PERIOD", "0", *extra)
        torch.manual_seed(0)
        return main(argument_parser().parse_args(options(world, tmp_path / "out", *chosen)), trainer)

    return run


def write_boxes(tmp_path):
    """Three images and their boxes for each of the datasets boxes_train and boxes_val."""
    for part in ("train", "val"):
        folder = tmp_path / "boxes" / part
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((40, 40, 3), 80 * number, np.uint8)).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text("cap 5 5 20 20\nstem 25 25 35 35\n")


def logged(tmp_path):
    return set().union(*map(json.loads, (tmp_path / "out" / "metrics.json").read_text().splitlines()))


def test_each_snippet_is_short():
    lengths = [len([line for line in snippet.splitlines() if line.strip()]) for snippet in SNIPPETS]
    assert len(SNIPPETS) == 9 and max(lengths) <= 26, lengths


@pytest.mark.parametrize(
    "key, name, place",
    [
        ("MODEL.BACKBONE.NAME", "build_with_pixels", "backbone"),
        ("MODEL.PIXEL_DECODER.NAME", "Pyramid", "pixel_decoder"),
        ("MODEL.QUERY_DECODER.NAME", "OneLook", "query_decoder"),
        ("MODEL.QUERY_DECODER.NAME", "LinearText", "query_decoder"),
        ("MODEL.META_ARCHITECTURE", "SmoothHierVL", "criterion"),
    ],
)
def test_a_network_with_the_part_is_trained_and_predicts(train, parts, tmp_path, key, name, place):
    results = train(key, name)
    assert results["sem_seg"]["mIoU"] >= 0
    assert ("loss_smoothness" in logged(tmp_path)) == (name == "SmoothHierVL")
    predictor = HierVLPredictor.from_checkpoint(str(tmp_path / "out"))
    assert type(getattr(predictor.network, place)).__module__ == "my_parts"
    prediction = predictor(np.zeros((32, 40, 3), dtype=np.uint8))
    assert prediction.semantic.shape == (32, 40)


def test_a_query_decoder_without_joint_embeddings_says_that_it_knows_no_other_classes(train, tmp_path):
    train("MODEL.QUERY_DECODER.NAME", "OneLook")
    network = HierVLPredictor.from_checkpoint(str(tmp_path / "out")).network
    with pytest.raises(UserError, match="cannot predict 'zebra': its queries were not aligned with text"):
        network.set_classes(["sky", "zebra"], [["sky"], ["zebra"]])
    assert len(network.class_names) == 11


@pytest.mark.parametrize(
    "key, what",
    [
        ("MODEL.META_ARCHITECTURE", "network"),
        ("MODEL.BACKBONE.NAME", "image encoder"),
        ("MODEL.PIXEL_DECODER.NAME", "pixel decoder"),
        ("MODEL.QUERY_DECODER.NAME", "query decoder"),
    ],
)
def test_an_unknown_part_is_one_sentence(train, key, what):
    with pytest.raises(UserError, match=f"{key}: no {what} is registered as 'TwoLooks'. A part of your own must be"):
        train(key, "TwoLooks")


@pytest.mark.parametrize(
    "attribute, value, message",
    [
        ("num_instance_queries", None, "LinearText has no attribute num_instance_queries: set it"),
        ("num_instance_queries", 3, "and 3 instance queries"),
        ("use_text", False, "declares 0 text queries .use_text is False. and 0 instance queries"),
    ],
)
def test_a_query_decoder_must_declare_its_queries(train, parts, monkeypatch, attribute, value, message):
    if value is None:
        monkeypatch.delattr(parts.LinearText, attribute)
    else:
        monkeypatch.setattr(parts.LinearText, attribute, value)
    with pytest.raises(UserError, match=message):
        train("MODEL.QUERY_DECODER.NAME", "LinearText")


def test_commands_know_the_parts_that_the_script_imports(parts, tmp_path, monkeypatch, capsys):
    """check-data, called through the page's script, with the page's config."""
    monkeypatch.chdir(tmp_path)
    write_boxes(tmp_path)
    (tmp_path / "my_hiervl.py").write_text(SNIPPETS[0])
    page = PAGE.read_text(encoding="utf-8")
    (tmp_path / "boxes.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    monkeypatch.setattr(sys, "argv", ["my_hiervl.py", "check-data", "boxes.yaml"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tmp_path / "my_hiervl.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "boxes_train" in told and "cap" in told and end.value.code == (1 if "Verdict: not ready" in told else 0)


def test_the_dataset_format_is_trained_on(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_boxes(tmp_path)
    datasets = ("DATASETS.TRAIN", "('boxes_train',)", "DATASETS.TEST", "('boxes_val',)", "SEMI.ENABLED", "False")
    results = train(*datasets)
    assert list(results["sem_seg"]["IoU"]) == ["background", "cap", "stem"]
    labels = np.array(Image.open(tmp_path / "boxes" / "val" / "labels" / "0.png"))
    assert labels[10, 10] == 1 and labels[30, 30] == 2 and labels[0, 0] == 0


def test_the_evaluator_is_asked(train, parts):
    assert 0 <= train(trainer=parts.MyTrainer)["sem_seg"]["sure"] <= 100


def test_own_keys_are_known(parts):
    assert load_config("", ["MODEL.CLIP.BLOCKS", "[0, 1, 2, 3]"]).MODEL.get("MY_DEPTH") == 3
    with pytest.raises(UserError, match="nothing reads MODEL.MY_DEPTH"):
        load_config("", ["MODEL.MY_DEPTH", "4"])
    assert as_read("MODEL.MY_DEPTH") not in keys_read()
