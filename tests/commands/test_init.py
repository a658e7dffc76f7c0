"""``init``: from a folder without any description to a dataset that can be trained on."""

import re

import annotation_exports as exports
import numpy as np
import pytest
from PIL import Image

from hiervl.__main__ import main
from hiervl.data.checking.check import check
from hiervl.data.classes.class_maps import read_class_map
from hiervl.engine.run_config import load_config, require_own_dataset


def init(folder, *options):
    assert main(["init", str(folder), *options]) == 0
    return require_own_dataset(load_config(str(folder / "my.yaml"), ["DATASET.CACHE", str(folder.parent / "cache")]))


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_every_export(tmp_path, name, capsys, monkeypatch):
    """What ``init`` writes is read without faults, with the labels that were drawn."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/hiervl"])
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/hiervl")
    folder = tmp_path / "my mushrooms"
    folder.mkdir()
    exports.EXPORTS[name](folder)
    layout = init(folder)
    assert check(layout).is_sound
    samples = layout.labeled.samples
    assert len(samples) == len(exports.STEMS)
    for number, stem in enumerate(sorted(samples)):
        assert np.array_equal(layout.label(samples[stem]), exports.label_map(number)), stem
    printed = capsys.readouterr().out
    named = [definition.name for definition in layout.class_map.classes] == list(exports.NAMES)
    assert named == ("without names" not in printed)
    assert f"\n  hiervl check-data '{folder}/my.yaml'\n" in printed


def test_masks_without_names_are_named_by_their_values(tmp_path, capsys):
    folder = tmp_path / "mushrooms"
    folder.mkdir()
    exports.voc_palette(folder)
    layout = init(folder)
    assert "write the names into the class file" in capsys.readouterr().out
    class_map = read_class_map(folder / "classes.yaml")
    assert class_map.class_names == ["value 0", "value 1", "value 2"] and class_map.values == {0: 0, 1: 1, 2: 2}
    assert [definition.color for definition in class_map.classes] == list(exports.COLORS.values())
    (finding,) = check(layout).findings
    assert finding.level == "warning" and "still calls 3 classes by their values" in finding.sentence
    assert len(layout.division["train"]) == 4 and len(layout.division["val"]) == 2
    assert [path.rsplit("/", 1)[1] for path in layout.unlabeled] == ["not labelled.jpg"]


def test_of_scenes_only_the_images_without_masks_are_unlabeled(tmp_path):
    """Pictures with labels drawn over them lie there, too."""
    folder = tmp_path / "flights"
    for scene in "abc":
        exports.write_images(folder / scene / "images", ".jpg")
        exports.write_images(folder / scene / "overlays", ".jpg")
        (folder / scene / "gt").mkdir()
        for number, stem in enumerate(exports.STEMS if scene != "c" else ()):
            Image.fromarray(exports.label_map(number)).save(folder / scene / "gt" / f"{stem}.png")
    layout = init(folder)
    assert len(layout.labeled.samples) == 2 * len(exports.STEMS) and check(layout).is_sound
    assert {path.removeprefix(f"{folder}/").rsplit("/", 1)[0] for path in layout.unlabeled} == {"c/images"}
    assert "UNLABELED: [c/images]" in (folder / "my.yaml").read_text()


def test_parts_unlabeled_images_and_patterns_of_names(tmp_path, capsys):
    """Folders for training, validation and test, photographs without masks, and names that pair by a pattern."""
    folder = tmp_path / "mushrooms"
    for split in ("train", "valid", "test"):
        exports.write_images(folder / "photos" / split, ".jpg", [f"{stem}_sat" for stem in exports.STEMS])
        (folder / "labels" / split).mkdir(parents=True)
        for number, stem in enumerate(exports.STEMS):
            colors = np.array([exports.COLORS[label] for label in range(3)], dtype=np.uint8)
            Image.fromarray(colors[exports.label_map(number)]).save(folder / f"labels/{split}/{stem}_mask.png")
    exports.write_images(folder / "more", ".jpg", ["x", "y"])
    exports.write_images(folder / "output" / "run", ".jpg", ["z"])
    layout = init(folder)
    text = (folder / "my.yaml").read_text()
    assert "IMAGES: photos/train, MASKS: labels/train" in text
    assert "VAL: {IMAGES: photos/valid, MASKS: labels/valid}" in text
    assert "TEST: {IMAGES: photos/test, MASKS: labels/test}" in text
    assert "IMAGE_SUFFIX: _sat" in text and "MASK_SUFFIX: _mask" in text
    assert "UNLABELED: [more]" in text
    assert {split: len(part) for split, part in layout.division.items()} == {"train": 6, "val": 6, "test": 6, "rest": 0}
    assert layout.class_map.class_names == ["colour 0 0 0", "colour 0 0 200", "colour 200 0 0"]


def coco_in_three_folders(root):
    """Roboflow's: the same names in every folder."""
    for split in ("train", "valid", "test"):
        exports.roboflow_coco(root / split)
        for path in (root / split / "train").iterdir():
            path.rename(root / split / path.name)
        (root / split / "train").rmdir()
    return "train", "train/_annotations.coco.json", "valid", "valid/_annotations.coco.json"


