"""A new user's way through the commands: plain folders, one YAML, no Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hiervl.__main__ import main
from hiervl.commands.prompts import format_scores
from hiervl.data.classes.definitions import CLASS_FILES
from hiervl.inference.zero_shot import ZeroShotScores

REPOSITORY = Path(__file__).resolve().parents[2]
CAMVID = REPOSITORY.parent / "shared" / "datasets" / "camvid"
SHAPESWORLD_CLIP = "MODEL: {CLIP: {NAME: shapesworld, PRETRAINED: shapesworld, BLOCKS: [1, 2, 3, 5], DENSE: value}}"


def run(*arguments):
    return main([str(argument) for argument in arguments])


# ---------------------------------------------------------------------------- check-data


def test_check_data_of_a_sound_dataset(own, capsys):
    out = own.root / "out"
    assert run("check-data", own.config(), "--images", 3, "OUTPUT_DIR", out) == 0
    printed = capsys.readouterr().out
    assert "  train            8  64×64" in printed and "  unlabelled       4  64×64" in printed
    # 22 of 64 columns are background, 21 cap, 21 stem: 34.375 %, 32.8125 %, 32.8125 %
    assert "background  34.38%         8         2  " + 30 * "█" in printed
    assert "cap         32.81%" in printed and 29 * "█" in printed
    assert "No problems were found." in printed and "INPUT.CROP_SIZE 64 " in printed
    assert printed.rstrip().endswith("Verdict: ready to train.")
    assert (out / "check_data" / "report.txt").read_text() == printed
    sheet = np.array(Image.open(out / "check_data" / "overlays.png"))
    # Three rows of image, overlay and mask, each enlarged 4 times: red (cap) and blue (stem) areas of 256 rows
    reds = (sheet == (200, 0, 0)).all(axis=2).sum()
    assert reds >= 3 * 256 * 21 * 4


def test_check_data_names_files_and_ends_with_1(own, capsys):
    for number in range(7):
        own.mask(f"labelled/masks/{number:02d}.png", own.labels((0, 9)))
    (own.root / "unlabelled/u0.png").write_bytes(b"no image")
    assert run("check-data", own.config(), "OUTPUT_DIR", own.root / "out") == 1
    printed = capsys.readouterr().out
    assert "error: masks hold the value 9" in printed and f"    {own.root}/labelled/masks/04.png" in printed
    assert "… and 2 more" in printed and "masks/05.png" not in printed
    assert "error: 1 unlabelled images cannot be read" in printed
    assert "Verdict: not ready. 2 error(s)" in printed
    assert (own.root / "out" / "check_data" / "overlays.png").is_file()  # of the three sound ones


@pytest.mark.parametrize(
    "probability, advised", [(0.0, True), (0.5, False), (None, False)], ids=["off", "on", "chosen"]
)
def test_check_data_advises_no_colors_that_are_on_already(own, capsys, probability, advised):
    """Without a word of the user's, the preset turns them on."""
    own.save("unlabelled/u1.png", np.full((64, 64, 3), 20, dtype=np.uint8))
    options = [] if probability is None else ["SEMI.COLOR_TRANSFER", probability]
    assert run("check-data", own.config(), "OUTPUT_DIR", own.root / "out", "MODEL.DEVICE", "cpu", *options) == 0
    printed = capsys.readouterr().out
    assert "far darker than every labelled" in printed
    assert ("let labelled images take on their colours" in printed) == advised
    chosen = f"SEMI.COLOR_TRANSFER {0.7 if probability is None else probability} "
    assert chosen in printed and ("25 % of the unlabelled images" in printed) == (probability is None)


def test_check_data_of_a_missing_folder_is_one_sentence(own, capsys):
    assert run("check-data", own.config("UNLABELED: unlabeled"), "OUTPUT_DIR", own.root / "out") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: DATASET.UNLABELED: there is no folder") and error.endswith("unlabelled?")
    assert len(error.splitlines()) == 1
    assert run("split", REPOSITORY / "configs" / "Base-HierVL.yaml", "--labels", 2) == 2
    assert "has no section DATASET" in capsys.readouterr().err


