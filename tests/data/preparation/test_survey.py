"""What a folder holds in which images or masks occur more than once."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiervl.data.folders.pairing import NamePattern, match_masks
from hiervl.data.preparation.survey import survey
from hiervl.utils.errors import UserError
from tests.overlays import COLORS, half, opaque_objects, outlines, photograph

STEMS = [f"shot_{number}" for number in range(4)]


def save(root, **pictures):
    """Write ``folder=function`` of image and labels, for every stem; files are PNG, photographs JPEG."""
    for number, stem in enumerate(STEMS):
        image, labels = photograph(number)
        for folder, make in pictures.items():
            picture = make(image, labels)
            path = root / folder / (f"{stem}.jpg" if picture.ndim == 3 and make is not colored else f"{stem}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(path, quality=95)


def plain(image, labels):
    return image


def masks(image, labels):
    return labels


def colored(image, labels):
    return COLORS[labels]


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


def mirrored(image, labels):
    return np.ascontiguousarray(image[:, ::-1])


def outlines_file(written: str) -> dict:
    """COCO, with the images' names as in ``written``."""
    images = [
        {"id": number, "file_name": written.format(stem), "width": 160, "height": 120}
        for number, stem in enumerate(STEMS)
    ]
    ring = [10, 10, 60, 10, 60, 60, 10, 60]
    objects = [
        {"id": number, "image_id": number, "category_id": 1, "segmentation": [ring], "bbox": [10, 10, 50, 50]}
        for number in range(len(STEMS))
    ]
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "leaf"}]}


@pytest.mark.parametrize("written", ["", "{}.jpg", "right/{}.jpg"])
def test_annotations_that_fit_two_folders_are_not_given_to_any(tmp_path, written):
    """Two cameras, masks or outlines of one: unless a path says whose they are, the user has to."""
    save(tmp_path, left=plain, right=mirrored, **({} if written else {"gt": masks}))
    if written:
        (tmp_path / "gt.json").write_text(json.dumps(outlines_file(written)))
    if "right" in written:
        assert survey(tmp_path).places["train"].images == "right"
    else:
        with pytest.raises(UserError, match=r"in gt.* fit the images in left, right equally .* by --image-folder"):
            survey(tmp_path)
    for folder, other in (("right", "left"),) if "right" in written else (("left", "right"), ("right", "left")):
        found = survey(tmp_path, image_folder=folder)
        assert (found.places["train"].images, found.unlabeled) == (folder, [other])
    with pytest.raises(UserError, match="there is no folder 'absent' with images, but"):
        survey(tmp_path, image_folder="absent")


@pytest.mark.parametrize("above", ["cover.jpg", f"{STEMS[1]}.jpg"])
@pytest.mark.parametrize("kind", ["outlines", "masks"])
def test_pictures_above_the_annotated_ones_change_nothing(tmp_path, kind, above):
    save(tmp_path, frames=plain, **({"masks": masks} if kind == "masks" else {}))
    if kind == "outlines":
        (tmp_path / "outlines.json").write_text(json.dumps(outlines_file("{}.jpg")))
    shutil.copy(tmp_path / "frames" / f"{STEMS[0]}.jpg", tmp_path / above)
    Image.fromarray(photograph(0)[1]).save(tmp_path / "legend.png")
    assert survey(tmp_path).places["train"].images == "frames"
    (tmp_path / "legend.png").unlink()
    found = survey(tmp_path)
    assert found.places["train"].images == "frames" and found.unlabeled == ["."]
    save(tmp_path, depth=plain)
    found = survey(tmp_path)
    assert not found.unlabeled
    assert "the images in . are not used, because others lie below it that are left out" in found.notes[-1]


def labelme_files(folder: Path):
    """Outlines beside images, as labelme writes them."""
    for stem in STEMS:
        shape = {"label": "leaf", "points": [[10, 10], [60, 10], [60, 60]], "shape_type": "polygon"}
        size = {"imageHeight": 120, "imageWidth": 160}
        (folder / f"{stem}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{stem}.jpg", **size}))


@pytest.mark.parametrize("own, other", [("cam", "cam_rgb"), ("gt", "depth"), (".", "images"), ("data", "data/images")])
def test_outlines_are_of_the_images_beside_them(tmp_path, own, other):
    save(tmp_path, **{own: plain, other: mirrored})
    labelme_files(tmp_path / own)
    assert survey(tmp_path).places["train"].images == own


