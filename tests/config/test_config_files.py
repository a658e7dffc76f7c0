"""Config files that build on other files, down to the base that HierVL ships; paths of the section DATASET."""

import pytest
import yaml

from hiervl.config.files import SHIPPED, SHIPPED_BASE, find_config, read_layers, written_keys
from hiervl.config.keys import keys_of_user
from hiervl.data.registered.datasets import dataset_root
from hiervl.engine.run_config import load_config
from hiervl.utils.errors import UserError


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_base_is_found_beside_the_file_or_among_the_shipped_ones(tmp_path):
    write(tmp_path, "mine.yaml", "_BASE_: Base-HierVL.yaml\nSEED: 3\n")
    top = write(tmp_path, "top.yaml", "_BASE_: mine.yaml\nSOLVER: {BASE_LR: 0.5}\n")
    layers = read_layers(top)
    assert [layer.path for layer in layers] == [SHIPPED_BASE, tmp_path / "mine.yaml", top]
    assert written_keys(layers) == ["SEED", "SOLVER.BASE_LR"]  # the shipped base is no choice of the user
    cfg = load_config(str(top), ["TEST.PICTURES", "2"])
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.AMP.ENABLED, cfg.TEST.PICTURES) == (3, 0.5, True, 2)
    assert keys_of_user(cfg.clone()) == {"SEED", "SOLVER.BASE_LR", "TEST.PICTURES"}
    top.write_bytes(b"\xef\xbb\xbf" + top.read_bytes().replace(b"\n", b"\r\n"))  # as Windows saves it
    assert load_config(str(top)).SOLVER.BASE_LR == 0.5


def test_paths_are_relative_to_the_file_that_writes_them(tmp_path):
    write(tmp_path / "base", "base.yaml", "DATASET: {NAME: a, CLASSES: c.yaml, VAL: {MASKS: m, IMAGES: i}}\n")
    top = write(tmp_path / "top", "top.yaml", "_BASE_: ../base/base.yaml\nDATASET: {LABELED: {IMAGES: x}}\n")
    cfg = load_config(str(top))
    assert cfg.DATASET.CLASSES == str(tmp_path / "base" / "c.yaml")
    assert cfg.DATASET.ROOT == str(tmp_path / "top")
    assert cfg.DATASET.VAL == ["i", "m"]
    write(tmp_path / "base", "base.yaml", "DATASET: {ROOT: data}\n")
    assert load_config(str(top)).DATASET.ROOT == str(tmp_path / "base" / "data")


@pytest.mark.parametrize(
    "text, message",
    [
        ("_BASE_: none.yaml\n", "its _BASE_ none.yaml is neither beside it nor in .*configs"),
        ("_BASE_: own.yaml\n", "leads back to itself"),
        ("_BASE_: [a, b]\n", "_BASE_ is the name of one file"),
        ("- 1\n", "it is empty, or does not consist of 'KEY: value' lines"),
        ("SEED: high\n", "SEED takes a int, not a str"),
        ("DATASET: {TEST: {IMAGES: a, MASK: b}}\n", "DATASET.TEST needs IMAGES and MASKS, not IMAGES, MASK"),
    ],
)
def test_mistakes_are_user_errors(tmp_path, text, message):
    path = write(tmp_path, "own.yaml", text)
    with pytest.raises(UserError, match=f"own.yaml: .*{message}"):
        load_config(str(path))


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    """In YAML and where a shell was told not to replace it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    (tmp_path / "my.yaml").write_text("OUTPUT_DIR: ~/out\nMODEL: {CLIP: {PRETRAINED: ~/clip.pt}}\n")
    cfg = load_config(str(tmp_path / "my.yaml"), ["MODEL.WEIGHTS", "~/a.pth"])
    found = (cfg.OUTPUT_DIR, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.WEIGHTS, str(dataset_root()))
    assert found == tuple(str(tmp_path / name) for name in ("out", "clip.pt", "a.pth", "data"))
    assert cfg.MODEL.CLIP.NAME == load_config().MODEL.CLIP.NAME


def test_a_written_config_reads_back(tmp_path):
    cfg = load_config(str(write(tmp_path, "own.yaml", "DATASET: {NAME: a, VAL: 0.3, UNLABELED: [u, v]}\n")))
    dumped = write(tmp_path / "out", "config.yaml", cfg.dump())
    again = load_config(str(dumped))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_a_shipped_config_is_found_by_its_name_and_a_file_here_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("baselines/unimatch.yaml", "configs/baselines/unimatch.yaml"):
        assert find_config(name) == SHIPPED / "baselines" / "unimatch.yaml"
    with pytest.raises(UserError, match="^there is no config file 'coco_233.yaml'; did you mean .*coco_232.yaml.$"):
        find_config("coco_233.yaml")
    with pytest.raises(UserError, match=f"^{tmp_path} is a folder, .*: `.* init {tmp_path}` writes"):
        find_config(str(tmp_path))
    write(tmp_path, "my.yaml", "SEED: 3\n")
    with pytest.raises(UserError, match=f"did you mean {tmp_path}/my.yaml"):
        find_config(str(tmp_path))
    assert find_config(f"'{tmp_path}/my.yaml' ") == tmp_path / "my.yaml"
    write(tmp_path, "coco_232.yaml", "SEED: 3\n")
    assert find_config("coco_232.yaml").resolve() == tmp_path / "coco_232.yaml"
    cfg = load_config("quickstart.yaml", deltas=["baselines/unimatch.yaml"])
    assert cfg.OUTPUT_DIR.endswith("quickstart_unimatch") and cfg.DATASET.ROOT == str(SHIPPED)