# ---------------------------------------------------------------------------- split


def test_split_writes_nested_lists_that_training_reads(own, capsys):
    assert run("split", own.config(), "--labels", "2,4,6", "DATASET.VAL", "0.2") == 0
    assert "all 3 classes; fewest images" in capsys.readouterr().out
    lists = {count: (own.root / f"lists/labels_{count}.txt").read_text().splitlines() for count in (2, 4, 6)}
    assert all(lines[0].startswith("# sha256 ") and len(lines) == count + 1 for count, lines in lists.items())
    names = {count: set(lines[1:]) for count, lines in lists.items()}
    assert names[2] < names[4] < names[6]
    layout = own.layout("LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: lists/labels_4.txt}")
    assert set(layout.division["train"]) == names[4] and len(layout.division["rest"]) == 4
    before = lists[4]
    assert run("split", own.config(), "--labels", "4") == 0  # again: the same
    assert (own.root / "lists/labels_4.txt").read_text().splitlines() == before
    assert run("split", own.config(), "--labels", "4", "--seed", "1", "--output", own.root / "other") == 0
    assert (own.root / "other/labels_4.txt").read_text().splitlines() != before


def test_split_of_too_many_is_one_sentence(own, capsys):
    assert run("split", own.config(), "--labels", "9") == 2
    error = capsys.readouterr().err
    assert "--labels 9: only 8 images with masks are left for training, 2 being for validation" in error
    assert "ask for 8 at most" in error
    with pytest.raises(SystemExit):
        run("split", own.config(), "--labels", "few")
    assert "numbers from 1 on are expected, not 'few'" in capsys.readouterr().err


# ---------------------------------------------------------------------------- prompts


def test_prompts_tell_good_words_from_bad_ones(tmp_path, capsys):
    """ShapesWorld's CLIP knows colours and patterns: a phrase of neither finds nothing, and claims what is others'."""
    from hiervl.data import shapesworld

    shapesworld.write_split(tmp_path / "world", "val", 12)
    kinds = {"images": "photos", "labels": "masks"}
    for kind, folder in kinds.items():
        (tmp_path / folder).mkdir()
        for path in sorted((tmp_path / "world" / kind / "val").iterdir()):
            path.rename(tmp_path / folder / path.name)
    lines = ["classes:"]
    for name in shapesworld.CLASS_NAMES:
        phrases = [name, "shape"] if name == "striped orange shape" else [name]
        lines.append(f"  - {{name: {name}, phrases: [{', '.join(phrases)}]}}")
    (tmp_path / "classes.yaml").write_text("\n".join(lines))
    (tmp_path / "shapes.yaml").write_text(
        "DATASET: {NAME: shapes, LABELED: {IMAGES: photos, MASKS: masks}, CLASSES: classes.yaml, VAL: 0}\n"
        f"{SHAPESWORLD_CLIP}\nOUTPUT_DIR: {tmp_path / 'out'}\n"
    )
    assert run("prompts", tmp_path / "shapes.yaml") == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.strip().startswith("striped orange shape"))
    good, bad = (float(part.split()[-1]) for part in line.split("   ")[-1].split(", "))
    assert "striped orange shape" in line.split("   ")[-1].split(", ")[0] and good > 20 and bad < 5
    assert "'striped orange shape' scores" in printed and "alone: drop other phrases" in printed
    assert float(printed.split("mIoU ")[1].split()[0]) > 20
    sheets = sorted((tmp_path / "out" / "prompts").iterdir())
    assert [path.name for path in sheets] == ["classes_1.png", "classes_2.png"]


