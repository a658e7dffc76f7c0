"""Images and masks are paired by their names, and patterns that would pair them are found."""

import pytest

from hiervl.data.folders.name_patterns import find_patterns, how_to_pair
from hiervl.data.folders.pairing import NamePattern, match_masks
from hiervl.utils.errors import UserError

NUMBERS = [f"{number:03d}" for number in range(12)]


def pattern(text):
    return NamePattern.parse(text, "KEY")


def test_matching_by_path_then_by_unique_stem():
    images = ["a/1", "b/1", "c/2", "d/3", "e/3", "f/4"]
    masks = ["a/1", "b/1", "other/2", "x/3", "9"]
    matching = match_masks(images, masks)
    assert matching.masks == {"a/1": "a/1", "b/1": "b/1", "c/2": "other/2"}
    assert matching.missing == ["d/3", "e/3", "f/4"]  # one 3 for two images decides nothing
    assert matching.extra == ["x/3", "9"]


def test_matching_with_a_suffix():
    matching = match_masks(["1", "2"], ["1_mask", "2_mask", "3_mask", "1"], mask_names=pattern("_mask"))
    assert matching.masks == {"1": "1_mask", "2": "2_mask"}
    assert matching.missing == [] and matching.extra == ["3_mask"]


def test_matching_without_regard_to_capitals_and_accents():
    composed, taken_apart = "caf\u00e9", "cafe\u0301"
    matching = match_masks(["IMG_0", composed, "a", "A"], ["img_0", taken_apart, "a"])
    assert matching.masks == {"IMG_0": "img_0", composed: taken_apart, "a": "a"}  # A would do with a, which is taken
    assert matching.missing == ["A"]


@pytest.mark.parametrize("separator", ["_", "-", "__", "."])
def test_paths_written_as_names(separator):
    paths = [f"{folder}/{name}" for folder in ("left", "right") for name in ("0000", "0001", "frame")]
    flat = [path.replace("/", separator) for path in paths]
    assert match_masks(paths, flat).masks == dict(zip(paths, flat))
    assert match_masks(flat, paths).masks == dict(zip(flat, paths))
    masks = [f"gt_{name}_mask" for name in flat]
    assert "set DATASET.MASK_SUFFIX to gt_{}_mask" in how_to_pair(paths, masks)
    assert match_masks(paths, masks, mask_names=pattern("gt_{}_mask")).masks == dict(zip(paths, masks))


@pytest.mark.parametrize(
    "image, mask",
    [
        ("{}", "{:03d}"),
        ("{:03d}", "{}"),
        ("img_{}", "IMG_{:04d}"),
        ("a/clip.{:02d}", "b/clip.{:05d}"),
        ("{0}-{0}", "{0:02d}-{0:03d}"),
    ],
)
def test_numbers_pair_whatever_zeros_stand_in_front(image, mask):
    images, masks = [image.format(n) for n in range(12)], [mask.format(n) for n in range(12)]
    matching = match_masks(images, masks)
    assert matching.masks == dict(zip(images, masks)) and not matching.extra
    equal = {image for image, mask in zip(images, masks) if image.rsplit("/")[-1] == mask.rsplit("/")[-1].lower()}
    assert matching.by_number.keys() == set(images) - equal


def test_numbers_of_several_images_or_masks_and_decimal_places_pair_nothing():
    for images, masks in ((["1", "01"], ["001"]), (["1"], ["01", "001"]), (["01", "1"], ["1", "001"])):
        matching = match_masks(images, masks)
        assert matching.masks == ({"1": "1"} if "1" in masks else {})
        sentence = how_to_pair(matching.missing, masks)
        assert sentence.startswith("The number does not tell") and "'001'" in sentence
    assert match_masks(["t1.5"], ["t1.05"]).masks == {} and match_masks(["10"], ["1", "100"]).masks == {}


def test_one_name_for_two_paths_decides_nothing():
    assert match_masks(["a/b_c", "a_b/c"], ["a_b_c"]).masks == {}


def test_a_name_that_several_images_have_does_not_tell_whose_the_masks_are():
    images = [f"d{number}/frame" for number in range(6)]
    assert how_to_pair(images, [f"x{number}_frame" for number in range(6)]) == ""
    of_classes = [f"{image}_{color}" for image in images for color in ("red", "blue")]
    assert "masks of one class each" in how_to_pair(images, of_classes, ["red", "blue"])


