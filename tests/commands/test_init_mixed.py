"""``init`` where a folder holds more than one kind of annotations, or one damaged file."""

import json

import annotation_exports as exports
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from hiervl.__main__ import main
from hiervl.data.checking.check import check
from hiervl.engine.run_config import load_config, require_own_dataset


def init(folder, *options):
    assert main(["init", str(folder), *options]) == 0
    return require_own_dataset(load_config(str(folder / "my.yaml"), ["DATASET.CACHE", str(folder.parent / "cache")]))


def write_masks(folder, save=lambda labels, number: Image.fromarray(labels), stems=exports.STEMS):
    folder.mkdir(parents=True)
    for number, stem in enumerate(stems):
        save(exports.label_map(number), number).save(folder / f"{stem}.png")


def images_and_masks(root, **options):
    exports.write_images(root / "images", ".jpg")
    write_masks(root / "masks", **options)


def labelme(file, stem):
    shape = {"label": "cap", "points": [[2, 3], [15, 3], [15, 12]], "shape_type": "polygon"}
    file.write_text(json.dumps({"shapes": [shape], "imagePath": f"{stem}.jpg", "imageHeight": 24, "imageWidth": 32}))


def coco(file, stems):
    images = [{"id": str(number), "file_name": f"{stem}.jpg"} for number, stem in enumerate(stems)]
    box = {"category_id": "1", "segmentation": [[4, 6, 12, 6, 12, 10]]}
    annotations = [{**box, "id": number, "image_id": number} for number in range(len(images))]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cap"}]}
    file.write_text(json.dumps(content))


def assert_masks_are_read(layout):
    assert sorted(layout.labeled.samples) == sorted(exports.STEMS)
    for number, stem in enumerate(exports.STEMS):
        assert np.array_equal(layout.label(layout.labeled.samples[stem]), exports.label_map(number))


@pytest.mark.parametrize("where", ["masks", "images", "."])
@pytest.mark.parametrize("kind", ["labelme", "coco"])
def test_masks_count_that_lie_beside_a_few_annotations(tmp_path, capsys, where, kind):
    images_and_masks(tmp_path)
    if kind == "labelme":
        labelme(tmp_path / where / f"{exports.STEMS[0]}.json", exports.STEMS[0])
    else:
        coco(tmp_path / where / "few.json", exports.STEMS[:2])
    assert_masks_are_read(init(tmp_path))
    printed = capsys.readouterr().out
    assert "too, and are not used, because the masks in masks are of 6 images" in printed
    assert ("FORMAT: masks" in (tmp_path / "my.yaml").read_text()) == (where == "masks")


def test_masks_beside_annotations_of_all_images_are_named(tmp_path, capsys):
    images_and_masks(tmp_path)
    coco(tmp_path / "masks/instances.json", exports.STEMS)
    layout = init(tmp_path)
    printed = capsys.readouterr().out
    assert "images in images, annotations in masks/instances.json" in printed
    assert "masks for 6 images were found in masks, too, and are not used: to use them" in printed
    assert "cap: 6 objects in 6 images" in printed  # the ids are texts in one list and numbers in the other
    assert len(layout.labeled.samples) == 6


def test_photographs_in_folders_with_their_masks_in_one(tmp_path):
    exports.write_images(tmp_path / "images/monday", ".jpg", exports.STEMS[:3])
    exports.write_images(tmp_path / "images/tuesday", ".jpg", exports.STEMS[3:])
    write_masks(tmp_path / "masks")
    layout = init(tmp_path)
    assert len(layout.labeled.samples) == 6 and "IMAGES: images," in (tmp_path / "my.yaml").read_text()


