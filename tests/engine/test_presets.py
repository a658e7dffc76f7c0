import numpy as np
import pytest
import yaml
from PIL import Image

from hiervl.config.keys import get_value
from hiervl.engine.presets import (
    Facts,
    apply_preset,
    choose,
    estimated_memory,
    format_choices,
    machine_memory,
    read_sizes,
    unseen_light,
)
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.modeling.encoder_size import EncoderSize
from hiervl.utils.errors import UserError


def facts(size=(360, 480), labeled=40, unlabeled=320, memory=None, processes=1, unseen_light=0.0):
    return Facts(np.array([size] * 3), labeled, unlabeled, memory, "a GPU", processes, unseen_light)


def chosen(known, *overrides):
    """The configuration after the choices, and the reasons."""
    cfg = load_config("", list(map(str, overrides)))
    choices = choose(cfg, known)
    assert len({choice.key for choice in choices}) == len(choices)
    return cfg, {choice.key: choice.reason for choice in choices}


def test_a_gpu_of_24_gib():
    """Crop 512: one pair takes 0.5 + 3.3 = 3.8 GiB beside 4 fixed ones; of 0.85 · 24 = 20.4 GiB four pairs fit."""
    cfg, reasons = chosen(facts(size=(1000, 1500), memory=24.0))
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.SHORT_SIDE) == (512, 0)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.UNLABELED_PER_BATCH, cfg.SOLVER.ACCUMULATION) == (8, 8, 2)
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.SOLVER.AMP.ENABLED
    assert "4 pairs at once need about 19 GiB (an estimate) of 24 (a GPU)" == reasons["SOLVER.ACCUMULATION"]
    assert cfg.SOLVER.MAX_ITER == 4000  # 80 passes of 40 iterations are 3200, fewer than the least
    assert cfg.TEST.EVAL_PERIOD == cfg.SOLVER.CHECKPOINT_PERIOD == 400
    assert cfg.MODEL.PIXEL_DECODER.DIM == 256


def test_more_memory_means_fewer_parts_not_more_images():
    cfg, _ = chosen(facts(memory=80.0))
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION) == (8, 1)
    assert cfg.INPUT.CROP_SIZE == 352  # 360 in multiples of 32


def test_little_memory_means_a_smaller_crop():
    cfg, reasons = chosen(facts(size=(1000, 1000), memory=6.0))
    assert cfg.INPUT.CROP_SIZE < 512 and "fits into 6 GiB" in reasons["INPUT.CROP_SIZE"]
    assert estimated_memory(cfg.INPUT.CROP_SIZE, 1) <= 0.85 * 6 < estimated_memory(cfg.INPUT.CROP_SIZE + 32, 1)
    assert cfg.SOLVER.ACCUMULATION == 8


def test_memory_follows_the_encoder():
    """By hand: 4 + 1.8 − 0.8 GiB, and of a pair 0.5 + (1.3 · 2 + 2.0 · 1.5) · (504 / 512)², 500 being padded to 504."""
    encoder = EncoderSize(unit=28, positions=1.5, activations=2.0, weight_gib=1.8)
    assert estimated_memory(500, 2, encoder=encoder) == pytest.approx(5 + 2 * (0.5 + 5.6 * (504 / 512) ** 2))


def test_patches_of_14_pixels_have_crops_of_their_own_and_need_more_memory():
    """Maps of half a patch of 14 pixels: multiples of 28. Of 20.4 GiB 3 pairs of 4.6 fit beside 5.2, so 4 times 2."""
    cfg, reasons = chosen(facts(size=(1000, 1500), memory=24.0), "MODEL.ENCODER.NAME", "vit_base_patch14_dinov2",
                          "MODEL.CLIP.TRAINABLE", "all")  # fmt: skip
    assert (cfg.INPUT.CROP_SIZE, cfg.SOLVER.ACCUMULATION) == (504, 4)
    assert "in multiples of 28" in reasons["INPUT.CROP_SIZE"]


def test_on_the_cpu_crops_are_multiples_of_the_encoders_stride():
    assert chosen(facts(), "MODEL.CLIP.NAME", "ViT-B-32")[0].INPUT.CROP_SIZE == 128  # maps of half a patch: 64


def test_large_photographs_are_made_smaller():
    cfg, _ = chosen(facts(size=(3000, 4000), memory=24.0))
    assert (cfg.INPUT.SHORT_SIDE, cfg.INPUT.CROP_SIZE) == (1024, 512)


@pytest.mark.parametrize("key, value", [("NAME", "ViT-B-32"), ("PRETRAINED", "/weights.pt")])
def test_a_clip_of_ones_own_is_kept_on_the_cpu(key, value):
    """With it, nothing of the encoder that HierVL brings is mixed in; on a GPU that is never chosen."""
    cfg, choices = chosen(facts(), f"MODEL.CLIP.{key}", value)
    assert cfg.MODEL.CLIP[key] == value and not any("MODEL.CLIP" in name for name in choices)
    assert cfg.SOLVER.BACKBONE_MULTIPLIER == 0.01
    assert chosen(facts(memory=24.0))[0].MODEL.CLIP.NAME == "ViT-B-16-quickgelu"