def test_phrase_that_finds_an_unseen_class_is_advised():
    """ "a" is taken for "b" everywhere, but "x" alone would find it; for "c" no phrase does."""
    scores = ZeroShotScores(["a", "b", "c"], [["x", "y"], ["z"], ["v", "w"]])
    scores.confusion[:] = [[0, 10, 0], [0, 10, 0], [0, 10, 0]]
    scores.hits[:], scores.unions[:] = [3, 0, 10, 0, 0], [10, 10, 30, 10, 10]
    advice = format_scores(scores)
    assert "'a' scores 30.0 with 'x' alone: drop other phrases." in advice
    assert "CLIP hardly finds c: describe" in advice


# ---------------------------------------------------------------------------- the whole way


@pytest.fixture
def streets(tmp_path):
    """Some of CamVid's photographs at a fifth of their size, as plain folders with RGB masks."""
    if not CAMVID.is_dir():
        pytest.skip(f"CamVid is not at {CAMVID}")
    entries = yaml.safe_load((CLASS_FILES / "camvid.yaml").read_text())["classes"]
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(entries)] = [entry["color"] for entry in entries]
    photographs = sorted((CAMVID / "images" / "train").iterdir())[::24]
    for folder in ("labelled/photos", "labelled/masks", "unlabelled"):
        (tmp_path / folder).mkdir(parents=True)
    for number, path in enumerate(photographs):
        small = Image.open(path).resize((96, 72), Image.Resampling.BOX)
        if number % 2:
            small.save(tmp_path / "unlabelled" / path.name)
            continue
        small.save(tmp_path / "labelled/photos" / path.name)
        label = Image.open(CAMVID / "labels" / "train" / f"{path.stem}.png").resize((96, 72), Image.Resampling.NEAREST)
        Image.fromarray(palette[np.array(label)]).save(tmp_path / "labelled/masks" / f"{path.stem}.png")
    classes = [*entries, {"name": "void", "ignore": True, "color": [0, 0, 0]}]
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"classes": classes}))
    (tmp_path / "streets.yaml").write_text(
        "_BASE_: Base-HierVL.yaml\n"
        "DATASET: {NAME: streets, LABELED: {IMAGES: labelled/photos, MASKS: labelled/masks}, UNLABELED: unlabelled,\n"
        f"          VAL: 0.25, CLASSES: classes.yaml, CACHE: {tmp_path / 'cache'}}}\n"
        f"{SHAPESWORLD_CLIP}\nSOLVER: {{MAX_ITER: 2}}\nTEST: {{PICTURES: 2}}\nDATALOADER: {{NUM_WORKERS: 0}}\n"
        f"OUTPUT_DIR: {tmp_path / 'out'}\n"
    )
    return tmp_path


def test_a_new_users_run(streets, capsys):
    """check-data, prompts, training, results."""
    config = streets / "streets.yaml"
    assert run("check-data", config) == 0
    assert run("prompts", config) == 0
    assert "the 6 labelled images of the training set" in capsys.readouterr().out
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", str(config)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "SOLVER.MAX_ITER 2 " in ended.stdout and "yours" in ended.stdout
    results = json.loads((streets / "out" / "results.json").read_text())["sem_seg"]
    assert results["images"] == 2 and set(results["IoU"]) >= {"sky", "bicyclist"} and "void" not in results["IoU"]
    assert 0 <= results["mIoU"] <= 100
    for name in ("model_final.pth", "predictions_streets_val.png", "config.yaml"):
        assert (streets / "out" / name).is_file()


def test_training_says_what_is_wrong_in_one_sentence(own):
    from hiervl.engine import main as engine_main

    (own.root / "labelled/masks/03.png").unlink()
    arguments = engine_main.argument_parser().parse_args(["--config-file", own.config()])
    with pytest.raises(SystemExit) as ended:
        engine_main.run(arguments)
    message = str(ended.value)
    assert message.startswith("error: 1 labelled images have no mask") and "03.png" in message and "\n" not in message