def test_outlines_of_a_part_are_of_its_images(tmp_path):
    """Though the paths in both files are those of the other part, and one photograph is lost."""
    save(tmp_path, **{"train/images": plain, "val/imgs": mirrored})
    (tmp_path / "val/imgs" / f"{STEMS[0]}.jpg").unlink()
    for part in ("train", "val"):
        (tmp_path / part / "outlines.json").write_text(json.dumps(outlines_file("images/{}.jpg")))
    places = survey(tmp_path).places
    assert {split: place.images for split, place in places.items()} == {"train": "train/images", "val": "val/imgs"}


def test_a_folder_that_lacks_a_photograph_keeps_its_masks(tmp_path):
    for scene in range(2):
        for stem in ("a", "b", "c"):
            image, labels = photograph(scene)
            for folder, picture in (("rgb", image), ("depth", mirrored(image, labels)), ("masks", labels)):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(picture).save(tmp_path / folder / f"{stem}_{scene}.png")
    (tmp_path / "rgb" / "a_0.png").unlink()
    assert survey(tmp_path).places["train"].images == "rgb"


def test_masks_by_image_are_not_given_to_the_last_folder(tmp_path):
    save(tmp_path, left=plain, right=mirrored)
    for stem in STEMS:
        for name in ("leaf", "stem"):
            (tmp_path / "masks" / stem).mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 * (photograph(0)[1] == 1).astype(np.uint8)).save(
                tmp_path / "masks" / stem / f"{name}.png"
            )
    with pytest.raises(UserError, match="fit the images in left, right equally"):
        survey(tmp_path)
    assert survey(tmp_path, image_folder="right").places["train"].images == "right"


@pytest.mark.parametrize("kind", ["outlines", "masks", "masks below"])
def test_annotations_of_images_that_are_left_out_are_left_out(tmp_path, kind):
    """Those of the left camera are never given to the right one, though the option names it."""
    form = "{}/images {}/masks" if kind == "masks below" else "{} {}_gt"
    for camera, make in (("left", plain), ("right", mirrored)):
        images, of_masks = form.format(camera, camera).split()
        save(tmp_path, **{images: make, **({} if kind == "outlines" else {of_masks: masks})})
        if kind == "outlines":
            (tmp_path / f"{camera}.json").write_text(json.dumps(outlines_file("{}.jpg")))
    for camera in ("left", "right"):
        images, of_masks = form.format(camera, camera).split()
        place = survey(tmp_path, image_folder=camera).places["train"]
        assert (place.images, place.masks) == (images, f"{camera}.json" if kind == "outlines" else of_masks)
    (tmp_path / "neither").mkdir()
    shutil.copy(tmp_path / form.format("left", "").split()[0] / f"{STEMS[0]}.jpg", tmp_path / "neither" / "x.jpg")
    with pytest.raises(UserError, match="no annotations are of the images in 'neither'"):
        survey(tmp_path, image_folder="neither")


def test_the_option_is_named_by_what_differs(tmp_path):
    """As in pairs of satellite images of one place at two times."""
    for part in ("train", "val"):
        save(tmp_path, **{f"{part}/A": plain, f"{part}/B": mirrored, f"{part}/label": masks})
    with pytest.raises(UserError, match="labelled images are, by --image-folder A or B."):
        survey(tmp_path)
    places = survey(tmp_path, image_folder="B").places
    assert {split: place.images for split, place in places.items()} == {"train": "train/B", "val": "val/B"}


@pytest.mark.parametrize("scenes", ["1 2 3", "00 01"])
def test_numbers_of_scenes_are_not_those_of_images(tmp_path, scenes):
    for scene in scenes.split():
        for number in range(1, 4):
            image, labels = photograph(number)
            for kind, picture in (("rgb", image), ("masks", labels)):
                (tmp_path / kind / scene).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(tmp_path / kind / scene / f"{number}.png")
    found = survey(tmp_path)
    assert (found.form, found.places["train"].images, found.places["train"].masks) == ("masks", "rgb", "masks")