def test_iterations_grow_with_the_data_up_to_a_limit():
    """80 passes over 1600 images in eights: 16000."""
    assert chosen(facts(unlabeled=1600, memory=24.0))[0].SOLVER.MAX_ITER == 16000
    assert chosen(facts(labeled=1600, unlabeled=0, memory=24.0))[0].SOLVER.MAX_ITER == 16000
    assert chosen(facts(unlabeled=10**6, memory=24.0))[0].SOLVER.MAX_ITER == 40000


def test_the_cpu_gets_a_small_network():
    cfg, _ = chosen(facts())
    assert (cfg.MODEL.DEVICE, cfg.MODEL.PIXEL_DECODER.DIM, cfg.SOLVER.AMP.ENABLED) == ("cpu", 64, False)
    assert (cfg.INPUT.SHORT_SIDE, cfg.INPUT.CROP_SIZE) == (180, 160)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.UNLABELED_PER_BATCH, cfg.SOLVER.ACCUMULATION) == (4, 4, 1)
    assert cfg.SOLVER.BASE_LR == 2.83e-3  # 4e-3 · √(4/8)
    assert (cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED) == ("imagenet-lite", "imagenet-lite")
    cfg, _ = chosen(facts(size=(64, 64)))
    assert (cfg.INPUT.SHORT_SIDE, cfg.INPUT.CROP_SIZE) == (0, 64)


def test_the_cpu_trains_as_camvid_with_46_labels_does():
    """What was measured on photographs is what own folders get; what follows from the data or the task may differ."""
    cfg, choices = chosen(facts())
    measured = load_config("camvid_46_cpu.yaml")
    free = {
        "INPUT.SHORT_SIDE",
        "INPUT.CROP_SIZE",
        "SOLVER.MAX_ITER",
        "SOLVER.BASE_LR",
        "SEMI.BURN_IN",
        "TEST.EVAL_PERIOD",
    }
    free |= {"SOLVER.CHECKPOINT_PERIOD", "DATALOADER.NUM_WORKERS", "LOSS.NUM_POINTS", "SOLVER.ACCUMULATION"}
    free |= {"MODEL.QUERY_DECODER.INSTANCE_QUERIES"}  # objects may be asked for
    different = {
        key: get_value(cfg, key) for key in set(choices) - free if get_value(cfg, key) != get_value(measured, key)
    }
    assert not different and len(set(choices) - free) > 25
    names = {"BURN_IN", "HEALTH_PERIOD", "GUIDANCE_WEIGHT", "GUIDANCE_LAST_WEIGHT"}  # of the length and the CLIP
    assert {name for name in measured.SEMI if cfg.SEMI[name] != measured.SEMI[name]} <= names


def test_pseudo_labels_begin_halfway_on_the_cpu():
    assert chosen(facts())[0].SEMI.BURN_IN == 500
    assert chosen(facts(), "SOLVER.MAX_ITER", 90)[0].SEMI.BURN_IN == 45
    assert chosen(facts(), "SEMI.BURN_IN", 7)[0].SEMI.BURN_IN == 7
    assert "SEMI.BURN_IN" not in chosen(facts(), "SEMI.ENABLED", False)[1]
    assert "SEMI.BURN_IN" not in chosen(facts(memory=24.0))[1]


@pytest.mark.parametrize("given, expected", [((), 1000), ((400,), 100), ((400, 300), 300)])
def test_a_gpu_trains_on_labels_alone_for_a_quarter_at_most(tmp_path, given, expected):
    config = tmp_path / "my.yaml"
    config.write_text("_BASE_: Base-HierVL.yaml\nSOLVER: {PRESET: 24gb}\n")
    keys = ("SOLVER.MAX_ITER", "SEMI.BURN_IN")
    cfg = load_config(str(config), [str(word) for pair in zip(keys, given) for word in pair])
    choose(cfg, facts(memory=24.0))
    assert cfg.SEMI.BURN_IN == expected


def test_colors_are_transferred_where_unlabeled_images_are_in_another_light():
    cfg, reasons = chosen(facts(unseen_light=0.18))
    assert (cfg.SEMI.COLOR_TRANSFER, cfg.SEMI.COLOR_AGREEMENT) == (0.7, True)
    assert reasons["SEMI.COLOR_TRANSFER"].startswith("18 % of the unlabelled images")
    assert chosen(facts(unseen_light=0.18), "SEMI.COLOR_TRANSFER", 0.2)[0].SEMI.COLOR_TRANSFER == 0.2
    for known, *overrides in ((facts(),), (facts(unseen_light=0.18), "SEMI.ENABLED", False)):
        cfg, reasons = chosen(known, *overrides)
        assert not cfg.SEMI.COLOR_TRANSFER and "SEMI.COLOR_TRANSFER" not in reasons


