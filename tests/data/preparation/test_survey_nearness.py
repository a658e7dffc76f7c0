"""Whose the annotations are, where several folders hold images of their names."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiervl.data.preparation.survey import survey
from hiervl.data.preparation.survey_contents import scan
from hiervl.utils.errors import UserError
from tests.overlays import STEMS, masks, mirrored, photograph, plain, save


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


@pytest.mark.parametrize("kind", ["outlines", "masks"])
def test_copies_of_the_labelled_images_among_all_images(tmp_path, kind):
    """Whichever of two equal images has the mask, the label is right. No copy becomes an unlabelled image: it may be of
    one that is drawn for validation."""
    save(tmp_path, chosen=plain, **({"masks": masks} if kind == "masks" else {}))
    if kind == "outlines":
        (tmp_path / "outlines.json").write_text(json.dumps(outlines_file("{}.jpg")))
    shutil.copytree(tmp_path / "chosen", tmp_path / "all")
    found = survey(tmp_path)
    assert not found.unlabeled and "is not used: it holds copies of images in" in found.notes[-1]
    shutil.copy(tmp_path / "all" / f"{STEMS[0]}.jpg", tmp_path / "all" / "one_more.jpg")
    found = survey(tmp_path)
    assert (found.places["train"].images, found.unlabeled) == ("all", [])
    assert "chosen is not used: it holds copies of images in all" in found.notes[-1]
    found = survey(tmp_path, image_folder="chosen")
    assert (found.places["train"].images, found.unlabeled) == ("chosen", ["all"])
    first = tmp_path / "all" / f"{STEMS[0]}.jpg"
    content = first.read_bytes()
    first.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(UserError, match="fit the images in all, chosen equally"):
        survey(tmp_path)
    first.unlink()
    first.symlink_to("lost")
    assert not scan(tmp_path).are_copies("chosen", "all")


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
