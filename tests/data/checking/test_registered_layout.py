"""check-data, prompts and split on datasets that are registered in Detectron2: the benchmarks' stand-ins, CamVid's."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiervl.__main__ import main
from hiervl.data.checking.check import check
from hiervl.engine.run_config import find_layout, load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def run(command, config, *options):
    return main([command, str(CONFIGS / config), *map(str, options)])


@pytest.mark.parametrize(
    "config, val, classes, ignored",
    [
        ("pascal_92", 2, ("background", "tv/monitor"), True),
        ("coco_232", 2, ("background", "toothbrush"), False),
        ("ade20k_158", 1, ("wall", "flag"), True),
        ("cityscapes_100", 1, ("road", "bicycle"), True),
    ],
)
def test_check_data_of_the_benchmarks(config, val, classes, ignored, benchmarks, tmp_path, capsys):
    """Without the unlabelled images, which are thousands of stand-ins."""
    labels = int(config.split("_")[1])
    options = ("OUTPUT_DIR", tmp_path, "SEMI.ENABLED", "False", "--images", 2)
    assert run("check-data", f"{config}.yaml", *options) == 0
    printed = capsys.readouterr().out
    assert f"  train       {config.replace('_', '_train_')}\n  val         {config.split('_')[0]}_val\n" in printed
    assert f"  train       {labels:>6}  64×48\n  val         {val:>6}  64×48" in printed
    names = [line.split("  ")[1] for line in printed.split("(images)")[1].split("\n\n")[0].splitlines()[1:]]
    assert (names[0], names[-1]) == classes
    # of 48 blocks one is ignored in every stand-in, so that the shares of the classes still make a whole
    layout = find_layout(load_config(str(CONFIGS / f"{config}.yaml"), ["SEMI.ENABLED", "False"]))
    pixels = sum(check(layout).pixels.values()).sum()
    assert pixels == (labels + val) * 64 * (47 if ignored else 48)
    assert "images look the same as train ones" in printed  # four pictures under all the names
    assert "Verdict: ready to train" in printed and (tmp_path / "check_data" / "overlays.png").is_file()


@pytest.fixture
def camvid_12():
    return ["DATASETS.TRAIN", "('camvid_train_12',)", "DATASETS.UNLABELED", "('camvid_train_12_unlabeled',)",
            "DATASETS.TEST", "('camvid_val',)"]  # fmt: skip


@pytest.fixture
def look(camvid, camvid_12):
    """→ function that checks CamVid's stand-in: its layout and the findings as (level, sentence, files)."""

    def look(*options):
        layout = find_layout(load_config("", [*camvid_12, *options]))
        return layout, [(finding.level, finding.sentence, finding.files) for finding in check(layout).findings]

    return look


def test_splits_are_those_of_training(look):
    layout, found = look()
    assert found == []
    counts = {split: len(samples) for split, samples in layout.division.items()}
    assert counts == {"train": 12, "val": 3, "test": 0, "rest": 0} and len(layout.unlabeled) == 8
    assert look("SEMI.ENABLED", "False")[0].unlabeled == []


def wrong_value(label):
    return np.where(label == label[0, 0], 11, label).astype(np.uint8), "labels hold the value 11, but the 11 classes"


def colors(label):
    return np.stack((label,) * 3, -1), "holds RGB colours"


def other_size(label):
    return label[::2, ::2], "masks differ in size from their images"


@pytest.mark.parametrize("spoil", [wrong_value, colors, other_size])
def test_faults_that_training_would_stop_at(look, spoil):
    layout, _ = look()
    sample = list(layout.division["val"].values())[0]
    spoilt, words = spoil(np.array(Image.open(sample.key)))
    Image.fromarray(spoilt).save(sample.key)
    _, found = look()
    ((sentence, files),) = [(sentence, files) for level, sentence, files in found if level == "error"]
    assert words in sentence and len(files) == 1 and files[0].startswith(sample.key)


def test_class_without_a_labeled_image(look, camvid):
    for path in (camvid / "labels" / "train").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 10, 9, label).astype(np.uint8)).save(path)
    ((level, sentence, _),) = look()[1]
    assert level == "warning" and "no train mask shows bicyclist: it is known by its phrases alone" in sentence


def test_ignore_label_of_the_dataset(look):
    """One that is registered with 3 as ignored has 10 classes that count and no fault."""
    layout, _ = look()
    sample = next(iter(layout.division["train"].values()))
    entry = {"file_name": str(sample.image), "image_id": "a", "sem_seg_file_name": sample.key}
    DatasetCatalog.register("ignores_3", lambda: [entry])
    MetadataCatalog.get("ignores_3").set(stuff_classes=list("abcdefghijk"), ignore_label=3)
    try:
        layout = find_layout(load_config("", ["DATASETS.TRAIN", "('ignores_3',)", "SEMI.ENABLED", "False"]))
        label = np.array(Image.open(sample.key))
        assert (3 == label).any() and ((layout.label(layout.division["train"]["a"]) == 255) == (label == 3)).all()
        assert sum(check(layout).pixels.values())[3] == 0
    finally:
        DatasetCatalog.remove("ignores_3")
        MetadataCatalog.remove("ignores_3")


def test_prompts_reads_registered_datasets(camvid, camvid_12, tmp_path, capsys):
    clip = ["MODEL.CLIP.NAME", "shapesworld", "MODEL.CLIP.PRETRAINED", "shapesworld",
            "MODEL.CLIP.BLOCKS", "[1, 2, 3, 5]", "MODEL.CLIP.DENSE", "value",
            "MODEL.TEXT.TEMPLATE", "a {}."]  # fmt: skip
    options = [*camvid_12, *clip, "INPUT.CROP_SIZE", "64", "OUTPUT_DIR", str(tmp_path)]
    assert run("prompts", "Base-HierVL.yaml", *options) == 0
    printed = capsys.readouterr().out
    assert "on the 12 labelled images of the training set" in printed and "\n  bicyclist " in printed
    assert len(list((tmp_path / "prompts").iterdir())) == 2  # eleven classes, ten a sheet


def test_split_says_what_to_use_instead(capsys):
    assert run("split", "camvid_46.yaml", "--labels", 10) == 2
    error = capsys.readouterr().err
    assert "set DATASETS.TRAIN to one of camvid_train_12, camvid_train_23, camvid_train_46, " in error
    assert "DATASETS.UNLABELED to the same name with _unlabeled" in error and len(error.splitlines()) == 1


def test_config_without_data(capsys):
    assert run("check-data", "Base-HierVL.yaml") == 2
    assert "the config names no data" in capsys.readouterr().err