def test_light_is_compared_by_the_images_themselves(tmp_path):
    """One of three unlabelled images that can be read is darker than three quarters of the darkest labelled one."""
    files = {}
    for name, gray in (("a", 100), ("b", 140), ("c", 70), ("d", 110), ("e", 150)):
        files[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (30, 20), (gray, gray, gray)).save(files[name])
    (tmp_path / "broken.jpg").write_text("<html>not found</html>")
    unlabeled = [files["c"], str(tmp_path / "broken.jpg"), files["d"], files["e"]]
    assert unseen_light([files["a"], files["b"]], unlabeled) == pytest.approx(1 / 3)
    assert unseen_light([files["c"], files["e"]], unlabeled) == 0.0
    assert unseen_light([files["a"]], []) == 0.0


def test_the_users_values_win_and_the_rest_follows_them():
    cfg, reasons = chosen(
        facts(size=(1000, 1000), memory=24.0), "SOLVER.IMS_PER_BATCH", 2, "INPUT.CROP_SIZE", 256, "SOLVER.EPOCHS", 3
    )
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.CROP_SIZE, cfg.SOLVER.EPOCHS) == (2, 256, 3)
    assert reasons["SOLVER.IMS_PER_BATCH"] == reasons["INPUT.CROP_SIZE"] == "yours"
    assert (cfg.SOLVER.UNLABELED_PER_BATCH, cfg.SOLVER.ACCUMULATION, cfg.SOLVER.BASE_LR) == (2, 1, 5e-5)
    assert "SOLVER.MAX_ITER" not in reasons


def test_batches_divide_among_processes():
    """Three processes: the batch becomes 9, 3 pairs for each; but only 2 of 0.5 + 5.4 GiB fit into 20.4 − 4."""
    cfg, _ = chosen(facts(size=(1000, 1000), memory=24.0, processes=3))
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.UNLABELED_PER_BATCH, cfg.SOLVER.ACCUMULATION) == (9, 9, 3)
    cfg, _ = chosen(facts(size=(1000, 1000), memory=32.0, processes=3))
    assert cfg.SOLVER.ACCUMULATION == 1


def test_choices_are_printed_once_with_their_reasons(own, capsys):
    cfg = prepare_config(load_config(own.config(), ["OUTPUT_DIR", str(own.root / "out"), "SOLVER.BASE_LR", "0.5"]))
    printed = capsys.readouterr().out
    assert "INPUT.CROP_SIZE 64 " in printed and "the shorter side (64 px)" in printed
    assert "SOLVER.BASE_LR 0.5 " in printed and "yours" in printed
    assert cfg.SOLVER.PRESET == "none"
    (own.root / "dumped.yaml").write_text(cfg.dump())  # the run's own record is never changed by a preset
    again = prepare_config(load_config(str(own.root / "dumped.yaml")))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert "chosen for you" not in capsys.readouterr().out


def test_presets_by_name(own):
    assert apply_preset(load_config("", [])) == []  # no dataset of the user's own: nothing is chosen
    for preset in ("24gb", "cpu"):
        cfg = prepare_config(load_config(own.config(), ["OUTPUT_DIR", str(own.root / "out"), "SOLVER.PRESET", preset]))
        assert (cfg.MODEL.PIXEL_DECODER.DIM == 64) == (preset == "cpu")
    cfg = prepare_config(load_config(own.config(), ["OUTPUT_DIR", str(own.root / "out"), "SOLVER.PRESET", "none"]))
    assert cfg.INPUT.CROP_SIZE == 512
    with pytest.raises(UserError, match="SOLVER.PRESET is one of auto, 24gb, cpu, none, not '48gb'"):
        prepare_config(load_config(own.config(), ["SOLVER.PRESET", "48gb"]))


def test_facts_of_the_machine():
    assert machine_memory("cuda", "24gb") == (24.0, "the preset")
    assert machine_memory("cpu", "auto") == (None, "") and machine_memory("cuda", "cpu") == (None, "")


def test_sizes_are_read_from_some_of_many_files():
    read = []
    files = [str(n) for n in range(1000)]
    sizes = read_sizes(files[:250], files[250:], limit=10, size_of=lambda file: read.append(file) or (1, 2))
    assert len(read) == 10 and read[1] == "100" and sizes.tolist() == [[1, 2]] * 10


def test_sizes_of_unlabeled_files_that_cannot_be_read_are_left_out(tmp_path):
    whole, page = tmp_path / "whole.png", tmp_path / "page.jpg"
    Image.new("RGB", (30, 20)).save(whole)
    page.write_text("<html>not found</html>")
    assert read_sizes([str(whole)], [str(page), str(whole)]).tolist() == [[20, 30]] * 2
    with pytest.raises(UserError, match="page.jpg cannot be read"):
        read_sizes([str(page)], [str(whole)])


def test_table_of_choices_is_aligned():
    cfg = load_config("", [])
    lines = format_choices(choose(cfg, facts()))
    assert len(lines.splitlines()) > 10 and "SOLVER.PRESET" in lines.splitlines()[0]
