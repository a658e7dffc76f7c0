"""Keys that nothing reads are reported. Which keys are read is found from the source code alone."""

import fnmatch
import re
import sys

import pytest
import torch
import yacs.config
import yaml
from detectron2.config import CfgNode, get_cfg

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.config.files import SHIPPED_BASE, read_layers
from hiervl.config.keys_read import as_read, keys_read
from hiervl.config.unread import DETECTRON2_SCHEDULES, HINTS, SCHEDULE_HINT, refuse_unread_keys
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.utils.errors import UserError

WITHOUT_EFFECT = {  # what people who know Detectron2 write first
    "INPUT.RANDOM_FLIP": "none",
    "INPUT.CROP.SIZE": "[0.5, 0.5]",
    "INPUT.MIN_SIZE_TRAIN": "(480,)",
    "INPUT.MASK_FORMAT": "bitmask",
    "SOLVER.MOMENTUM": "0.8",
    "SOLVER.REFERENCE_WORLD_SIZE": "8",
    "SOLVER.STEPS": "(10, 20)",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "3",
    "MODEL.BACKBONE.FREEZE_AT": "5",
    "MODEL.RESNETS.DEPTH": "101",
    "MODEL.RETINANET.NUM_CLASSES": "3",
    "TEST.AUG.ENABLED": "True",
    "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": "0.1",
    "DATALOADER.ASPECT_RATIO_GROUPING": "False",
}


def leaves(node, prefix=""):
    found = set()
    for name, value in node.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name}
    return found


def as_yaml(key, value):
    *sections, name = key.split(".")
    return "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections)) + (
        f"{'  ' * len(sections)}{name}: {value}\n"
    )


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_keys_without_effect_are_named(key, tmp_path):
    """On the command line, in a file and in a delta."""
    value = WITHOUT_EFFECT[key]
    with pytest.raises(UserError, match=f"^the command line: nothing reads {re.escape(key)}[ ;]"):
        load_config("", [key, value])
    file = tmp_path / "my.yaml"
    file.write_text(as_yaml(key, f'"{value}"' if value.startswith("(") else value))
    for arguments in ((str(file), [], []), ("", [], [str(file)])):
        with pytest.raises(UserError, match=f"my.yaml: nothing reads {re.escape(key)}[ ;]"):
            load_config(*arguments)


def test_all_are_named_at_once_with_what_to_use(tmp_path):
    (tmp_path / "my.yaml").write_text("INPUT: {RANDOM_FLIP: none}\nSOLVER: {MOMENTUM: 0.8, BASE_LR: 0.1}\n")
    with pytest.raises(UserError) as caught:
        load_config(str(tmp_path / "my.yaml"), ["MODEL.FPN.NORM", "GN"])
    assert str(caught.value) == (
        f"{tmp_path}/my.yaml: nothing reads INPUT.RANDOM_FLIP (use INPUT.FLIP_PROBABILITY), SOLVER.MOMENTUM (the "
        "optimizer is AdamW); the command line: nothing reads MODEL.FPN.NORM (use MODEL.PIXEL_DECODER.DIM and its "
        "neighbors); leave out what has no effect."
    )


def test_a_default_value_does_no_harm(tmp_path):
    """Or the config.yaml that a run writes, which has every key, could not be used again."""
    assert load_config("", ["INPUT.RANDOM_FLIP", "horizontal", "SOLVER.STEPS", "(30000,)"]) == get_hiervl_cfg()
    expected = get_hiervl_cfg()
    (tmp_path / "config.yaml").write_text(expected.dump())
    expected.DATASET.ROOT = str(tmp_path)  # where the file lies
    read = load_config(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(read.dump()) == yaml.safe_load(expected.dump())  # a tuple within a tuple is read as a list


def test_schedules_of_detectron2_read_their_keys():
    chosen = ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "(10,)", "SOLVER.GAMMA", "0.5"]
    load_config("", chosen)
    with pytest.raises(UserError, match=re.escape(f"SOLVER.GAMMA ({SCHEDULE_HINT})")):
        load_config("", ["SOLVER.GAMMA", "0.5"])