def test_a_pattern_has_one_place():
    assert pattern("label_{}").core("a/label_7") == "a/7" and pattern("label_{}").core("a/7") is None
    assert pattern("_mask").core("a/7_mask") == "a/7" and pattern("ab").core("b") is None
    in_folder = pattern("im/x_{}")
    assert in_folder.core("a/b/im/x_7") == "a/b/7" and in_folder.core("im/x_7") == "7"
    assert [in_folder.core(stem) for stem in ("a/trim/x_7", "a/im/7", "a/im/b/x_7", "x_7")] == [None] * 4
    assert in_folder == pattern("x_{}").in_folder("im")
    with pytest.raises(UserError, match="KEY: .* has {} twice"):
        pattern("{}_{}")


@pytest.mark.parametrize(
    ("image", "mask", "settings"),
    [
        ("{}", "{}_gt", "DATASET.MASK_SUFFIX to _gt"),
        ("{}_sat", "{}_mask", "DATASET.IMAGE_SUFFIX to _sat and DATASET.MASK_SUFFIX to _mask"),
        ("image_{}", "label_{}", "DATASET.IMAGE_SUFFIX to image_{} and DATASET.MASK_SUFFIX to label_{}"),
        ("image_{}", "label_0{}", "DATASET.IMAGE_SUFFIX to image_{} and DATASET.MASK_SUFFIX to label_{}"),
        ("IMG_{}", "mask{}", "DATASET.IMAGE_SUFFIX to IMG_{} and DATASET.MASK_SUFFIX to mask{}"),
        ("bonn/x_{}_leftImg8bit", "bonn/x_{}_gtFine_labelIds", "IMAGE_SUFFIX to _leftImg8bit and"),
        ("scan-{}-raw", "deep/seg-{}-lbl", "IMAGE_SUFFIX to scan-{}-raw and DATASET.MASK_SUFFIX to seg-{}-lbl"),
    ],
)
def test_found_patterns_are_proposed_and_pair_all(image, mask, settings):
    images, masks = [image.replace("{}", n) for n in NUMBERS], [mask.replace("{}", n) for n in NUMBERS]
    assert match_masks(images, masks).masks == {}
    assert settings in how_to_pair(images, masks)
    found = find_patterns(images, masks)
    assert len(match_masks(images, masks, found.image, found.masks[0]).masks) == len(NUMBERS)


def test_few_labeled_images_among_many():
    images = [f"{number:03d}" for number in range(200)]
    masks = [f"{number:03d}_annotation" for number in (7, 60, 61, 150)]
    assert "set DATASET.MASK_SUFFIX to _annotation" in how_to_pair(images, masks)
    of_classes = [f"{number:03d}_{kind}" for number in (7, 60, 150) for kind in ("red", "blue", "green")]
    assert [str(names) for names in find_patterns(images, of_classes).masks] == ["_red", "_blue", "_green"]


def test_names_that_occur_in_several_folders_are_said_to():
    images = [f"{folder}/{n}" for folder in ("monday", "tuesday") for n in NUMBERS]
    sentence = how_to_pair(images, NUMBERS)
    assert sentence.startswith("24 images have the name of another one in another folder, such as monday/000")


def test_no_pattern_is_made_up():
    assert how_to_pair(NUMBERS, [f"a{n}b{n}9" for n in NUMBERS]) == ""  # 0009 is no 000
    assert how_to_pair(["cat", "dog"], ["a", "b"]) == ""
    assert how_to_pair(["1"], ["1_mask"]) == ""  # one pair proves nothing


def test_several_masks_of_an_image_are_named_as_such():
    class_masks = [f"{n}_{color}" for n in NUMBERS for color in ("red", "blue")]
    sentence = how_to_pair(NUMBERS, class_masks, ["background", "red box", "blue box"])
    assert "masks of one class each" in sentence and "'_red'" in sentence and "MASK_SUFFIX" not in sentence
    in_folders = [f"{color}/{n}" for n in NUMBERS[::2] for color in ("red", "blue")] + [
        f"red/{n}" for n in NUMBERS[1::2]
    ]
    assert "'red/{}', 'blue/{}'): these are masks of one class each" in how_to_pair(
        NUMBERS, in_folders, ["red", "blue"]
    )
    unclear = [f"{n}_{kind}" for n in NUMBERS for kind in ("color", "ids")]
    assert "if one of them shows all classes, set DATASET.MASK_SUFFIX" in how_to_pair(NUMBERS, unclear, ["road", "sky"])
    assert "DATASET.MASK_SUFFIX to _ids" in how_to_pair(NUMBERS, unclear, ["road"], pattern("_ids"))
    exported = [f"task-{n}-annotation-4-by-1-tag-red box-0" for n in NUMBERS]
    assert "Label Studio's export of brushes" in how_to_pair(NUMBERS, exported)
