"""What a folder holds in which images or masks occur more than once."""

import shutil

import numpy as np
import pytest
from PIL import Image

from hiervl.data.folders.pairing import NamePattern, match_masks
from hiervl.data.preparation.survey import survey
from hiervl.utils.errors import UserError
from tests.overlays import (
    COLORS,
    STEMS,
    colored,
    half,
    masks,
    mirrored,
    opaque_objects,
    outlines,
    photograph,
    plain,
    save,
)


@pytest.mark.parametrize("folder", ["overlays", "my_visualization"])
@pytest.mark.parametrize("draw", [half, outlines])
def test_overlays_are_neither_photographs_nor_unlabeled(tmp_path, folder, draw):
    save(tmp_path, images=plain, labels=masks, **{folder: draw})
    found = survey(tmp_path)
    assert found.places["train"].images == "images" and found.places["train"].masks == "labels"
    assert not found.unlabeled
    assert found.notes == [f"{folder} holds the photographs of images with something drawn over them, and is not used"]


@pytest.mark.parametrize("folder", ["zz_longer_name", "a"])
@pytest.mark.parametrize("draw", [half, outlines])
def test_overlays_whose_name_does_not_say_it_are_named_and_not_taken_for_the_photographs(tmp_path, folder, draw):
    """They stay, because nobody can be sure: see the camera that stands still."""
    save(tmp_path, frames=plain, labels=masks, **{folder: draw})
    found = survey(tmp_path)
    assert found.places["train"].images == "frames" and found.unlabeled == [folder]
    assert found.notes[0].startswith(f"{folder} seems to hold the photographs of frames with something drawn over them")


