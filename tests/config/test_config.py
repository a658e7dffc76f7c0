"""Every key is explained and used; every config file loads; the error for a wrong key suggests the right one."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm

import hiervl
from hiervl.config import defaults as config
from hiervl.config.check import check_config
from hiervl.config.keys import keys_of_user
from hiervl.config.keys_read import as_read, keys_read
from hiervl.engine.run_config import config_from_text, load_config, prepare_config, settle_device
from hiervl.utils.errors import UserError

SOURCES = Path(hiervl.__file__).parent
FOLDER = SOURCES.parent / "configs"
DELTAS = sorted([*FOLDER.glob("baselines/*.yaml"), *FOLDER.glob("ablations/*.yaml")])
ENCODERS = sorted(FOLDER.glob("encoders/*.yaml"))
CONFIGS = sorted(
    path for path in FOLDER.rglob("*.yaml") if path not in [*DELTAS, *ENCODERS] and path.parent.name != "classes"
)


def leaves(node, prefix=""):
    found = set()
    for name, value in node.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name}
    return found


NEW_KEYS = sorted(leaves(config.get_hiervl_cfg()) - leaves(get_cfg()))


def test_new_keys_are_found():
    assert len(NEW_KEYS) > 60 and "SEMI.CONFIDENCE" in NEW_KEYS and "SOLVER.BASE_LR" not in NEW_KEYS


def test_every_new_key_has_a_comment_above_it():
    lines = Path(config.__file__).read_text().splitlines()
    places = {}
    for number, line in enumerate(lines):
        assigned = re.match(r"\s+cfg\.([A-Z0-9_.]+) = ", line)
        if assigned:
            places[assigned.group(1)] = number
    unexplained = [key for key in NEW_KEYS if not re.match(r"\s+# \S.* \S", lines[places[key] - 1])]
    assert unexplained == []


def test_every_new_key_is_read():
    read = keys_read()
    assert [key for key in NEW_KEYS if as_read(key) not in read] == []


def test_there_are_config_files():
    assert len(CONFIGS) >= 8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_file_loads(path):
    """With values of the right types, and each with the output and the data of its own."""
    cfg = load_config(str(path))
    assert leaves(cfg) == leaves(config.get_hiervl_cfg())
    assert cfg.MODEL.META_ARCHITECTURE == "HierVL" and cfg.INPUT.FORMAT == "RGB"
    if not path.stem.startswith("Base"):
        assert path.stem in cfg.OUTPUT_DIR
        filled_later = cfg.DATASET.NAME and cfg.DATASET.UNLABELED and cfg.DATASET.VAL
        assert filled_later or (cfg.DATASETS.TRAIN and cfg.DATASETS.UNLABELED and cfg.DATASETS.TEST)
        assert cfg.SOLVER.EPOCHS or cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("path", ENCODERS, ids=lambda path: path.stem)
def test_encoder_lies_on_any_config(path):
    """It may bring a crop and learning rates of its own, but no other data or method."""
    plain = load_config(str(FOLDER / "pascal_92.yaml"))
    changed = load_config(str(FOLDER / "pascal_92.yaml"), deltas=[str(path)])
    assert changed.OUTPUT_DIR == f"{plain.OUTPUT_DIR}_{path.stem}"
    encoders = [(cfg.MODEL.CLIP.NAME, cfg.MODEL.ENCODER.NAME) for cfg in (plain, changed)]
    assert encoders[0] != encoders[1]
    for section in ("DATASETS", "LOSS", "SEMI", "TEST"):
        assert changed[section] == plain[section]


@pytest.mark.parametrize("path", DELTAS, ids=lambda path: path.stem)
def test_delta_lies_on_any_config(path):
    """It changes the method and neither data, schedule nor size, and gives the run a folder of its own."""
    for base in (FOLDER / "quickstart.yaml", FOLDER / "camvid_46.yaml"):
        plain, changed = load_config(str(base)), load_config(str(base), deltas=[str(path)])
        assert changed.OUTPUT_DIR == f"{plain.OUTPUT_DIR}_{path.stem}"
        assert changed.MODEL.META_ARCHITECTURE in ("HierVL", "PixelClassifier")
        if path.stem == "paper":  # whose method these two belong to
            plain.INPUT.REGIONS_AS_INSTANCES, plain.MODEL.CLIP.DETAIL_MAPS = False, 0
        for section in ("DATASETS", "INPUT", "SOLVER", "TEST"):
            assert changed[section] == plain[section]
        assert changed.MODEL.CLIP == plain.MODEL.CLIP
    changes = [changed[section] != plain[section] for section in ("MODEL", "LOSS", "SEMI")]  # of camvid_46
    of_the_defaults = ("with_masked_consistency", "with_entropy", "with_feature_perturbation")
    assert any(changes) != (path.stem in of_the_defaults)


def test_deltas_are_laid_on_in_order_below_the_command_line(tmp_path):
    for name, text in (("a", "SEED: 1\nSEMI:\n  BURN_IN: 1\n"), ("b", "SEED: 2\n"), ("c", "OUTPUT_DIR: mine\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    a, b, c = (str(tmp_path / f"{name}.yaml") for name in "abc")
    base = str(FOLDER / "quickstart.yaml")
    cfg = load_config(base, deltas=[a, b])
    assert (cfg.SEED, cfg.SEMI.BURN_IN, cfg.OUTPUT_DIR) == (2, 1, "output/quickstart_a_b")
    assert load_config(base, deltas=[b, a]).SEED == 1
    assert load_config(base, ["SEED", "3", "OUTPUT_DIR", "x"], [a]).SEED == 3
    assert load_config(base, ["SEED", "3", "OUTPUT_DIR", "x"], [a]).OUTPUT_DIR == "x"
    assert load_config(base, deltas=[c]).OUTPUT_DIR == "mine"
    with pytest.raises(UserError, match="did you mean .*a.yaml"):
        load_config(base, deltas=[str(tmp_path / "aa.yaml")])


def test_deltas_are_named_on_the_command_line():
    from hiervl.engine import main as engine_main

    line = "--config-file a.yaml --with b.yaml --with c.yaml --eval-only SEED 1".split()
    args = engine_main.argument_parser().parse_args(line)
    assert (args.config_file, args.deltas, args.opts) == ("a.yaml", ["b.yaml", "c.yaml"], ["SEED", "1"])
    assert engine_main.argument_parser().parse_args([]).deltas == []
    text = engine_main.argument_parser().format_help()
    assert all(name not in text for name in ("LazyConfig", "cfg.yaml", "DefaultTrainer"))


def test_command_line_wins_over_file_over_base():
    quickstart = str(SOURCES.parent / "configs" / "quickstart.yaml")
    cfg = load_config(quickstart, ["SOLVER.MAX_ITER", "7"])
    assert (cfg.SOLVER.MAX_ITER, cfg.INPUT.CROP_SIZE, cfg.SOLVER.UNLABELED_PER_BATCH) == (7, 64, 8)


def test_numbers_may_be_written_as_people_write_them(tmp_path):
    """YAML takes 1e-4 for a text, and 0 for no float."""
    (tmp_path / "my.yaml").write_text("SOLVER: {BASE_LR: 1e-4, WARMUP_FACTOR: 1, MAX_ITER: 5}\n")
    cfg = load_config(str(tmp_path / "my.yaml"), ["SEMI.GUIDANCE_WEIGHT", "0", "SEMI.CONFIDENCE", "9e-1"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.MAX_ITER) == (1e-4, 1.0, 5)
    assert (cfg.SEMI.GUIDANCE_WEIGHT, cfg.SEMI.CONFIDENCE) == (0.0, 0.9) and type(cfg.SOLVER.WARMUP_FACTOR) is float
    for number in ("inf", "9" * 400, "true"):
        with pytest.raises(UserError, match="SEMI.CONFIDENCE takes a float"):
            load_config("", ["SEMI.CONFIDENCE", number])


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("MODEL.HSQG.LEVEL", "MODEL.HSQG.LEVELS"),
        ("SEMI.CONFIDENSE", "SEMI.CONFIDENCE"),
        ("DATASETS.UNLABELLED", "DATASETS.UNLABELED"),
        ("SOLVER.BASE_RL", "SOLVER.BASE_LR"),
    ],
)
def test_unknown_key_is_answered_with_the_nearest(tmp_path, wrong, right):
    with pytest.raises(UserError, match=f"no config key '{wrong}'; did you mean {right}[?]"):
        load_config("", [wrong, "1"])
    section, name = wrong.rsplit(".", 1)
    opening = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(section.split(".")))
    file = tmp_path / "wrong.yaml"
    file.write_text(f"{opening}{'  ' * (section.count('.') + 1)}{name}: 1\n")
    with pytest.raises(UserError, match=f"wrong.yaml: there is no config key '{wrong}'; did you mean {right}[?]"):
        load_config(str(file))


def test_other_mistakes_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="there is no config key 'QQQQ'; hiervl/config/defaults.py lists all keys"):
        load_config("", ["QQQQ", "1"])
    with pytest.raises(UserError, match="KEY VALUE pairs expected"):
        load_config("", ["SEED"])
    with pytest.raises(UserError, match="SEMI.CONFIDENCE"):
        load_config("", ["SEMI.CONFIDENCE", "high"])
    (tmp_path / "quickstart.yaml").write_text("SEED: 1\n")
    with pytest.raises(UserError, match=r"did you mean .*quickstart.yaml\?$"):
        load_config(str(tmp_path / "quikstart.yaml"))
    (tmp_path / "broken.yaml").write_text("MODEL: [unclosed\n")
    with pytest.raises(UserError, match="broken.yaml"):
        load_config(str(tmp_path / "broken.yaml"))


def test_misspelt_dataset_is_answered_with_the_nearest():
    quickstart = str(SOURCES.parent / "configs" / "quickstart.yaml")
    cfg = load_config(quickstart, ["DATASETS.TRAIN", "('shapesworld_trian_16',)"])
    with pytest.raises(UserError, match="'shapesworld_trian_16' in DATASETS.TRAIN; close names are shapesworld_train"):
        prepare_config(cfg)


@pytest.mark.parametrize("form", ["lists/val.txt", "0.5"])
def test_command_line_may_give_another_form_of_validation_images(tmp_path, form):
    file = tmp_path / "own.yaml"
    file.write_text("DATASET: {VAL: 0.2, UNLABELED: photos}\n")
    cfg = load_config(str(file), ["DATASET.VAL", form, "DATASET.UNLABELED", "['a', 'b']"])
    assert (str(cfg.DATASET.VAL), cfg.DATASET.UNLABELED) == (form, ["a", "b"])


@pytest.mark.parametrize("text", ["", "- 1\n", "MODEL: 3\n"])
def test_file_of_another_shape_is_a_user_error(tmp_path, text):
    (tmp_path / "shape.yaml").write_text(text)
    with pytest.raises(UserError, match="shape.yaml"):
        load_config(str(tmp_path / "shape.yaml"))


def test_key_below_a_value_is_a_user_error():
    with pytest.raises(UserError, match="SEED.X"):
        load_config("", ["SEED.X", "1"])


@pytest.mark.parametrize("processes, expected", [(1, ("cuda:1", ["cuda:1"])), (2, ("cuda", []))])
def test_numbered_device_is_the_current_one_of_a_single_process(monkeypatch, processes, expected):
    """Random numbers and memory are asked of the current device; of several processes each has its own."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    cfg = load_config("", ["MODEL.DEVICE", "cuda:1"])
    settle_device(cfg)
    assert (cfg.MODEL.DEVICE, current) == expected