PLUG_INS = {
    "itself": "def build(cfg, shape):\n    return cfg.SOLVER.MOMENTUM\n",
    "by its section": "def build(cfg, shape):\n    solver = cfg.SOLVER\n    return solver['MOMENTUM']\n",
    "by a function": "from detectron2.solver import build_optimizer\ndef f(cfg, m):\n    build_optimizer(cfg, m)\n",
    "by a module": "import detectron2.solver\ndef f(cfg, m):\n    detectron2.solver.build_optimizer(cfg, m)\n",
    "by a base class": "from detectron2.engine import DefaultTrainer\nclass Mine(DefaultTrainer):\n"
    "    @classmethod\n    def build_optimizer(cls, cfg, model):\n        return super().build_optimizer(cfg, model)\n",
}


@pytest.mark.parametrize("how", PLUG_INS)
def test_keys_that_a_plug_in_reads_have_an_effect(how, tmp_path, monkeypatch):
    """Also through functions of Detectron2 that it hands the config to, and those that these call."""
    cfg = load_config()
    cfg.merge_from_list(["SOLVER.MOMENTUM", "0.8", "SOLVER.REFERENCE_WORLD_SIZE", "8"])
    written = [("my.yaml", "SOLVER.MOMENTUM")]
    with pytest.raises(UserError, match="nothing reads SOLVER.MOMENTUM"):
        refuse_unread_keys(cfg, written)
    name = f"my_parts_{len(how)}"
    (tmp_path / f"{name}.py").write_text(PLUG_INS[how])
    monkeypatch.syspath_prepend(tmp_path)
    __import__(name)
    try:
        refuse_unread_keys(cfg, written)
        with pytest.raises(UserError, match="nothing reads SOLVER.REFERENCE_WORLD_SIZE"):
            refuse_unread_keys(cfg, [("my.yaml", "SOLVER.REFERENCE_WORLD_SIZE")])
    finally:
        del sys.modules[name]


def test_a_key_that_is_read_by_its_text_counts():
    """As the set-up of Detectron2 reads some."""
    assert as_read("CUDNN_BENCHMARK") in keys_read()


def test_shipped_base_has_no_key_without_effect():
    """The others are loaded by a test of theirs; this one is no choice of the user."""
    (base,) = read_layers(SHIPPED_BASE)
    written = [("base", key) for key in leaves(CfgNode(base.settings))]
    cfg = load_config(str(SHIPPED_BASE))
    assert ("base", "SOLVER.AMP.ENABLED") in written
    refuse_unread_keys(cfg, written)


def test_hints_lead_to_keys_that_are_read_from_keys_that_are_not():
    read = keys_read(unused=[DETECTRON2_SCHEDULES])
    keys, own = leaves(get_cfg()), leaves(get_hiervl_cfg())
    for pattern, hint in HINTS.items():
        meant = fnmatch.filter(keys, pattern)
        assert meant and not [key for key in meant if as_read(key) in read], pattern
        for key in re.findall(r"[A-Z]\w+(?:\.[A-Z]\w+)+", hint):
            assert key in own and as_read(key) in read, f"{pattern}: {key}"


def test_every_key_that_a_run_reads_is_found_in_the_source(world, tmp_path, options, monkeypatch):
    """Training, evaluation and set-up, observed."""
    from detectron2.engine import default_setup

    from hiervl.engine.main import argument_parser
    from hiervl.engine.trainer import SemiSupervisedTrainer

    seen = set()

    def observed(node, name):
        value = dict.__getitem__(node, name)
        if "place" in vars(node) and not isinstance(value, dict):
            seen.add(f"{vars(node)['place']}{name}")
        return value

    def mark(node, place=""):
        vars(node)["place"] = place
        for name, value in node.items():
            if isinstance(value, CfgNode):
                mark(value, f"{place}{name}.")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    monkeypatch.setattr(yacs.config.CfgNode, "__getitem__", observed, raising=False)
    torch.manual_seed(0)
    cfg = load_config("", options(world, tmp_path, "SOLVER.MAX_ITER", "1", "TEST.PICTURES", "1"))
    mark(cfg)
    cfg = prepare_config(cfg)
    default_setup(cfg, argument_parser().parse_args([]))
    trainer = SemiSupervisedTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert len(seen) > 100 and {"SOLVER.IMS_PER_BATCH", "DATASETS.TEST", "OUTPUT_DIR"} <= seen
    read = keys_read()
    assert sorted(key for key in seen if as_read(key) not in read) == []
