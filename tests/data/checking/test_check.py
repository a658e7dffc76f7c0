"""Common faults in users' data: each is made here, and check-data must explain it."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hiervl.data.checking.check import check
from hiervl.data.checking.readings import NEW_CLASS
from hiervl.data.checking.values import _gray
from hiervl.data.folders.dataset import settle_parts
from hiervl.engine.run_config import load_config, require_own_dataset
from hiervl.utils.errors import UserError

FIRST = "labelled/masks/00.png"
PALETTE = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], dtype=np.uint8)


def findings(own, dataset="", **options):
    return check(own.layout(dataset), **options).findings


def test_sound_data_have_no_findings(own):
    report = check(own.layout(), crop_size=64)
    assert report.findings == [] and report.is_sound
    assert [len(report.splits[split]) for split in ("train", "val", "test", "unlabelled")] == [8, 2, 0, 4]
    # 64 columns in 3 stripes: of 22, 21 and 21
    assert sum(report.pixels.values()).tolist() == [10 * 64 * 22, 10 * 64 * 21, 10 * 64 * 21]


def missing_mask(own):
    (own.root / FIRST).unlink()
    return "error", ["1 labelled images have no mask", "add the masks"], "images/00.png"


def missing_all_for_a_suffix(own):
    for path in (own.root / "labelled/masks").iterdir():
        path.rename(path.with_name(path.stem + "_gt.png"))
    return "error", ["10 labelled images", "set DATASET.MASK_SUFFIX to _gt"], "images/00.png"


def extra_mask(own):
    own.mask("labelled/masks/99.png", own.labels())
    return "warning", ["1 masks of the labelled images have no image", "rename"], "masks/99.png"


def value_outside_the_classes(own):
    own.mask(FIRST, own.labels((0, 1, 2, 7)))
    return "error", ["the value 7", "classes.yaml does not name", "label: 7"], "masks/00.png"


def foreground_255(own):
    (own.root / "classes.yaml").write_text("classes: [{name: background, background: true}, cap]")
    own.masks(lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
    return "error", ["only 0 and 255", "label: 255", "'cap'"], "masks/00.png"


def mostly_255(own):
    own.masks(lambda labels: np.where(np.arange(64) < 40, 255, labels).astype(np.uint8))
    phrases = ["62% of the masks' pixels are 255", "no mask shows 'background'", "two readings", "label: 255"]
    return "error", phrases, "masks/00.png"


def last_class_is_255(own):
    own.masks(lambda labels: np.array([0, 1, 255], dtype=np.uint8)[labels])
    phrases = ["no mask shows 'stem'", "33% of the masks' pixels are 255", "two readings", "label: 255", "do not count"]
    return "warning", phrases, "masks/00.png"


def classes_are_128_and_255(own):
    own.masks(lambda labels: np.array([0, 128, 255], dtype=np.uint8)[labels])
    phrases = ["the value 128", "1, 2 never occur", "33% of the masks' pixels are 255", "label: 255", "do not count"]
    return "error", phrases, "masks/00.png"


def class_of_255_is_1_in_the_masks(own):
    """1 is no rounded 0 of black, because the masks hold 0, too."""
    (own.root / "classes.yaml").write_text(
        "classes: [{name: background, background: true, color: [0, 0, 0]}, "
        "{name: cap, color: [255, 255, 255], label: 255}]"
    )
    own.masks(lambda labels: np.minimum(labels, 1))
    phrases = ["only 0 and 1 (34% and 66%", "(1) 0 is 'cap' and 1 is 'background'", "(2) 1 is 'cap'", "lacks"]
    return "error", phrases, "masks/00.png"


def negative_value(own):
    (own.root / FIRST).unlink()
    Image.fromarray(own.labels().astype(np.float32) - 1).save(own.root / "labelled/masks/00.tif")
    return "error", ["the value -1", "from 0 on", "save the masks"], "masks/00.tif"


def labels_from_1(own):
    own.masks(lambda labels: labels + 1)
    return "error", ["the value 3", "0 never occurs", "off by one", "label: 1", "an entry for 3"], "masks/00.png"


def background_not_listed(own):
    (own.root / "classes.yaml").write_text("classes: [cap, stem, gills]")
    own.masks(lambda labels: np.where(np.arange(64) < 20, 3, labels).astype(np.uint8))
    return (
        "error",
        ["the value 3", "one more than its entries", "in front", "at the end", "two readings"],
        "masks/00.png",
    )


def last_class_forgotten(own):
    """The background is declared, so nothing is missing in front of it."""
    own.masks(lambda labels: np.where(np.arange(64) > 60, 3, labels).astype(np.uint8))
    return "error", ["the value 3", "a class is missing: add an entry for 3"], "masks/00.png"


def void_forgotten_in_front(own):
    """The background is declared as the first class, but most pixels have the value behind it."""
    columns = np.arange(64)
    own.masks(lambda labels: np.where(columns < 2, 0, np.where(columns < 36, 1, labels + 1)).astype(np.uint8))
    phrases = ["the value 3", "is not 'background', but an entry", "in front", "add an entry for 3", "two readings"]
    return "error", phrases, "masks/00.png"


def last_class_forgotten_beside_borders(own):
    own.masks(lambda labels: np.where(np.arange(64) > 60, 3, np.where(labels == 0, 255, labels)).astype(np.uint8))
    own.mask(FIRST, own.labels())
    phrases = ["the value 3,", "(255, 31% of the pixels, is ignored by default)", "an entry for 3"]
    return "error", phrases, "masks/01.png"


def a_value_left_out_beside_borders(own):
    """3 may be the class of 2, or a class that the file lacks."""
    own.masks(lambda labels: np.where(labels == 2, 3, np.where(np.arange(64) < 6, 255, labels)).astype(np.uint8))
    phrases = ["the value 3,", "2 never occurs", "`label: 3`", "add an entry", "9.4% of .* are 255", "two readings"]
    return "error", phrases, "masks/00.png"


def entries_shifted_by_an_ignored_one(own):
    """As bad advice leaves it: no value is unknown, but the background of the pictures does not count."""
    (own.root / "classes.yaml").write_text(
        "classes: [{name: void, ignore: true}, {name: ground, background: true}, cap]"
    )
    own.masks(lambda labels: np.where(np.arange(64) < 40, 0, labels).astype(np.uint8))
    return "warning", ["62% of the masks' pixels are 0", "though 'ground' is the background", "two readings"], "00.png"


def binary_masks_for_several_classes(own):
    own.masks(lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
    return "error", ["only 0 and 255", "2 classes beside the background", "have to be joined"], "masks/00.png"


def values_spread_over_the_grays(own):
    own.masks(lambda labels: labels * 100)
    return "error", ["the values 100, 200", "the values 1, 2 never occur:", "label: 100"], "masks/00.png"


def colors_with_red_and_blue_exchanged(own):
    (own.root / "classes.yaml").write_text(
        own.classes.replace("200, 0, 0", "200, 50, 0").replace("0, 0, 200", "9, 0, 200")
    )
    palette = np.array([[0, 0, 0], [0, 50, 200], [200, 0, 9]], dtype=np.uint8)
    own.masks(lambda labels: palette[labels])
    return "error", ["red and blue exchanged"], "masks/00.png"


def label_0_never_used(own):
    own.masks(lambda labels: np.maximum(labels, 1))
    return "warning", ["the value 0 never occurs", "'background'", "all is well", "count from 1"], ""


def label_0_always(own):
    own.masks(np.zeros_like)
    return "error", ["every pixel of every mask is 0", "export them again"], "masks/00.png"


def rgb_taken_for_index(own):
    (own.root / "classes.yaml").write_text("classes: [background, cap, stem]")
    own.masks(lambda labels: PALETTE[labels])
    return "error", ["RGB masks, not masks of class indices", "color: "], "masks/00.png"


def smooth_edges_of_few_colors(own):
    def smooth(labels):
        large = Image.fromarray(PALETTE[labels]).resize((256, 256), Image.Resampling.NEAREST)
        return np.array(large.resize((64, 64), Image.Resampling.BICUBIC))

    own.masks(smooth)
    return "error", ["the masks were blurred", "anti-aliasing"], "masks/00.png"


def colors_that_differ_a_little(own):
    own.masks(lambda labels: (PALETTE[labels] | np.array([0, 1, 2])).astype(np.uint8))
    return "error", ["differ a little", "200, 1, 2. for .200, 0, 0", "as the masks have them"], "masks/00.png"


def a_channel_per_class(own):
    for path in sorted((own.root / "labelled/masks").iterdir()):
        np.save(path.with_suffix(".npy"), 0.9 * np.eye(3, dtype=np.float32)[np.array(Image.open(path))] + 0.03)
        path.unlink()
    return "error", ["10 masks cannot be read", "64×64×3 with values from 0.03 to 0.93", "argmax(2)"], "masks/00.npy"


def rgb_turned_gray(own):
    own.masks(lambda labels: np.array(Image.fromarray(PALETTE[labels]).convert("L")))
    return "error", ["the grey values of the classes' colours", "use the RGB masks"], "masks/00.png"


def rgb_turned_gray_by_whole_numbers(own):
    """Some programs cut off what others round: [200, 0, 1] is 59.9, and 60 where it is rounded."""
    (own.root / "classes.yaml").write_text(own.classes.replace("[200, 0, 0]", "[200, 0, 1]"))
    palette = np.array([0, 59, 22], dtype=np.uint8)
    own.masks(lambda labels: palette[labels])
    return "error", ["the grey values of the classes' colours", "use the RGB masks"], "masks/00.png"


def index_saved_as_gray_rgb(own):
    own.masks(lambda labels: np.repeat(labels[:, :, None], 3, axis=2))
    return "error", ["saved as grey RGB", "MASK_VALUES to index"], "masks/00.png"


def class_without_color(own):
    (own.root / "classes.yaml").write_text(own.classes.replace(", color: [0, 0, 200]", ""))
    own.masks(lambda labels: PALETTE[labels])
    return "error", [r"the colour \[0, 0, 200\]", "(without a colour: stem)"], "masks/00.png"


def black_without_an_entry(own):
    """Not to be taken for a class index."""
    (own.root / "classes.yaml").write_text(own.classes.replace("[0, 0, 0]", "[9, 99, 9]"))
    own.masks(lambda labels: PALETTE[labels])
    return "error", [r"the colour \[0, 0, 0\], which", "add an entry with `color: \\[0, 0, 0\\]`"], "masks/00.png"


def unknown_color(own):
    own.masks(lambda labels: PALETTE[labels])
    own.mask(FIRST, np.full((64, 64, 3), (10, 200, 30), dtype=np.uint8))
    return "error", [r"the colour \[10, 200, 30\]", "does not name"], "masks/00.png"


def blurred_masks(own):
    for path in sorted((own.root / "labelled/masks").iterdir()):
        Image.fromarray(PALETTE[np.array(Image.open(path))]).save(path.with_suffix(".jpg"), quality=60)
        path.unlink()
    return "error", ["were blurred", "nearest neighbour"], "masks/00.jpg"


def photographs_as_masks(own):
    for path in sorted((own.root / "labelled/masks").iterdir()):
        Image.effect_noise((64, 64), 60).save(path)
    return "error", ["far more values than classes", "DATASET.LABELED.MASKS"], "masks/00.png"


def palette_in_another_order(own):
    for path in sorted((own.root / "labelled/masks").iterdir()):
        image = Image.fromarray(2 - np.array(Image.open(path)), mode="P")
        image.putpalette(PALETTE[::-1].tobytes())
        image.save(path)
    return "error", ["in another order", "MASK_VALUES to color"], "masks/00.png"


def palette_in_another_order_beside_borders(own):
    """As VOC's masks: 255 at the borders, in a colour that is no class's."""
    palette_in_another_order(own)
    for path in sorted((own.root / "labelled/masks").iterdir()):
        image = Image.open(path)
        values = np.array(image)
        values[0] = 255
        border = Image.fromarray(values, mode="P")
        border.putpalette([*image.getpalette()[:9], *(0,) * (3 * 252), 224, 224, 192])
        border.save(path)
    return "error", ["in another order", "MASK_VALUES to color"], "masks/00.png"


def single_class(own):
    (own.root / "classes.yaml").write_text("classes: [cap]")
    own.masks(np.zeros_like)
    return "error", ["a single class", "add a class for whatever is not"], ""


def single_class_shown(own):
    own.masks(np.ones_like)
    return "error", ["show a single class", "'cap'"], ""


def only_boxes(own):
    return _only(own, "1 0.5 0.5 0.2 0.2\n2 0.1 0.1 0.1 0.1\n", "20 boxes have no outline")


def no_pixel_of_the_image(own):
    return _only(own, "1 1.1 1.1 1.4 1.1 1.4 1.4\n", "10 objects cover no pixel")


def _only(own, label, problem):
    for path in (own.root / "labelled/masks").iterdir():
        path.with_suffix(".txt").write_text(label)
        path.unlink()
    (own.root / "labelled/masks/data.yaml").write_text("nc: 3\nnames: [background, cap, stem]\n")
    return "error", ["a single class ('background'), because objects are left out", problem, "polygons"], ""


def absent_from_train(own):
    own.masks(lambda labels: np.minimum(labels, 1))
    return "warning", ["no train mask shows stem", "take it out of the class file"], ""


def absent_from_val(own):
    own.masks(lambda labels: np.minimum(labels, 1))
    own.mask(FIRST, own.labels())  # the only one with stem stays in train
    return "warning", ["no val mask shows stem", "DATASET.VAL"], ""


def copies_across_splits(own):
    own.image("val/images/a.png")
    own.mask("val/masks/a.png", own.labels())
    # the same picture, smaller and compressed
    copy = Image.open(own.root / "val/images/a.png").resize((48, 48), Image.Resampling.BOX)
    copy.save(own.root / "unlabelled/copy.jpg", quality=60)
    return "warning", ["1 val images look the same as unlabelled ones", "take one of each"], "a.png = .*copy.jpg"


def corrupt_image(own):
    path = own.root / "labelled/images/03.png"
    path.write_bytes(path.read_bytes()[:60])
    return "error", ["1 images cannot be read", "replace the file"], "images/03.png"


def corrupt_unlabeled_image(own):
    (own.root / "unlabelled/u1.png").write_bytes(b"")
    return "error", ["1 unlabelled images cannot be read"], "unlabelled/u1.png"


def corrupt_mask(own):
    path = own.root / FIRST
    path.write_bytes(path.read_bytes()[:60])
    return "error", ["1 masks cannot be read", "replace the file"], "masks/00.png"


def other_size(own):
    own.mask(FIRST, own.labels(size=(32, 64)))
    return "error", ["differ in size from their images", "same size"], "masks/00.png"


def unrotated_mask(own):
    photograph = Image.open(own.image("labelled/images/00.png", size=(32, 64)))
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(own.root / "labelled/images/00.png", exif=exif)
    own.mask(FIRST, own.labels(size=(32, 64)))
    return "warning", ["before its EXIF rotation", "turned with it"], "masks/00.png"


def half_turned_photograph(own):
    path = own.root / "labelled/images/00.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    return "warning", ["taken for drawn on the upright photograph", "look at the overlays"], "masks/00.png"


def dark_16_bit(own):
    own.save("unlabelled/u1.png", own.rng.integers(0, 4095, (64, 64)).astype(np.uint16))
    return "warning", ["nearly black", "stretch"], "unlabelled/u1.png"


def unlabeled_in_another_light(own):
    own.save("unlabelled/u1.png", np.full((64, 64, 3), 20, dtype=np.uint8))
    return "warning", ["far darker than every labelled", "SEMI.COLOR_TRANSFER"], "unlabelled/u1.png"


FAULTS = [
    missing_mask, missing_all_for_a_suffix, extra_mask, value_outside_the_classes, foreground_255, mostly_255,
    last_class_is_255, classes_are_128_and_255, class_of_255_is_1_in_the_masks, negative_value,
    labels_from_1, background_not_listed, last_class_forgotten, last_class_forgotten_beside_borders,
    void_forgotten_in_front,
    a_value_left_out_beside_borders, entries_shifted_by_an_ignored_one,
    binary_masks_for_several_classes, values_spread_over_the_grays, colors_with_red_and_blue_exchanged,
    label_0_never_used, label_0_always, rgb_taken_for_index, rgb_turned_gray, rgb_turned_gray_by_whole_numbers,
    index_saved_as_gray_rgb, class_without_color, black_without_an_entry, unknown_color, blurred_masks,
    photographs_as_masks, palette_in_another_order, palette_in_another_order_beside_borders,
    single_class, single_class_shown, absent_from_train,
    only_boxes, no_pixel_of_the_image,
    absent_from_val, copies_across_splits, corrupt_image, corrupt_unlabeled_image, corrupt_mask, other_size,
    unrotated_mask, half_turned_photograph, dark_16_bit, smooth_edges_of_few_colors, colors_that_differ_a_little,
    a_channel_per_class, unlabeled_in_another_light,
]  # fmt: skip


def test_a_forgotten_class_is_drawn_at_every_place(own):
    last_class_forgotten(own)
    (finding,) = [found for found in findings(own) if found.readings]
    assert [reading.names for reading in finding.readings] == [
        {0: "background", 1: "cap", 2: "stem", 3: NEW_CLASS},
        {0: "background", 1: "cap", 2: NEW_CLASS, 3: "stem"},
        {0: "background", 1: NEW_CLASS, 2: "cap", 3: "stem"},
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncap:200,0,0::\n"),
        ("class_dict.csv", "name,r,g,b\nbackground,0,0,0\ncap,200,0,0\n"),
        ("id2label.json", '{"0": "background", "1": "cap"}'),
    ],
)
def test_lists_of_classes_have_to_become_a_class_file_to_ignore_one(own, name, text):
    (own.root / name).write_text(text)
    if name != "id2label.json":
        own.masks(lambda labels: PALETTE[labels])
    layout = require_own_dataset(load_config(own.config(""), ["DATASET.CLASSES", str(own.root / name)]))
    (error,) = [finding.sentence for finding in check(layout).findings if finding.level == "error"]
    assert f"{name} is no YAML of entries: first write its classes into one" in error
    (own.root / "classes.yaml").write_text(
        "classes: [{name: background, color: [0, 0, 0], background: true}, {name: cap, color: [200, 0, 0]}, "
        "{name: stem, label: 2, color: [0, 0, 200], ignore: true}]"
    )
    assert check(own.layout()).is_sound


def test_void_that_is_learnt_is_said_to_be(own):
    classes = own.root / "classes.yaml"
    classes.write_text("classes: [{name: background, background: true}, cap, {name: Un_Labeled}]")
    (found,) = findings(own)
    assert found.level == "warning" and "'Un_Labeled' (32.8%" in found.sentence and "`ignore: true`" in found.sentence
    assert "no YAML of entries" not in found.sentence
    classes.write_text("classes: [{name: background, background: true}, cap, {name: Un_Labeled, ignore: true}]")
    assert findings(own) == []


def test_a_class_that_255_may_be_is_not_to_be_taken_out(own):
    last_class_is_255(own)
    report = check(own.layout())
    assert not any("take it out" in finding.sentence for finding in report.findings)
    (found,) = report.findings
    assert [reading.names.get(255) for reading in found.readings] == ["stem", None]
    classes = own.root / "classes.yaml"
    classes.write_text("classes: [{name: background, background: true}, cap, {name: stem, label: 255}]")
    report = check(own.layout())
    assert report.findings == [] and sum(report.pixels.values())[2] == 10 * 64 * 21


def test_values_beside_the_gray_ones_are_not_taken_for_them(own):
    """[0, 0, 200] is 22.8: 25 is too many to be rounding."""
    own.masks(lambda labels: np.array([0, 60, 25], dtype=np.uint8)[labels])
    (found,) = [finding for finding in findings(own) if "does not name" in finding.sentence]
    assert "grey values" not in found.sentence and "label: 25" in found.sentence


def test_gray_values_are_those_of_pillow_and_opencv():
    colors = np.random.default_rng(0).integers(0, 256, (1, 500, 3)).astype(np.uint8)
    ours = np.array([_gray(color) for color in colors[0].tolist()])
    for theirs in (np.array(Image.fromarray(colors).convert("L"))[0], cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY)[0]):
        assert (ours == theirs).mean() > 0.98 and np.abs(ours - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_is_explained(own, fault):
    level, phrases, file = fault(own)
    dataset = "VAL: {IMAGES: val/images, MASKS: val/masks}" if fault is copies_across_splits else ""
    report = check(own.layout(dataset))
    fitting = [
        finding for finding in report.findings
        if all(_found(phrase, finding.sentence) for phrase in phrases)
    ]  # fmt: skip
    assert len(fitting) == 1, report.findings
    assert fitting[0].level == level
    assert report.is_sound == all(finding.level == "warning" for finding in report.findings)
    if file:
        assert any(_found(file, name) for name in fitting[0].files), fitting[0]
    if level == "error":
        assert not report.is_sound


def _found(pattern, text):
    return re.search(pattern.replace("(", r"\(").replace(")", r"\)"), text) is not None


def test_training_names_objects_that_are_left_out_too(own):
    only_boxes(own)
    cfg = load_config(own.config())
    with pytest.raises(UserError, match="because objects are left out .* boxes have no outline"):
        settle_parts(cfg, require_own_dataset(cfg))


def test_images_smaller_than_the_crop(own):
    own.image("unlabelled/small.png", size=(40, 90))
    (found,) = findings(own, crop_size=64)
    assert found.level == "warning"
    assert "1 images are smaller than the crop of 64 px (the smallest: 40 px)" in found.sentence
    assert found.files == (str(own.root / "unlabelled/small.png"),)
    assert findings(own, crop_size=64, short_side=64) == []  # enlarged first
    (found,) = findings(own, crop_size=96, short_side=64)
    assert len(found.files) == 15


def test_unlabeled_images_that_training_does_without_are_a_warning(own):
    (own.root / "unlabelled/u1.png").write_text("<html>not found</html>")
    (found,) = findings(own, max_damaged=0.25)
    assert found.level == "warning" and "1 unlabelled images cannot be read and will be left out" in found.sentence
    assert findings(own, max_damaged=0.24)[0].level == "error"


def test_files_that_nothing_reads_are_named(own):
    (own.root / "unlabelled/IMG_1.JXL").write_bytes(b"\x00\x00\x00\x0cJXL " + bytes(40))
    (own.root / "labelled/masks/notes.md").write_text("made by hand")
    first, second = findings(own)
    assert first.level == "warning" and "unlabelled: 1 .jxl (JPEG XL image: convert to" in first.sentence
    assert second.level == "note" and "masks: 1 .md." in second.sentence


def test_annotations_of_images_that_are_not_listed_are_a_warning(own):
    names = [f"{number:02d}.png" for number in range(10)]
    square, other = [[0, 0, 20, 0, 20, 20, 0, 20]], [[40, 40, 60, 40, 60, 60, 40, 60]]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": 2 * number + category, "image_id": number, "category_id": category, "segmentation": outline}
            for number in range(12) for category, outline in ((1, square), (2, other))
        ],
        "categories": [{"id": 1, "name": "cap"}, {"id": 2, "name": "stem"}],
    }  # fmt: skip
    (own.root / "coco.json").write_text(json.dumps(content))
    (found,) = findings(own, "LABELED: {IMAGES: labelled/images, MASKS: coco.json}")
    assert found.level == "warning" and found.files == (str(own.root / "coco.json"),)
    assert "4 annotations refer to 2 images that the file does not list (the first image_id: 10)" in found.sentence


def test_arrays_among_images_are_named(own):
    for place in ("unlabelled", "labelled/images"):
        np.save(own.root / place / "extra.npy", np.zeros((4, 4), dtype=np.uint8))
    found = findings(own)
    assert [finding.level for finding in found] == ["warning"] * 2
    assert "images: 1 .npy (NumPy array: save the arrays as PNG or TIFF" in found[0].sentence


def test_masks_below_the_images_are_not_called_unused(own):
    shutil.move(own.root / "labelled/masks", own.root / "masks")
    shutil.move(own.root / "labelled/images", own.root / "photos")
    shutil.move(own.root / "masks", own.root / "photos/masks")
    for path in (own.root / "photos/masks").iterdir():
        np.save(path.with_suffix(".npy"), np.array(Image.open(path)))
        path.unlink()
    assert findings(own, "LABELED: {IMAGES: photos, MASKS: photos/masks}") == []
    assert findings(own, "LABELED: {IMAGES: photos, MASKS: photos/masks}\nUNLABELED: [unlabelled, photos]") == []


def test_annotations_beside_unlabeled_images_are_named(own):
    """Beside the labelled images are those that count; the others are data left unused."""
    labels = {"version": "5", "flags": {}, "imagePath": "", "imageHeight": 64, "imageWidth": 64}
    square = {"label": "cap", "points": [[0, 0], [20, 0], [20, 20]], "shape_type": "polygon"}
    stem = {**square, "label": "stem", "points": [[40, 40], [60, 40], [60, 60]]}
    for place, names in (("labelled/images", [f"{number:02d}" for number in range(10)]), ("unlabelled", ["u0", "u1"])):
        for name in names:
            content = {**labels, "imagePath": f"{name}.png", "shapes": [square, stem]}
            (own.root / place / f"{name}.json").write_text(json.dumps(content))
    (found,) = findings(own, "LABELED: {IMAGES: labelled/images, MASKS: labelled/images}")
    assert found.level == "warning" and "unlabelled: 2 .json (labelme JSON: name the folder" in found.sentence


def test_masks_beside_their_images_are_told_by_the_end_of_their_names(own):
    for path in (own.root / "labelled/masks").iterdir():
        path.rename(own.root / "labelled/images" / f"{path.stem}_mask.png")
    (own.root / "labelled/images/_classes.csv").write_text("Pixel Value, Class\n0, background\n")
    beside = "LABELED: {IMAGES: labelled/images, MASKS: labelled/images}"
    with pytest.raises(UserError, match="names end in _mask, set DATASET.MASK_SUFFIX to _mask"):
        check(own.layout(beside))
    assert not [finding for finding in findings(own, beside + "\nMASK_SUFFIX: _mask") if finding.level == "error"]


def test_images_without_mask_may_be_unlabeled(own):
    (own.root / FIRST).unlink()
    assert findings(own, "UNLABELED: [unlabelled, labelled/images]") == []
    layout = own.layout("UNLABELED: [unlabelled, labelled/images]")
    assert sorted(Path(path).name for path in layout.unlabeled) == ["00.png", "u0.png", "u1.png", "u2.png", "u3.png"]