def test_device_that_is_not_there_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="MODEL.DEVICE cuda:x cannot be used here"):
        settle_device(load_config("", ["MODEL.DEVICE", "cuda:x"]))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("DATASET.VAL", "{IMAGES: a b, MASKS: c}", ["a b", "c"]),
        ("DATASET.VAL", "0.3", 0.3),
        ("DATASET.VAL", "lists/val.txt", "lists/val.txt"),
        ("DATASET.VAL", "null", None),
        ("DATASET.UNLABELED", "[more photos, x/y]", ["more photos", "x/y"]),
        ("DATASET.NAME", "12", "12"),
        ("DATASET.NAME", "'12'", "12"),
        ("SEMI.ENABLED", "false", False),
        ("INPUT.SCALE", "[0.5, 1]", (0.5, 1)),
        ("DATASETS.TEST", "[a, b]", ("a", "b")),
        ("DATASETS.TEST", "('a',)", ("a",)),
        ("SOLVER.BASE_LR", "1e-3", 0.001),
    ],
)
def test_the_command_line_takes_what_yaml_takes(key, text, value):
    cfg = load_config("", [key, text])
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == value and type(cfg) is type(value)


def test_a_section_on_the_command_line(tmp_path):
    cfg = load_config("", ["DATASET.LABELED", "{IMAGES: a, MASKS: b}"])
    assert (cfg.DATASET.LABELED.IMAGES, cfg.DATASET.LABELED.MASKS) == ("a", "b")
    assert "DATASET.LABELED.IMAGES" in keys_of_user(cfg)
    with pytest.raises(UserError, match="the command line: DATASET.VAL needs IMAGES and MASKS, not IMAGES"):
        load_config("", ["DATASET.VAL", "{IMAGES: a}"])