def test_photographs_of_a_camera_that_stands_still_stay(tmp_path):
    """Three days by the same names, masks of the second, on which something colorful stood before the camera."""
    for number, stem in enumerate(STEMS):
        image, labels = photograph(number)
        second = image.copy()
        second[30:60, 40:80] = (200, 30, 30)
        for path, picture in (("1/images", image), ("2/images", second), ("3/images", image), ("2/masks", labels)):
            (tmp_path / f"day_{path}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / f"day_{path}" / f"{stem}.png")
    found = survey(tmp_path)
    assert (found.places["train"].images, found.places["train"].masks) == ("day_2/images", "day_2/masks")
    assert found.unlabeled == ["day_1/images", "day_3/images"]


def test_folders_of_which_each_shows_something_more_are_both_photographs(tmp_path):
    """Of two days, now and then something colorful stands before the camera."""
    for number, stem in enumerate(STEMS):
        image, labels = photograph(number)
        changed = image.copy()
        changed[30:60, 40:80] = (200, 30, 30)
        first, second = (image, changed) if number % 2 else (changed, image)
        for folder, picture in (("day_1", first), ("day_2", second), ("masks", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{stem}.png")
    found = survey(tmp_path, image_folder="day_2")
    assert found.places["train"].images == "day_2" and found.unlabeled == ["day_1"] and not found.notes


@pytest.mark.parametrize("form", ["{kind}/{scene}", "{scene}/{kind}"])
def test_overlays_of_many_scenes_with_the_same_names(tmp_path, form):
    """Each scene's photographs lie nearest to those of other scenes, or to its own overlays."""
    for scene in range(6):
        image, labels = photograph(scene)
        for kind, picture in (("images", image), ("labels", labels), ("overlays", half(image, labels))):
            folder = tmp_path / form.format(kind=kind, scene=f"scene_{scene}")
            folder.mkdir(parents=True)
            for stem in STEMS[:2]:
                Image.fromarray(picture).save(folder / f"{stem}.png")
    found = survey(tmp_path)
    assert len(found.notes) == 6 and not found.unlabeled
    assert all("overlays" in note and "with something drawn over them, and is not used" in note for note in found.notes)


def test_overlays_that_hide_everything_are_known_by_their_name(tmp_path):
    """Nothing of the photograph is left, but its name."""
    save(tmp_path, images=plain, labels=masks, overlays=lambda image, labels: 255 - half(image[::-1], labels))
    found = survey(tmp_path)
    assert found.places["train"].images == "images" and not found.unlabeled
    assert "overlays is not used" in found.notes[0]


def test_masks_of_two_splits_may_share_a_folder_of_images(tmp_path):
    save(tmp_path, images=plain, **{"labels/train": masks, "labels/val": masks})
    for number, stem in enumerate(STEMS):
        (tmp_path / "labels" / ("val" if number < 2 else "train") / f"{stem}.png").unlink()
    found = survey(tmp_path)
    assert {split: (at.images, at.masks) for split, at in found.places.items()} == {
        "train": ("images", "labels/train"), "val": ("images", "labels/val"),
    }  # fmt: skip


def test_each_scene_may_hold_its_images_and_masks(tmp_path):
    """The file names are the same in all scenes; one is for validation, one has no masks."""
    for scene in ("train/a", "train/b", "train/c", "val/d"):
        save(tmp_path, **{f"{scene}/images": plain, f"{scene}/masks": masks})
    shutil.rmtree(tmp_path / "train/c/masks")
    found = survey(tmp_path)
    assert {split: (at.images, at.masks) for split, at in found.places.items()} == {
        "train": ("train", "train"), "val": ("val/d", "val/d"),
    }  # fmt: skip
    names = (NamePattern.parse(text, "") for text in (found.image_suffix, found.mask_suffix))
    stems = [f"{scene}/{{}}/shot_1" for scene in "abc"]
    matching = match_masks([x.format("images") for x in stems], [x.format("masks") for x in stems[:2]], *names)
    assert matching.masks == {"a/images/shot_1": "a/masks/shot_1", "b/images/shot_1": "b/masks/shot_1"}
    assert matching.missing == ["c/images/shot_1"]
    save(tmp_path, **{"train/a/overlays": half, "train/more": mirrored})
    assert survey(tmp_path).unlabeled == ["train/more"]
    (tmp_path / "train/b/masks").rename(tmp_path / "train/b/other")
    with pytest.raises(
        UserError, match="train/a/images with train/a/masks and train/b/images with train/b/other: give"
    ):
        survey(tmp_path)


def test_scenes_whose_file_names_tell_masks_from_images(tmp_path):
    for scene in "abc":
        save(tmp_path, **{f"{scene}/x": plain, scene: masks})
        for image in (tmp_path / scene / "x").iterdir():
            (tmp_path / scene / f"{image.stem}.png").rename(tmp_path / scene / f"{image.stem}_mask.png")
            image.rename(tmp_path / scene / image.name)
        (tmp_path / scene / "x").rmdir()
    found = survey(tmp_path)
    assert (found.image_suffix, found.mask_suffix) == ("", "_mask")
    assert (found.places["train"].images, found.places["train"].masks) == (".", ".")


@pytest.mark.parametrize("images, above", [("train_images", "masks"), ("training/images", "training/masks")])
def test_the_folder_of_masks_says_the_split_before_that_of_images(tmp_path, images, above):
    save(tmp_path, **{images: plain, f"{above}/train": masks, f"{above}/val": masks})
    for number, stem in enumerate(STEMS):
        (tmp_path / above / ("val" if number < 2 else "train") / f"{stem}.png").unlink()
    places = survey(tmp_path).places
    assert {split: at.masks for split, at in places.items()} == {"train": f"{above}/train", "val": f"{above}/val"}


def test_photographs_of_the_same_names_are_unlabeled(tmp_path):
    save(tmp_path, images=plain, labels=masks, more=mirrored)
    found = survey(tmp_path)
    assert found.unlabeled == ["more"] and not found.notes


def test_masks_that_say_the_same_count_once(tmp_path):
    """As numbers, as colors and as arrays; as numbers unless a list gives the classes their colors."""
    save(tmp_path, images=plain, labels=masks, colors=colored)
    (tmp_path / "arrays").mkdir()
    for number, stem in enumerate(STEMS):
        labels = photograph(number)[1].astype(np.int32)
        np.save(tmp_path / "arrays" / f"{stem}.npy", labels - 1)
    found = survey(tmp_path)
    assert (found.form, found.places["train"].masks) == ("masks", "labels")
    assert found.notes == ["the masks in arrays, colors show the same as those in labels, and are not used"]
    rows = [f"{name},{','.join(map(str, color))}" for name, color in zip(("none", "a", "b", "c"), COLORS)]
    (tmp_path / "classes.csv").write_text("\n".join(["name,r,g,b", *rows]))
    assert survey(tmp_path).places["train"].masks == "colors"


def test_masks_that_say_different_things_have_to_be_named(tmp_path):
    save(tmp_path, images=plain, labels=masks, parts=lambda image, labels: labels + np.arange(160) % 2)
    with pytest.raises(UserError, match="masks in labels, parts, which differ .* by --mask-folder"):
        survey(tmp_path)
    for name in ("parts", str(tmp_path / "parts")):
        found = survey(tmp_path, mask_folder=name)
        assert (found.form, found.places["train"].masks, found.unlabeled) == ("masks", "parts", [])
    with pytest.raises(UserError, match="there is no folder 'absent' with masks"):
        survey(tmp_path, mask_folder="absent")


def test_the_lists_whose_images_have_most_masks_count(tmp_path):
    """VOC's lists for other tasks come first by name. A list without its other half does not count."""
    save(tmp_path, JPEGImages=plain, SegmentationClass=masks)
    (tmp_path / "SegmentationClass" / f"{STEMS[3]}.png").unlink()
    for folder, train, val in (
        ("Action", STEMS[1:], STEMS[:1]), ("Layout", STEMS[:2], []), ("Segmentation", STEMS[:2], STEMS[2:3])
    ):  # fmt: skip
        lists = tmp_path / "ImageSets" / folder
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("\n".join(train))
        (lists / "val.txt").write_text("\n".join(val))
    assert survey(tmp_path).lists == {
        "train": "ImageSets/Segmentation/train.txt", "val": "ImageSets/Segmentation/val.txt"
    }  # fmt: skip
    shutil.rmtree(tmp_path / "ImageSets" / "Segmentation")
    assert survey(tmp_path).lists["train"] == "ImageSets/Action/train.txt"  # some of its images have masks


def test_the_folder_of_masks_is_named_by_its_name_wherever_it_lies(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split, images=plain, labels=masks, parts=lambda image, labels: labels + np.arange(160) % 2)
    found = survey(tmp_path, mask_folder="labels")
    assert {split: place.masks for split, place in found.places.items()} == {
        "train": "train/labels", "val": "val/labels"
    }  # fmt: skip
    with pytest.raises(UserError, match="there is no folder 'images' with masks"):
        survey(tmp_path, mask_folder="images")


def test_other_masks_beside_the_photographs_do_not_count(tmp_path):
    save(tmp_path, images=plain, refined=masks)
    for number, stem in enumerate(STEMS):
        Image.fromarray(photograph(number)[1] + 1).save(tmp_path / "images" / f"{stem}_mask.png")
    found = survey(tmp_path, mask_folder="refined")
    assert (found.form, found.places["train"].masks) == ("masks", "refined")


def test_masks_of_one_class_each_stay_several(tmp_path):
    """Also if one class is all that another leaves; and if a file is broken."""
    save(tmp_path, images=plain, a=lambda _, labels: 255 * (labels == 1), b=lambda _, labels: 255 * (labels == 2))
    assert survey(tmp_path).form == "per_class"
    save(tmp_path, b=lambda _, labels: 255 * (labels != 1))
    assert survey(tmp_path).form == "per_class"
    (tmp_path / "a" / f"{STEMS[0]}.png").write_bytes(b"broken")
    assert survey(tmp_path).form == "per_class"
    save(tmp_path, a=lambda _, labels: 0 * labels, b=lambda _, labels: 0 * labels)
    assert survey(tmp_path).form == "per_class"


def test_masks_of_two_values_that_say_the_same_count_once(tmp_path):
    """The first by name show one value."""
    save(tmp_path, images=plain, masks=lambda _, labels: (labels == 1).astype(np.uint8),
         shown=lambda _, labels: 255 * (labels == 1))  # fmt: skip
    for folder in ("masks", "shown"):
        Image.new("L", (160, 120)).save(tmp_path / folder / f"{STEMS[0]}.png")
    found = survey(tmp_path)
    assert (found.form, len(found.notes)) == ("masks", 1)
    assert found.places["train"].masks in ("masks", "shown")


@pytest.mark.parametrize("numbers, arrays", [("SegmentationClass", "SegmentationClassNpy"),
                                             ("SegmentationClassPNG", "SegmentationClass")])  # fmt: skip
def test_what_labelme_makes_of_its_files(tmp_path, numbers, arrays):
    """labelme2voc, new and old: masks as images and arrays, masks of objects, and both drawn over the photographs."""
    objects = {name.replace("Class", "Object"): opaque_objects for name in (numbers, arrays)}
    save(tmp_path, JPEGImages=plain, SegmentationClassVisualization=half, SegmentationObjectVisualization=half,
         **{numbers: masks, **objects})  # fmt: skip
    (tmp_path / arrays).mkdir()
    for number, stem in enumerate(STEMS):
        np.save(tmp_path / arrays / f"{stem}.npy", photograph(number)[1].astype(np.int32))
    found = survey(tmp_path)
    assert (found.places["train"].images, found.places["train"].masks) == ("JPEGImages", numbers)
    assert not found.unlabeled