@pytest.mark.parametrize("text", ['{"shapes": [', '{"shapes": [{"points": 7}], "imagePath": "shot 3.jpg"}'])
def test_one_bad_file_of_many_is_named_and_the_rest_is_read(tmp_path, capsys, text):
    exports.write_images(tmp_path, ".jpg")
    for stem in exports.STEMS:
        labelme(tmp_path / f"{stem}.json", stem)
    (tmp_path / "shot 3.json").write_text(text)
    assert main(["init", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "cap: 5 objects in 5 images" in printed and "note:" in printed and "shot 3.json cannot be read" in printed


def test_a_category_without_a_name_is_one_sentence(tmp_path, capsys):
    exports.write_images(tmp_path / "images", ".jpg")
    coco(tmp_path / "coco.json", exports.STEMS)
    content = json.loads((tmp_path / "coco.json").read_text())
    content["categories"] = [{"id": 1}]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert main(["init", str(tmp_path)]) == 2
    assert "coco.json cannot be read as COCO JSON (no 'name')" in capsys.readouterr().err


def test_numbers_that_are_saved_as_grey_rgb_in_some_files(tmp_path):
    images_and_masks(
        tmp_path, save=lambda labels, number: Image.fromarray(labels).convert("RGB" if number % 2 else "L")
    )
    assert_masks_are_read(init(tmp_path))
    assert "MASK_VALUES: index" in (tmp_path / "my.yaml").read_text()


def colored(labels):
    return Image.fromarray(np.array([exports.COLORS[label] for label in range(3)], dtype=np.uint8)[labels])


def test_colours_in_some_masks_and_numbers_in_others(tmp_path, capsys):
    images_and_masks(tmp_path, save=lambda labels, number: Image.fromarray(labels) if number > 1 else colored(labels))
    assert main(["init", str(tmp_path)]) == 1
    assert "4 masks hold numbers and 2 hold colours, as if two exports were mixed" in capsys.readouterr().out


def test_a_black_mask_among_colours_has_a_colour(tmp_path, capsys):
    images_and_masks(tmp_path, save=lambda labels, number: colored(labels * (number > 0)))
    layout = init(tmp_path)
    assert "mixed" not in capsys.readouterr().out and layout.class_map.class_names[0] == "colour 0 0 0"
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "masks/shot 0.png")  # 0 as a number
    assert not any("mixed" in finding.sentence for finding in check(layout).findings)


def test_check_data_warns_of_colours_beside_numbers(own):
    own.masks(lambda labels: labels)
    for path in sorted((own.root / "labelled/masks").iterdir())[:3]:
        colored(np.array(Image.open(path))).save(path)
    (found,) = check(own.layout()).findings
    assert found.level == "warning" and "7 masks hold numbers and 3 hold colours" in found.sentence
    assert len(found.files) == 3


def test_the_map_of_matlab_files_with_several_is_chosen(tmp_path, capsys):
    exports.write_images(tmp_path / "images", ".jpg")
    (tmp_path / "masks").mkdir()
    for number, stem in enumerate(exports.STEMS):
        labels = exports.label_map(number)
        savemat(tmp_path / f"masks/{stem}.mat", {"LabelMap": labels, "Objects": labels * 3})
    assert main(["init", str(tmp_path)]) == 2
    assert "LabelMap 24×32, Objects 24×32" in (printed := capsys.readouterr().err) and "--mask-variable" in printed
    assert_masks_are_read(init(tmp_path, "--mask-variable", "LabelMap"))


def test_jpeg_masks_are_named(tmp_path, capsys):
    exports.write_images(tmp_path / "images", ".jpg")
    (tmp_path / "masks").mkdir()
    for number, stem in enumerate(exports.STEMS):
        Image.fromarray((exports.label_map(number) > 0).astype(np.uint8) * 255).save(tmp_path / f"masks/{stem}.jpg")
    assert main(["init", str(tmp_path)]) == 2
    assert "the JPEG files in masks look like masks, whose values JPEG blurs: export them as PNG" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("image, mask, found", [
    ("{}", "{}_mask", "  MASK_SUFFIX: _mask\n"),
    ("{}_rgb", "{}_seg", "  IMAGE_SUFFIX: _rgb\n  MASK_SUFFIX: _seg\n"),
])  # fmt: skip
def test_masks_at_every_second_place_are_found(tmp_path, image, mask, found):
    """24 images that lie beside their masks: a look at every second file would see photographs alone."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "both"
    folder.mkdir()
    for number in range(24):
        stem = f"{number:02d}"
        Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(folder / f"{image.format(stem)}.png")
        labels = np.arange(3, dtype=np.uint8).repeat(20)[None].repeat(40, 0)
        Image.fromarray(labels).save(folder / f"{mask.format(stem)}.png")
    assert main(["init", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out/my.yaml").read_text()
    assert found in written


@pytest.mark.parametrize("name, text", [
    ("labels.txt", "cap\nstem\n"), ("classes.csv", "name\ncap\nstem\n"), ("classes.json", '["cap", "stem"]'),
])  # fmt: skip
@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2), (0, 100, 200)])
def test_a_list_that_does_not_fit_the_values_names_none_of_them(tmp_path, capsys, name, text, values):
    """Of masks with one value more than names, the first may be a background: to call it by the first name would train
    every class as another one. check-data refuses until somebody says which value is which class."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{number}.png")
        mask = np.full((40, 60), values[0], dtype=np.uint8)
        for place, value in enumerate(values[1:]):
            mask[5:15, 10 + 20 * place : 20 + 20 * place] = value
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    (tmp_path / name).write_text(text)
    main(["init", str(tmp_path), "--output", str(tmp_path / "out")])
    said, written = capsys.readouterr().out, (tmp_path / "out/classes.yaml").read_text()
    assert "it is not known which value is which class" in said and "cap: its value is not known" in said
    assert "value 2" not in written and "label:" not in written
    assert main(["check-data", str(tmp_path / "out/my.yaml")]) == 1
    assert "which" in capsys.readouterr().out


def test_what_hiervl_writes_among_the_images_is_none_of_them(tmp_path, capsys, monkeypatch):
    """The images lie at the top of the folder, and the output below it, as init writes it."""
    exports.write_images(tmp_path)
    (tmp_path / "masks").mkdir()
    for number, stem in enumerate(exports.STEMS):
        Image.fromarray(exports.label_map(number)).save(tmp_path / f"masks/{stem}.png")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    counts = []
    for _ in range(2):
        assert main(["check-data", "my.yaml"]) == 0
        counts.append(capsys.readouterr().out.split("Images\n")[1].split("Class")[0])
    assert (tmp_path / "output").is_dir() and counts[0] == counts[1]
    run = next((tmp_path / "output").iterdir())
    for name in ("run.json", "config.yaml"):
        (run / name).write_text("{}")
    Image.fromarray(exports.label_map(0)).save(run / "predictions_mine_val.png")
    assert main(["check-data", "my.yaml"]) == 0
    assert capsys.readouterr().out.split("Images\n")[1].split("Class")[0] == counts[0]
    assert main(["init", ".", "--output", "again"]) == 0
    assert "output" not in (tmp_path / "again/my.yaml").read_text().split("OUTPUT_DIR")[0]
