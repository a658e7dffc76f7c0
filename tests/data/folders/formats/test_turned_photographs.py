"""Photographs that EXIF turns: annotations of every format are read in the frame in which they were drawn."""

import json

import annotation_exports as exports
import numpy as np
import pytest
from PIL import Image

from hiervl.data.checking.check import check
from hiervl.data.loading.turns import turned

QUARTER_TURN, BACK = 6, 8
SHARES = {"yolo"}  # of the image's size: they fit either way
NO_SIZES = {"via1", "via2"}  # in the files: these coordinates fit either way, too


def save_turned(path, stored, orientation=QUARTER_TURN):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)


def open_turned(root, name, frame):
    """→ the layout of an export whose photographs are turned, and the label maps that are to be read.

    ``frame`` "stored": the annotations belong to the pixels as the camera stored them; "upright": to what one sees.
    """
    samples = exports.open_export(root, name).labeled.samples
    for sample in samples.values():
        pixels = np.array(Image.open(sample.image).convert("RGB"))
        save_turned(sample.image, pixels if frame == "stored" else turned(pixels, BACK))
    expected = {
        stem: exports.label_map(number) if frame == "upright" else turned(exports.label_map(number), QUARTER_TURN)
        for number, stem in enumerate(sorted(samples))
    }
    return exports.open_own(root), expected


@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("name", [name for name in exports.EXPORTS if name not in {*SHARES, *NO_SIZES}])
def test_the_size_tells(tmp_path, name, frame):
    layout, expected = open_turned(tmp_path, name, frame)
    samples = layout.labeled.samples
    assert samples.keys() == expected.keys()
    for stem, sample in samples.items():
        assert np.array_equal(layout.label(sample, expected[stem].shape), expected[stem]), stem
        labels, instances = layout.label_files(sample)
        if instances is not None:
            assert np.array_equal(np.array(Image.open(instances)) > 0, expected[stem] > 0)
    findings = [
        finding.sentence for finding in check(layout).findings if "hold a map per class" not in finding.sentence
    ]
    assert all("before its EXIF rotation, and are turned with it" in sentence for sentence in findings)
    assert len(findings) == (frame == "stored")


@pytest.mark.parametrize("name", sorted({*SHARES, *NO_SIZES}))
def test_what_fits_either_way_is_taken_for_upright_and_said(tmp_path, name):
    layout, expected = open_turned(tmp_path, name, "upright")
    for stem, sample in layout.labeled.samples.items():
        assert np.array_equal(layout.label(sample), expected[stem]), stem
    report = check(layout)
    assert report.is_sound and len(report.doubtful) == len(expected)
    assert "their size or coordinates fit either way" in report.findings[0].sentence


@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_coordinates_that_reach_beyond_one_of_the_two_tell(tmp_path, frame):
    """VIA's file has no sizes; an outline down to row 30 is of no image of 24×32."""
    layout, _ = open_turned(tmp_path, "via1", frame)
    path = tmp_path / "via_region_data.json"
    content = json.loads(path.read_text())
    tall = frame == "stored"  # then the upright photograph is 32 high and 24 wide, and the stored one 24 and 32
    box = {"name": "rect", "x": 25 if tall else 2, "y": 3 if tall else 1, "width": 5, "height": 4}
    far = {**box, "x": 20, "width": 12}  # reaches to column 32
    for entry in content.values():
        entry["regions"] = {"0": {"shape_attributes": far, "region_attributes": {"part": "cap"}}}
    path.write_text(json.dumps(content))
    labels = np.zeros((exports.HEIGHT, exports.WIDTH), dtype=np.uint8)
    labels[far["y"] : far["y"] + 4, 20:32] = 1
    layout = exports.open_own(tmp_path)
    for sample in layout.labeled.samples.values():
        assert np.array_equal(layout.label(sample), turned(labels, QUARTER_TURN) if tall else labels)
    assert not check(layout).doubtful


def test_run_lengths_tell_where_the_images_have_no_sizes(tmp_path):
    layout, expected = open_turned(tmp_path, "roboflow_coco", "stored")
    path = tmp_path / "train/_annotations.coco.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["height"], image["width"]
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        mask = np.zeros((exports.HEIGHT, exports.WIDTH), dtype=bool)
        mask[top : top + height, left : left + width] = True
        flat = np.concatenate([[False], mask.ravel(order="F"), [True]])
        counts = np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [mask.size]]))
        annotation["segmentation"] = {"size": [exports.HEIGHT, exports.WIDTH], "counts": counts.tolist()}
    path.write_text(json.dumps(content))
    layout = exports.open_own(tmp_path)
    for stem, sample in layout.labeled.samples.items():
        assert np.array_equal(layout.label(sample), expected[stem]), stem


def test_a_size_of_neither_frame_is_an_error(tmp_path):
    layout, _ = open_turned(tmp_path, "cvat", "stored")
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace('height="24"', 'height="25"'))
    (finding, *_) = check(exports.open_own(tmp_path)).findings
    assert finding.level == "error" and "differ in size" in finding.sentence
    assert "(32×25, its image 24×32)" in finding.files[0]


@pytest.mark.parametrize("orientation", [None, QUARTER_TURN])
def test_a_size_that_the_coordinates_contradict_is_exchanged(tmp_path, orientation):
    """Tools that show the photograph upright, and write the size of its file; or width as height."""
    exports.write_images(tmp_path / "images", ".jpg")
    shown = (24, 32) if orientation is None else (32, 24)  # height and width
    reach = (shown[1] - 2, shown[0] - 2)
    outline = [1, 1, reach[0], 1, *reach, 1, reach[1]]
    content = {
        "images": [
            {"id": n, "file_name": f"{stem}.jpg", "height": shown[1], "width": shown[0]}
            for n, stem in enumerate(exports.STEMS)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [outline]} for n in range(len(exports.STEMS))
        ],
        "categories": [{"id": 1, "name": "cap"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    for path in (tmp_path / "images").iterdir():
        if orientation is not None:
            save_turned(path, np.array(Image.open(path)), orientation)
    exports.write_own(tmp_path, "LABELED: {IMAGES: images, MASKS: coco.json}")
    layout = exports.open_own(tmp_path)
    found = [finding for finding in check(layout).findings if "exchange width and height" in finding.sentence]
    assert len(found) == 1 and found[0].sentence.startswith("6 annotations")
    expected = np.zeros(shown, dtype=int)
    expected[1 : reach[1], 1 : reach[0]] = 1
    for sample in layout.labeled.samples.values():
        assert np.array_equal(layout.label(sample, shown), expected)