@pytest.mark.parametrize(
    "key, value, answer",
    [
        ("DATASETS.CLASSES", "c.yaml", "no config key 'DATASETS.CLASSES': write DATASET.CLASSES"),
        ("DATASETS.LABELED.IMAGES", "a", "no config key 'DATASETS.LABELED.IMAGES': write DATASET.LABELED.IMAGES"),
        ("DATASETS.MASKS", "b", "no config key 'DATASETS.MASKS': write DATASET.LABELED.MASKS"),
        ("DATASET.TRAIN", "('camvid_train',)", "no config key 'DATASET.TRAIN': write DATASETS.TRAIN"),
        ("DATASETS.UNLABELED", "photos", "DATASETS.UNLABELED takes .*folders of your own belong in DATASET.UNLABELED"),
    ],
)
def test_a_key_of_dataset_in_datasets_is_answered_with_the_right_one(key, value, answer):
    with pytest.raises(UserError, match=answer):
        load_config("", [key, value])


def test_folders_and_registered_names_in_each_others_place(tmp_path):
    quickstart = str(FOLDER / "quickstart.yaml")
    cfg = load_config(quickstart, ["DATASETS.TEST", f"('{tmp_path}',)"])
    with pytest.raises(UserError, match="is not a registered dataset; folders of your own belong in DATASET.VAL"):
        prepare_config(cfg)
    cfg = load_config(quickstart, ["DATASET.NAME", "own", "DATASET.VAL", "shapesworld_val"])
    with pytest.raises(UserError, match="DATASET.VAL takes folders.*'shapesworld_val'.*write it into DATASETS.TEST"):
        prepare_config(cfg)


