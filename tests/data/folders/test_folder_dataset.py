"""A user's folders as datasets of Detectron2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiervl.data.folders.dataset import register_folder_dataset
from hiervl.data.folders.files import write_list
from hiervl.data.loading.loaders import build_semi_supervised_loader
from hiervl.data.loading.mappers import LabeledMapper
from hiervl.data.loading.readers import read_image
from hiervl.data.registered.datasets import load_dataset
from hiervl.engine.run_config import load_config, prepare_config, register_own_dataset
from hiervl.utils.errors import UserError

PALETTE = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], dtype=np.uint8)


def names(dicts):
    return sorted(entry["image_id"] for entry in dicts)


def division(own, dataset=""):
    layout = own.layout(dataset)
    return {split: sorted(samples) for split, samples in layout.division.items()}


def test_one_yaml_fills_the_configuration(own):
    cfg = load_config(own.config(), ["OUTPUT_DIR", str(own.root / "out")])
    cfg = prepare_config(cfg)
    assert cfg.DATASETS.TRAIN == ("own_train",)
    assert cfg.DATASETS.UNLABELED == ("own_unlabeled",)
    assert cfg.DATASETS.TEST == ("own_val",)
    assert cfg.MODEL.HSQG.ALWAYS_ACTIVE == ["background"]
    train, val = names(load_dataset("own_train")), names(load_dataset("own_val"))
    assert len(train) == 8 and len(val) == 2 and not set(train) & set(val)
    unlabeled = load_dataset("own_unlabeled")
    assert names(unlabeled) == ["u0", "u1", "u2", "u3"] and "sem_seg_file_name" not in unlabeled[0]
    metadata = MetadataCatalog.get("own_train")
    assert metadata.stuff_classes == ["background", "cap", "stem"]
    assert metadata.stuff_colors == PALETTE.tolist() and metadata.ignore_label == 255
    # index masks are read as they are
    assert load_dataset("own_train")[0]["sem_seg_file_name"].startswith(str(own.root / "labelled/masks"))
    assert not list((own.root / "cache").rglob("*.png"))


def test_a_class_marked_as_background_is_always_active(own):
    text = own.classes.replace("name: background,", "name: forest floor,")
    (own.root / "classes.yaml").write_text(text)
    cfg = load_config(own.config())
    register_own_dataset(cfg)
    assert "forest floor" in cfg.MODEL.HSQG.ALWAYS_ACTIVE


def test_datasets_that_the_user_names_stay(own):
    cfg = load_config(own.config(), ["DATASETS.TEST", "('camvid_val',)", "DATASETS.TRAIN", "('own_train', 'x')"])
    register_own_dataset(cfg)
    assert cfg.DATASETS.TEST == ("camvid_val",) and cfg.DATASETS.TRAIN == ("own_train", "x")


def test_without_unlabeled_images_training_is_supervised(own):
    cfg = load_config(own.config("UNLABELED: []"))
    register_own_dataset(cfg)
    assert cfg.DATASETS.UNLABELED == () and not cfg.SEMI.ENABLED


def test_python_does_the_same_as_yaml(own):
    registered = register_folder_dataset(
        "own_python",
        "labelled/images",
        "labelled/masks",
        own.root / "classes.yaml",
        root=own.root,
        unlabeled=["unlabelled"],
        val=0.3,
    )
    assert registered == ("own_python_train", "own_python_unlabeled", "own_python_val", None)
    assert len(DatasetCatalog.get("own_python_train")) == 7 and len(DatasetCatalog.get("own_python_val")) == 3
    with pytest.raises(UserError, match="there is a dataset camvid_train already"):
        register_folder_dataset("camvid", "labelled/images", "labelled/masks", own.root / "classes.yaml", own.root)


def test_validation_by_fraction_list_or_folders(own):
    parts = division(own, "VAL: 0.3")
    assert (len(parts["train"]), len(parts["val"]), len(parts["rest"])) == (7, 3, 0)
    assert division(own, "VAL: 0.3") == parts
    assert division(own, "VAL: 0.3\nSEED: 1") != parts
    (own.root / "val.txt").write_text("03.png\n07\n")
    assert division(own, "VAL: val.txt")["val"] == ["03", "07"]
    own.image("other/images/a.png")
    own.mask("other/masks/a.png", own.labels())
    parts = division(own, "VAL: {IMAGES: other/images, MASKS: other/masks}\nTEST: val.txt")
    assert parts["val"] == ["a"] and parts["test"] == ["03", "07"] and len(parts["train"]) == 8
    parts = division(own, "VAL: 0")
    assert parts["val"] == [] and len(parts["train"]) == 10


def test_parts_may_share_a_folder_of_images(own, caplog):
    """Then the masks say whose an image is, and an image without any is unlabelled or an error."""
    (own.root / "labelled/val_masks").mkdir()
    for stem in ("03", "07"):
        (own.root / f"labelled/masks/{stem}.png").rename(own.root / f"labelled/val_masks/{stem}.png")
    separate = "VAL: {IMAGES: labelled/images, MASKS: labelled/val_masks}"
    parts = division(own, separate)
    assert parts["val"] == ["03", "07"] and len(parts["train"]) == 8 and not caplog.records
    (own.root / "labelled/masks/04.png").unlink()
    with pytest.raises(UserError, match="DATASET.LABELED: .*04.png has no mask"):
        division(own, separate)
    layout = own.layout(f"{separate}\nUNLABELED: [labelled/images]")
    assert len(layout.division["train"]) == 7 and [Path(path).name for path in layout.unlabeled] == ["04.png"]
    shutil.copy(own.root / "labelled/val_masks/03.png", own.root / "labelled/masks/03.png")
    parts = division(own, f"{separate}\nUNLABELED: [labelled/images]")
    assert parts["val"] == ["03", "07"] and "03" not in parts["train"]
    assert "1 of the images are for validation or test too, such as 03" in caplog.text


def test_images_of_a_list_that_another_part_has_are_named(own, caplog):
    """Test images come first, then those for validation, then those for training."""
    write_list(own.root / "test.txt", ["03"])
    write_list(own.root / "val.txt", ["03", "07"])
    write_list(own.root / "labels.txt", ["00", "07"])
    listed = "LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: labels.txt}\n"
    parts = division(own, listed + "VAL: val.txt\nTEST: test.txt")
    assert (parts["test"], parts["val"], parts["train"]) == (["03"], ["07"], ["00"])
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "DATASET.VAL: 1 of the images are for test too, such as 03, and left out here."
    assert second.startswith("DATASET.LABELED.LIST: 1 of the images are for validation or test too, such as 07")


def test_fraction_gives_every_class_to_both_sides(own):
    """stem is in two images only, cap in two others."""
    own.masks(np.zeros_like)
    for number, value in ((1, 1), (4, 1), (6, 2), (9, 2)):
        own.mask(f"labelled/masks/{number:02d}.png", own.labels((0, value)))
    for seed in range(5):
        parts = division(own, f"VAL: 0.2\nSEED: {seed}")
        assert len(set(parts["val"]) & {"01", "04"}) == 1 and len(set(parts["val"]) & {"06", "09"}) == 1


def test_list_of_labeled_images_leaves_the_rest_unlabeled(own):
    (own.root / "labels.txt").write_text("00\n01\n02\n")
    listed = "LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: labels.txt}\n"
    layout = own.layout(listed + "VAL: 0.2")
    val = set(layout.division["val"])
    assert val == set(own.layout("VAL: 0.2").division["val"])  # a list does not change who validates
    assert set(layout.division["train"]) == {"00", "01", "02"} - val
    unlabeled = {Path(path).stem for path in layout.unlabeled}
    assert unlabeled == {f"{n:02d}" for n in range(3, 10)} - val | {"u0", "u1", "u2", "u3"}


def test_list_that_was_changed_says_so_before_anything_else(own):
    write_list(own.root / "labels.txt", ["00", "01"])
    with open(own.root / "labels.txt", "a") as file:
        file.write("zzz\n")
    with pytest.raises(UserError, match="LIST: the names in .*labels.txt were changed after it was drawn"):
        division(own, "LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: labels.txt}\nVAL: 0")


def test_files_that_windows_saved(own):
    """YAML with a mark in front and two characters at the end of a line, a list with backslashes."""
    (own.root / "more.txt").write_bytes(b"\xef\xbb\xbfunlabelled\\u0.png\r\nunlabelled/u1.png\r\n")
    config = Path(own.config("UNLABELED: [more.txt]"))
    for path in (config, own.root / "classes.yaml"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    layout = register_own_dataset(load_config(str(config)))
    assert [Path(path).name for path in layout.unlabeled] == ["u0.png", "u1.png"]
    assert layout.class_map.class_names == ["background", "cap", "stem"]


def test_unlabeled_images_are_never_masks_nor_labeled_ones(own):
    layout = own.layout("UNLABELED: .")
    assert sorted(Path(path).stem for path in layout.unlabeled) == ["u0", "u1", "u2", "u3"]
    (own.root / "some.txt").write_text("unlabelled/u1.png\nlabelled/images/00.png\n")
    layout = own.layout("UNLABELED: [some.txt]\nVAL: 0")
    assert [Path(path).stem for path in layout.unlabeled] == ["u1"]


def test_masks_beside_images_with_a_suffix(own):
    for path in (own.root / "labelled/masks").iterdir():
        path.rename(own.root / "labelled/images" / f"{path.stem}_mask.png")
    same = "LABELED: {IMAGES: labelled/images, MASKS: labelled/images}\n"
    layout = own.layout(same + "MASK_SUFFIX: _mask")
    assert sorted(layout.labeled.samples) == [f"{n:02d}" for n in range(10)] and layout.labeled.extra == []
    with pytest.raises(UserError, match="holds both images and masks: .* set DATASET.MASK_SUFFIX"):
        own.layout(same).division  # noqa: B018


@pytest.mark.parametrize("image, mask", [("{}_rgb", "{}_seg"), ("photo-{}", "label-{}")])
def test_both_patterns_of_images_and_masks_in_one_folder_are_named(own, image, mask):
    images, masks = own.root / "labelled/images", own.root / "labelled/masks"
    for path in list(images.iterdir()):
        path.rename(images / (image.format(path.stem) + path.suffix))
    for path in list(masks.iterdir()):
        path.rename(images / (mask.format(path.stem) + path.suffix))
    same = "LABELED: {IMAGES: labelled/images, MASKS: labelled/images}\n"
    with pytest.raises(UserError, match="holds both images and masks") as raised:
        own.layout(same).division  # noqa: B018
    named = sorted(text.replace("{}_", "_") for text in (image, mask))
    assert "of two kinds, {} and {}, set DATASET.IMAGE_SUFFIX".format(*named) in str(raised.value)
    image_suffix, mask_suffix = (text.replace("{}_", "_") for text in (image, mask))
    layout = own.layout(f"{same}IMAGE_SUFFIX: '{image_suffix}'\nMASK_SUFFIX: '{mask_suffix}'")
    assert len(layout.labeled.samples) == 10 and not layout.labeled.extra


def test_converted_masks_are_kept_until_something_changes(own):
    own.masks(lambda labels: PALETTE[labels])
    (entry, *_) = own.layout("VAL: 0").dicts("train")
    converted = entry["sem_seg_file_name"]
    assert converted.startswith(str(own.root / "cache" / "own"))
    assert np.array(Image.open(converted)).tolist() == own.labels().tolist()
    written = len(list((own.root / "cache/own").iterdir()))
    assert own.layout("VAL: 0").dicts("train")[0]["sem_seg_file_name"] == converted
    assert len(list((own.root / "cache/own").iterdir())) == written == 10
    own.mask("labelled/masks/00.png", PALETTE[np.ones((64, 64), dtype=np.uint8)])
    changed = own.layout("VAL: 0").dicts("train")[0]["sem_seg_file_name"]
    assert changed != converted and (np.array(Image.open(changed)) == 1).all()
    merged = own.classes.replace("name: stem,", "name: stem, merge_into: cap,")
    (own.root / "classes.yaml").write_text(merged)
    again = own.layout("VAL: 0").dicts("train")[1]["sem_seg_file_name"]
    assert np.unique(np.array(Image.open(again))).tolist() == [0, 1]


def test_coco_masks_give_instances(own):
    images = [{"id": n, "file_name": f"{n:02d}.png", "height": 64, "width": 64} for n in range(10)]
    boxes = [[0, 0, 20, 0, 20, 64, 0, 64], [40, 0, 64, 0, 64, 64, 40, 64]]
    annotations = [
        {"id": 2 * n + side, "image_id": n, "category_id": 1, "segmentation": [boxes[side]]}
        for n in range(10)
        for side in range(2)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cap"}]}
    (own.root / "masks.json").write_text(json.dumps(content))
    dicts = own.layout("LABELED: {IMAGES: labelled/images, MASKS: masks.json}\nVAL: 0").dicts("train")
    mapper = LabeledMapper(64, 0, (1.0, 1.0), 0.0, num_classes=3)
    sample = mapper(dicts[0], np.random.default_rng(0))
    assert sample["sem_seg"][0, [0, 30, 50]].tolist() == [1, 0, 1]
    left, between, right = sample["instance_ids"][0, [0, 30, 50]].tolist()
    assert between == 0 and left > 0 and right > 0 and left != right


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_formats_of_images_reach_training(own, suffix, mode):
    if mode == "RGBA" and suffix == "jpg":
        pytest.skip("JPEG has no transparency")
    (own.root / "labelled/images/00.png").unlink()
    Image.new("RGB", (64, 64), (40, 120, 200)).convert(mode).save(own.root / f"labelled/images/00.{suffix}")
    entry = next(entry for entry in own.layout("VAL: 0").dicts("train") if entry["image_id"] == "00")
    expected = (105, 105, 105) if mode == "L" else (40, 120, 200)  # 0.299·40 + 0.587·120 + 0.114·200
    assert np.abs(read_image(entry["file_name"]).astype(int) - expected).max() <= 5  # JPEG and WebP lose a little


def test_training_loader_reads_it(own):
    own.masks(lambda labels: PALETTE[labels])
    cfg = prepare_config(load_config(own.config(), ["OUTPUT_DIR", str(own.root / "out")]))
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    batch = next(iter(build_semi_supervised_loader(cfg)))
    assert {entry["image_id"][0] for entry in batch["unlabeled"]} == {"u"}
    assert all(set(entry["sem_seg"].unique().tolist()) <= {0, 1, 2, 255} for entry in batch["labeled"])


MISTAKES = {
    "LABELED: {IMAGES: labeled/images, MASKS: labelled/masks}":
        r"DATASET.LABELED.IMAGES: there is no folder .*labeled/images \(nor .*labeled\)\.",
    "LABELED: {IMAGES: labelled/images, MASKS: labelled/mask}":
        "DATASET.LABELED.MASKS: there is no folder .*; did you mean .*masks[?]",
    "LABELED: {IMAGES: labelled/images}": "DATASET.LABELED.MASKS is empty",
    "UNLABELED: unlabeled": "DATASET.UNLABELED: there is no folder .*; did you mean .*unlabelled[?]",
    "UNLABELED: {A: b}": "own.yaml: DATASET.UNLABELED takes",
    "VAL: 20": "DATASET.VAL is a fraction from 0 to below 1, a list file, or two folders .* not 20",
    "VAL: {IMAGES: a}": "DATASET.VAL needs IMAGES and MASKS, not IMAGES",
    "VAL: val.txt": "DATASET.VAL: the list .*val.txt cannot be read",
    "VAL: {IMAGES: labelled/images, MASKS: labelled/../labelled/masks}":
        "DATASET.VAL is the same folder as LABELED, .*: write a share such as 0.2, a list file, or another folder",
    "TEST: {IMAGES: labelled/images, MASKS: labelled/masks}": "DATASET.TEST is the same folder as LABELED",
    "VALID: 0.2": "own.yaml: there is no config key 'DATASET.VALID'; did you mean DATASET.VAL[?]",
    "MASK_VALUES: colour": "DATASET.MASK_VALUES is one of auto, index, color, not 'colour'",
}  # fmt: skip


@pytest.mark.parametrize("dataset", MISTAKES)
def test_mistakes_get_one_sentence(own, dataset):
    with pytest.raises(UserError, match=MISTAKES[dataset]) as error:
        layout = own.layout(dataset)
        assert layout.division and layout.unlabeled
    assert "\n" not in str(error.value)


def test_mistakes_in_files_get_one_sentence(own):
    with pytest.raises(UserError, match="DATASET.NAME is empty"):
        register_own_dataset(load_config(own.config(), ["DATASET.NAME", ""]))
    with pytest.raises(UserError, match="DATASET.NAME names files, too: .* but it is '../own'"):
        register_own_dataset(load_config(own.config(), ["DATASET.NAME", "../own"]))
    with pytest.raises(UserError, match="DATASET.CLASSES is empty"):
        register_own_dataset(load_config(own.config(), ["DATASET.CLASSES", ""]))
    (own.root / "labelled/masks/04.png").unlink()
    with pytest.raises(UserError, match="DATASET.LABELED: .*04.png has no mask: add it"):
        own.layout().division  # noqa: B018
    (own.root / "classes.yaml").unlink()
    with pytest.raises(UserError, match="the class file .*classes.yaml cannot be read"):
        own.layout()


def test_a_finished_run_needs_no_files_to_be_read(own):
    """Its config names the datasets, so that prediction works on another machine."""
    (own.root / "classes.yaml").unlink()
    cfg = load_config(own.config(), ["DATASETS.TRAIN", "('own_train',)"])
    assert register_own_dataset(cfg, training=False) is None
    with pytest.raises(UserError, match="classes.yaml cannot be read"):
        register_own_dataset(cfg, training=True)


@pytest.mark.parametrize("written", ["20%", '"20 %"', "20", "0,2"])
def test_shares_in_other_words_are_told_how_to_be_written(own, written):
    with pytest.raises(UserError, match="DATASET.VAL is a fraction .*: write 0.2 for 20% of the images"):
        own.layout(f"VAL: {written}")
