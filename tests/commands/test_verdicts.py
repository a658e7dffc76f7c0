"""check-data and train_net.py agree: what check-data accepts trains, what it refuses does not start."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiervl.__main__ import main
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.utils.errors import UserError

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
# Case → what check-data says of it; "": nothing is wrong.
EXPECTED = {
    "coco_boxes_among_polygons": "10 of 20 annotations have no outline (boxes only)",
    "coco_without_sizes": "",
    "contradicting_health_advice": "",
    "file_where_a_folder_is_expected/cvat_xml": "",
    "file_where_a_folder_is_expected/label_studio_json": "",
    "file_where_a_folder_is_expected/via": "",
    "file_where_a_folder_is_expected/zip_masks": "masks.zip is an archive, not a folder of files",
    "fine_tune_other_classes": None,  # warns of a class that no mask shows
    "labelme_json/labelme": "",
    "labelme_json/labelme_same": "",
    "list_names_all_images": "",
    "names_with_a_pattern/both_suffixes": "set DATASET.IMAGE_SUFFIX to _sat and DATASET.MASK_SUFFIX to _mask",
    "names_with_a_pattern/case": "",
    "names_with_a_pattern/cityscapes_like": "set DATASET.IMAGE_SUFFIX to _leftImg8bit and",
    "names_with_a_pattern/prefix": "set DATASET.IMAGE_SUFFIX to image_{} and DATASET.MASK_SUFFIX to label_{}",
    "one_bad_unlabelled_file": "1 unlabelled images cannot be read and will be left out",
    "one_mask_per_class/label_studio_png": "Label Studio's PNG export",
    "one_mask_per_class/per_class_suffix": "several masks, told apart by _blue",
    "photos_left_out_silently/heic_labelled": "10 .heic (images",
    "photos_left_out_silently/jfif_unlabelled": "1 .heic (HEIC photograph",
    "rerun_overwrites_best": "",
    "tiff_with_many_bands": "is a TIFF of 12 bands of 16 bits",
    "val_empty_training_lost": "DATASET.VAL is empty",
    "wrong_advice_missing_class": "a class is missing: add an entry for 2 at the end",
    "wrong_advice_missing_class/as_advised.yaml": "88% of the masks' pixels are 0, which does not count",
}


@pytest.fixture
def small(tmp_path, clip_file):
    """Overrides for a tiny network that trains one iteration."""
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.CLIP.NAME": clip_file,
        "MODEL.CLIP.PRETRAINED": "",
        "MODEL.CLIP.BLOCKS": "[0, 1, 2, 3]",
        "MODEL.PIXEL_DECODER.DIM": "16",
        "MODEL.PIXEL_DECODER.HEADS": "2",
        "MODEL.PIXEL_DECODER.LAYERS": "1",
        "MODEL.PIXEL_DECODER.FEEDFORWARD": "16",
        "MODEL.QUERY_DECODER.LAYERS": "1",
        "MODEL.QUERY_DECODER.HEADS": "2",
        "MODEL.QUERY_DECODER.FEEDFORWARD": "16",
        "MODEL.QUERY_DECODER.INSTANCE_QUERIES": "4",
        "LOSS.NUM_POINTS": "64",
        "INPUT.CROP_SIZE": "64",
        "SEMI.GUIDANCE_WEIGHT": "0",
        "SOLVER.MAX_ITER": "1",
        "TEST.PICTURES": "0",
        "DATALOADER.NUM_WORKERS": "0",
        "DATASET.CACHE": str(tmp_path / "cache"),
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    return [word for pair in settings.items() for word in pair]


def train(config, options):
    """None: the first iteration and an evaluation succeed; else the sentence with which training refuses."""
    try:
        trainer = SemiSupervisedTrainer(prepare_config(load_config(str(config), options)))
        trainer.resume_or_load(resume=False)
        trainer.train()
    except UserError as error:
        return str(error)
    return None


def check(config, options, capsys):
    """Exit status of check-data, and what it says."""
    status = main(["check-data", str(config), *options])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.mark.parametrize("case", EXPECTED)
def test_both_commands_share_one_verdict(case, small, capsys):
    config = CASES / case if case.endswith(".yaml") else CASES / case / "my.yaml"
    if not config.is_file():
        pytest.skip(f"there is no {config}")
    status, said = check(config, small, capsys)
    words = EXPECTED[case]
    if words is not None:
        assert words in said, said
        assert bool(words) == ("error: " in said or "warning: " in said), said
    refusal = train(config, small)
    assert (status == 0) == (refusal is None), f"check-data: {status}\n{said}\ntraining: {refusal}"


def test_no_case_is_forgotten():
    if not CASES.is_dir():
        pytest.skip(f"there is no {CASES}")
    found = {path.parent.relative_to(CASES).as_posix() for path in CASES.rglob("my.yaml")}
    assert found <= set(EXPECTED)


# ---------------------------------------------------------------------------- the same kinds, made here


def all_for_training(own):
    (own.root / "train.txt").write_text("\n".join(f"{number:02d}" for number in range(10)))
    return "LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: train.txt}\nUNLABELED: []"


def one_labeled_image(own):
    for number in range(1, 10):
        (own.root / f"labelled/images/{number:02d}.png").unlink()
        (own.root / f"labelled/masks/{number:02d}.png").unlink()
    return ""


def list_of_validation_images_that_test_has(own):
    (own.root / "some.txt").write_text("00\n01\n")
    return "VAL: some.txt\nTEST: some.txt"


def a_page_among_unlabeled_images(own):
    for number in range(20):
        own.image(f"unlabelled/v{number}.png")
    (own.root / "unlabelled/a.jpg").write_text("<html></html>")
    return ""


def a_list_that_names_a_missing_file(own):
    for number in range(30):
        own.image(f"unlabelled/v{number}.png")
    names = ["unlabelled\\gone.png", *(f"unlabelled\\v{number}.png" for number in range(30))]
    (own.root / "list.txt").write_text("\r\n".join(names))
    return "UNLABELED: list.txt"


def a_folder_from_other_systems(own):
    """Names in Latin-1, texts in the encodings of Windows, what systems leave behind, and a link upwards."""
    for kind in ("images", "masks"):
        path = own.root / f"labelled/{kind}/03.png"
        path.rename(path.with_name(os.fsdecode(b"caf\xe9.png")))
        (path.parent / "Thumbs.db").write_bytes(b"x")
        (path.parent / "@eaDir").mkdir()
        own.image(f"labelled/{kind}/@eaDir/03.png")
    (own.root / "unlabelled/up").symlink_to(own.root)
    (own.root / "classes.yaml").write_bytes(own.classes.replace("cap", "H\u00fctchen").encode("cp1252"))
    (own.root / "val.txt").write_bytes("labelled\\00.png\r\n01\r\n".encode("utf-16"))
    return "VAL: val.txt"


SOUND = [all_for_training, one_labeled_image, list_of_validation_images_that_test_has, a_page_among_unlabeled_images,
         a_list_that_names_a_missing_file, a_folder_from_other_systems]  # fmt: skip


def one_class(own):
    (own.root / "classes.yaml").write_text("classes: [cap]")
    own.masks(lambda labels: labels * 0)
    return ""


def one_class_shown(own):
    own.masks(lambda labels: labels * 0 + 1)
    return ""


def a_class_forgotten(own):
    (own.root / "classes.yaml").write_text("classes: [{name: ground, background: true}, cap]")
    return ""


def a_wrong_size(own):
    own.mask("labelled/masks/03.png", own.labels(size=(32, 64)))
    return ""


def palettes_in_another_order(own):
    """Read by their numbers, every pixel would train as another class."""
    for path in sorted((own.root / "labelled/masks").iterdir()):
        image = Image.fromarray(2 - np.array(Image.open(path)), mode="P")
        image.putpalette([0, 0, 200, 200, 0, 0, 0, 0, 0])
        image.save(path)
    return ""


def a_validation_mask_of_another_size(own):
    own.image("val/images/a.png")
    own.mask("val/masks/a.png", own.labels(size=(32, 32)))
    return "VAL: {IMAGES: val/images, MASKS: val/masks}"


def half_a_validation_image(own):
    path = own.image("val/images/a.png")
    path.write_bytes(path.read_bytes()[:500])
    own.mask("val/masks/a.png", own.labels())
    return "VAL: {IMAGES: val/images, MASKS: val/masks}"


UNSOUND = [one_class, one_class_shown, a_class_forgotten, a_wrong_size, palettes_in_another_order,
           a_validation_mask_of_another_size, half_a_validation_image]  # fmt: skip


@pytest.mark.parametrize("make", [*SOUND, *UNSOUND], ids=lambda make: make.__name__)
def test_made_cases_share_one_verdict(own, small, capsys, make):
    config = own.config(make(own))
    status, said = check(config, small, capsys)
    assert (status == 0) == (make in SOUND), said
    refusal = train(config, small)
    assert (refusal is None) == (make in SOUND), refusal
    if make in UNSOUND:
        assert not (own.root / "out/metrics.json").exists()  # refused before the first iteration


def test_a_run_without_unlabeled_images_says_so(own, small, capsys):
    assert train(own.config("UNLABELED: []"), small) is None
    assert "This training is supervised only" in capsys.readouterr().out
    shutil.rmtree(own.root / "out")
    assert train(own.config(), [*small, "SEMI.BURN_IN", "50"]) is None
    said = capsys.readouterr().out
    assert "supervised only" not in said and "are not used: SEMI.BURN_IN (50)" in said
    shutil.rmtree(own.root / "out")
    assert train(own.config(), small) is None
    said = capsys.readouterr().out
    assert "supervised only" not in said and "are not used" not in said
    assert json.loads((own.root / "out/run.json").read_text())["splits"].keys() == {"labeled", "unlabeled"}