def test_retired_keys_are_answered_and_read_from_older_runs(tmp_path):
    with pytest.raises(UserError, match="no config key 'LOSS.RECOMPUTE' any more: list the parts in MODEL.RECOMPUTE"):
        load_config("", ["LOSS.RECOMPUTE", "True"])
    old = "SOLVER: {PRESET_KEEPS: []}\nMODEL: {PIXEL_DECODER: {RECOMPUTE: %s, DROPOUT: 0.0, DIM: 64}}\n"
    (tmp_path / "used.yaml").write_text(old % "true")
    with pytest.raises(UserError, match="used.yaml: there is no config key 'MODEL.PIXEL_DECODER.RECOMPUTE' any more"):
        load_config(str(tmp_path / "used.yaml"))
    (tmp_path / "neutral.yaml").write_text(old % "false")
    assert load_config(str(tmp_path / "neutral.yaml")).MODEL.PIXEL_DECODER.DIM == 64
    assert config_from_text(old % "true", ["OUTPUT_DIR", str(tmp_path)], "a run").MODEL.PIXEL_DECODER.DIM == 64


def test_parts_to_recompute_are_names():
    cfg = load_config("", ["MODEL.RECOMPUTE", "['encoder', 'decoder']"])
    with pytest.raises(
        UserError, match="MODEL.RECOMPUTE: 'decoder' is not one of encoder, pixel_decoder, query_decoder"
    ):
        check_config(cfg)