def test_images_of_several_folders_may_have_folders_of_masks_side_by_side(tmp_path):
    for number, stem in enumerate(STEMS):
        image, labels = photograph(number)
        (tmp_path / "images" / f"day_{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"day_{number % 2}" / f"{stem}.jpg")
        (tmp_path / "masks" / stem).mkdir(parents=True)
        for label, name in ((1, "cap"), (2, "stem")):
            Image.fromarray(255 * (labels == label).astype(np.uint8)).save(tmp_path / "masks" / stem / f"{name}.png")
    found = survey(tmp_path)
    assert (found.form, found.places["train"].images, found.places["train"].masks) == ("per_class", "images", "masks")


def test_images_that_are_left_out_stay_out_of_several_scenes(tmp_path):
    for scene in ("day", "night"):
        save(tmp_path, **{f"{scene}/left": plain, f"{scene}/right": mirrored, f"gt/{scene}": masks})
    with pytest.raises(UserError, match="left, day/right equally"):
        survey(tmp_path)
    with pytest.raises(UserError, match="lie in several folders, day/left with gt/day"):
        survey(tmp_path, image_folder="left")


def test_outlines_of_nobody_do_not_stop_masks(tmp_path):
    save(tmp_path, a=plain, b=mirrored, masks_b=masks)
    (tmp_path / "boxes.json").write_text(json.dumps(outlines_file("{}.jpg")))
    found = survey(tmp_path)
    assert (found.form, found.places["train"].images) == ("masks", "b")
    assert "boxes.json fit the images in a, b equally" in found.notes[0]


@pytest.mark.parametrize(
    "folders, labeled",
    [
        (("rgb", "depth_maps", "masks"), "rgb"),
        (("frames", "masks_shown", "masks"), "frames"),
        (("frames", "depth", "masks"), "frames"),
        (("frames", "frames_resized", "masks"), "frames"),
        (("images/train", "depth/train", "masks/train"), "images/train"),
        (("rgb/s", "depth/s", "labels/s"), "rgb/s"),
        (("leftImg8bit/train/aachen", "disparity/train/aachen", "gtFine/train/aachen"), "leftImg8bit/train/aachen"),
        (("1/frames", "1_night/images", "1/labels"), "1/frames"),
        (("left_view", "right", "left_gt"), "left_view"),
        (("leftView", "rightView", "right_gt"), "rightView"),
        ((".", "other", "masks"), ""),
        (("leftImg8bit/train/aachen", "rightImg8bit/train/aachen", "gtFine/train/aachen"), ""),
        (("2021_03_04_rgb", "2021_04_03_rgb", "2021_03_04_gt"), "2021_03_04_rgb"),
        (("left_view", "right_view", "gt_of_left"), "left_view"),
        (("frames", "overlays", "masks"), "frames"),
        (("a", "b", "masks"), ""),
        (("cam1", "cam2", "masks_v2"), ""),
        (("JPEGImages", "backup", "SegmentationClass"), "JPEGImages"),
        (("thermal/day", "thermal/night", "labels/day"), "thermal/day"),
    ],
)
def test_names_of_folders_say_whose_the_masks_are(tmp_path, folders, labeled):
    first, second, of_masks = folders
    save(tmp_path, **{first: plain, second: mirrored, of_masks: masks})
    if labeled:
        found = survey(tmp_path)
        assert found.places["train"].images == labeled
        unused = [folder for folder in folders if re.search("depth|disparity|overlays", folder)]  # no photographs
        assert found.unlabeled == [folder for folder in (first, second) if folder not in (labeled, *unused)]
    else:
        with pytest.raises(UserError, match=f"fit the images in {first}, {second} equally"):
            survey(tmp_path)
        assert survey(tmp_path, image_folder=first).places["train"].images == first


def test_masks_are_of_the_images_of_their_size(tmp_path):
    save(tmp_path, images=plain, images_2=lambda image, labels: image[::2, ::2], masks=masks)
    assert survey(tmp_path).places["train"].images == "images"
    save(tmp_path, masks=lambda image, labels: labels[::2, ::2])
    assert survey(tmp_path).places["train"].images == "images_2"
    for stem in STEMS:
        np.save(tmp_path / "masks" / f"{stem}.npy", photograph(0)[1].astype(np.int32))
        (tmp_path / "masks" / f"{stem}.png").unlink()
    assert survey(tmp_path).places["train"].images == "images"


def test_scenes_by_the_names_of_their_folders_are_refused(tmp_path):
    """One place is trained on. The masks of one scene are never those of another, however many there are."""
    for scene in "ab":
        save(tmp_path, **{f"{scene}_rgb": plain, f"{scene}_labels": masks})
    with pytest.raises(UserError, match="a_rgb with a_labels and b_rgb with b_labels: give all"):
        survey(tmp_path)
    assert survey(tmp_path, mask_folder="b_labels").places["train"].images == "b_rgb"


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