def yolo_in_two_folders(root):
    for split in ("train", "valid"):
        exports.yolo(root / "export")
        for kind in ("images", "labels"):
            (root / split).mkdir(exist_ok=True)
            (root / "export" / kind / "train").rename(root / split / kind)
    (root / "export/data.yaml").rename(root / "data.yaml")
    return "train/images", "train/labels", "valid/images", "valid/labels"


def cityscapes(root):
    """Folders by city, numbers that occur in every city, and names that pair by two patterns."""
    for split in ("train", "val"):
        for city in ("jena", "ulm"):
            names = [f"{city}_{number}" for number in range(3)]
            exports.write_images(root / "leftImg8bit" / split / city, ".png", [f"{name}_leftImg8bit" for name in names])
            (root / "gtFine" / split / city).mkdir(parents=True)
            for number, name in enumerate(names):
                labels = exports.label_map(number)
                Image.fromarray(labels).save(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png")
    return "leftImg8bit/train", "gtFine/train", "leftImg8bit/val", "gtFine/val"


@pytest.mark.parametrize("make", [coco_in_three_folders, yolo_in_two_folders, cityscapes])
def test_images_and_annotations_of_one_part_belong_together(tmp_path, make):
    folder = tmp_path / "mushrooms"
    folder.mkdir()
    images, masks, val_images, val_masks = make(folder)
    layout = init(folder)
    assert (layout.source.images, layout.source.masks) == (images, masks)
    assert tuple(layout.source.val) == (val_images, val_masks)
    assert len(layout.division["train"]) == len(layout.division["val"]) == 6


def test_yolo_labels_of_images_without_objects(tmp_path):
    folder = tmp_path / "mushrooms"
    exports.yolo(folder)
    names = [f"a{number}" for number in range(20)]  # before the others
    exports.write_images(folder / "images/train", ".jpg", names)
    for name in names:
        (folder / f"labels/train/{name}.txt").touch()
    layout = init(folder)
    assert layout.source.masks == "labels/train" and len(layout.labeled.samples) == 20 + len(exports.STEMS)
    assert layout.unused() == []


def test_one_of_several_masks_has_to_be_named(tmp_path, capsys):
    folder = tmp_path / "mushrooms"
    cityscapes(folder)
    for path in sorted(folder.rglob("*_labelIds.png")):
        colors = np.array([exports.COLORS[label] for label in range(3)], dtype=np.uint8)
        Image.fromarray(colors[np.array(Image.open(path))]).save(path.with_name(path.name.replace("labelIds", "color")))
    assert main(["init", str(folder)]) == 2
    assert "images have several masks, and not each shows one class" in capsys.readouterr().err
    layout = init(folder, "--mask-suffix", "_labelIds")
    assert len(layout.division["train"]) == 6 and layout.source.mask_suffix == "_gtFine_labelIds"


def test_pictures_among_the_masks_do_not_hide_them(tmp_path):
    folder = tmp_path / "mushrooms"
    exports.png_masks(folder)
    exports.write_images(folder / "masks", ".jpg", [f"{stem}_overlay" for stem in exports.STEMS])
    layout = init(folder)
    assert layout.source.masks == "masks" and len(layout.labeled.samples) == len(exports.STEMS)


def test_a_map_without_pixels_has_an_entry_too(tmp_path):
    folder = tmp_path / "mushrooms"
    exports.mask_files(
        folder, lambda path, labels: np.save(f"{path}.npy", np.stack([labels == label for label in range(5)]))
    )
    assert init(folder).class_map.class_names == [f"value {number}" for number in range(5)]


def test_names_without_a_background_in_a_list(tmp_path):
    folder = tmp_path / "mushrooms"
    exports.yolo(folder)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("cap\nstem\n")
    assert init(folder).class_map.values == {0: 0, 1: 1, 2: 2}


def test_nothing_is_overwritten(tmp_path, capsys):
    folder = tmp_path / "mushrooms"
    folder.mkdir()
    exports.png_masks(folder)
    (folder / "classes.yaml").write_text("classes: [mine]")
    assert main(["init", str(folder)]) == 2
    assert "classes.yaml exist already: move them away, or name another folder by --output" in capsys.readouterr().err
    assert (folder / "classes.yaml").read_text() == "classes: [mine]" and not (folder / "my.yaml").exists()
    assert main(["init", str(folder), "--output", str(tmp_path / "elsewhere")]) == 0
    layout = require_own_dataset(load_config(str(tmp_path / "elsewhere/my.yaml")))
    assert len(layout.labeled.samples) == len(exports.STEMS)


def test_folders_that_cannot_be_used(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    exports.write_images(tmp_path / "photos", ".jpg")
    (tmp_path / "broken").mkdir()
    exports.cvat(tmp_path / "broken")
    text = (tmp_path / "broken/annotations.xml").read_text()
    (tmp_path / "broken/annotations.xml").write_text(text[: len(text) // 2])
    exports.voc_palette(tmp_path / "good")
    (tmp_path / "good.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "film.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(40))
    exports.write_images(tmp_path / "pictures/photos", ".jpg", ["np"])
    (tmp_path / "pictures/masks").mkdir()
    np.save(tmp_path / "pictures/masks/np.npy", np.arange(24 * 32 * 3).reshape(24, 32, 3) % 10)
    exports.write_images(tmp_path / "volumes" / "photos", ".jpg")
    (tmp_path / "volumes" / "0.nii.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "notes.docx~").write_text("x")
    for name, sentence in (
        ("absent", "there is no folder"),
        ("godo", f"there is no folder {tmp_path}/godo; did you mean {tmp_path}/good"),
        ("good.zip", "good.zip is an archive, not a folder: unpack it and name the folder."),
        ("film.mp4", "film.mp4 is a video, not a folder: extract frames"),
        (
            "photos/shot 0.jpg",
            f"is an image, not a folder: name the folder that .* such as {tmp_path}/photos.",
        ),
        (
            "broken/annotations.xml",
            f"is a file of CVAT for .*, not a folder: name the folder .* {tmp_path}/broken.",
        ),
        ("notes.docx~", f"is a file, not a folder: name the folder that holds your images .* {tmp_path}."),
        ("empty", "holds no images"),
        ("pictures", "np.npy holds no map of numbers .* with values from 0 to 9"),
        ("volumes", r"belong to them; not read: 1 .nii.gz \(medical volume: export the slices as PNG"),
        ("photos", "neither masks nor annotations of a kind that is known belong to them"),
        ("broken", "annotations.xml cannot be read as CVAT for images XML 1.1"),
    ):
        assert main(["init", str(tmp_path / name)]) == 2
        assert re.search(sentence, capsys.readouterr().err), name


@pytest.mark.parametrize("typed", ["{} ", "'{}'", ' "{}/" ', "~/mushrooms"])
def test_a_folder_as_it_is_pasted(tmp_path, typed, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mushrooms").mkdir()
    exports.png_masks(tmp_path / "mushrooms")
    assert main(["init", typed.format(tmp_path / "mushrooms")]) == 0
    assert (tmp_path / "mushrooms" / "my.yaml").is_file()


def test_a_list_of_two_classes_does_not_name_two_other_values(tmp_path, capsys):
    """0 and 255 may be either of the classes, so that no third one is made up."""
    exports.write_images(tmp_path / "images", ".jpg")
    (tmp_path / "masks").mkdir()
    for number, stem in enumerate(exports.STEMS):
        Image.fromarray(np.where(exports.label_map(number) > 0, 0, 255).astype(np.uint8)).save(
            tmp_path / f"masks/{stem}.png"
        )
    (tmp_path / "classes.txt").write_text("background\ncap\n")
    layout = init(tmp_path)
    assert layout.class_map.class_names == ["background", "cap"]
    assert "0 and 255, but classes.txt does not say which of its classes each is" in capsys.readouterr().out
    (found,) = check(layout).findings
    assert "two readings are possible: (1) 0 is 'cap' and 255 is 'background'" in found.sentence
