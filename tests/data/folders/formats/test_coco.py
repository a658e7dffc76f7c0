"""COCO files as COCO and the tools that export it write them, and what is wrong with some."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hiervl.data.checking.values import ValueStatistics, value_findings
from hiervl.data.classes.class_maps import read_class_map
from hiervl.data.folders.formats.coco import NO_NUMBERS, ODD_OUTLINES, CocoFile
from hiervl.data.folders.formats.shapes import FEW_POINTS
from hiervl.utils.errors import UserError

CLASSES = "classes: [{name: background, background: true}, cap, stem]"


@pytest.fixture
def class_map(tmp_path):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return read_class_map(tmp_path / "classes.yaml")


def coco(path, annotations, categories=(("cap", 1), ("stem", 2))):
    content = {
        "images": [{"id": 7, "file_name": "photos/a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": number, "image_id": 7, **item} for number, item in enumerate(annotations)],
        "categories": [{"id": number, "name": name} for name, number in categories],
    }
    path.write_text(json.dumps(content))
    return path


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def test_coco_instances(tmp_path, class_map):
    """A large cap, a stem on it as run lengths, a second cap beside, and a crowd."""
    stem = np.zeros((6, 8), dtype=np.uint8)
    stem[2:4, 1:3] = 1
    packed = coco_mask.encode(np.asfortranarray(stem))
    crowd = np.zeros((6, 8), dtype=np.uint8)
    crowd[5] = 1
    lengths = [int(n) for n in np.diff([0, *np.flatnonzero(np.diff(crowd.ravel(order="F"))) + 1, crowd.size])]
    path = coco(
        tmp_path / "masks.json",
        [
            {"category_id": 2, "segmentation": {"size": [6, 8], "counts": packed["counts"].decode()}},
            {"category_id": 1, "segmentation": rectangle(0, 0, 4, 5)},
            {"category_id": 1, "segmentation": rectangle(6, 0, 8, 2)},
            {"category_id": 1, "iscrowd": 1, "segmentation": {"size": [6, 8], "counts": lengths}},
        ],
    )
    path.write_text("\ufeff" + path.read_text())  # as Windows saves it
    source = CocoFile(path, class_map)
    assert list(source.keys) == ["photos/a"]
    labels, instances = source.labels("photos/a", (6, 8))
    expected = np.zeros((6, 8), dtype=int)
    expected[:5, :4], expected[:2, 6:8], expected[5], expected[2:4, 1:3] = 1, 1, 1, 2
    assert labels.tolist() == expected.tolist()
    assert (instances > 0).tolist() == ((expected > 0) & (crowd == 0)).tolist()
    assert len({instances[0, 0], instances[2, 1], instances[0, 7]}) == 3
    assert (instances[:5, :4][expected[:5, :4] == 1] == instances[0, 0]).all()


def coco_of_ids(path, images, annotations):
    """Images a, b, … with these ids, and a cap for each id of ``annotations``."""
    content = {
        "images": [{"id": number, "file_name": f"{name}.jpg"} for number, name in zip(images, "abcdef")],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1.0, "segmentation": rectangle(0, 0, 4, 5)}
            for number, image in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "cap"}],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "images, annotations",
    [([0, 1], [0.0, 1.0]), ([1.0, 2.0], [1, 2]), (["0001", "0002"], [1, 2]), ([1, 2], ["0001", "2.0"])],
)
def test_ids_of_the_same_number_are_the_same(tmp_path, class_map, images, annotations):
    source = CocoFile(coco_of_ids(tmp_path / "masks.json", images, annotations), class_map)
    assert [[shape.name for shape in source.annotation(key).shapes] for key in "ab"] == [["cap"], ["cap"]]


def test_images_that_may_have_lost_their_annotations_are_refused(tmp_path, class_map):
    path = coco_of_ids(tmp_path / "masks.json", [1, 2, 3], [1, 98, 99, 99])
    with pytest.raises(UserError, match=r"3 annotations refer to 2 images .*image_id: 98\), and 2 images have .* b:"):
        CocoFile(path, class_map)
    path = coco_of_ids(tmp_path / "masks.json", ["1", "01"], ["001"])  # it could be either
    with pytest.raises(UserError, match="1 annotations refer to 1 images"):
        CocoFile(path, class_map)


def test_annotations_of_images_taken_out_of_the_list_are_noted(tmp_path, class_map):
    path = coco_of_ids(tmp_path / "masks.json", [1, 2], [1, 2, 98, 99, 99])
    source = CocoFile(path, class_map)
    (note,) = source.notes
    assert note.startswith(f"{path}: 3 annotations refer to 2 images that the file does not list")
    coco_of_ids(path, [1, 2], [1, 99])  # b lies in another folder than the images
    assert CocoFile(path, class_map, {"a": tmp_path / "a.jpg"}).notes


def test_two_images_of_one_id_are_refused(tmp_path, class_map):
    path = coco_of_ids(tmp_path / "masks.json", [1, 1], [1])
    with pytest.raises(UserError, match="gives the id 1 to two images, a.jpg and b.jpg"):
        CocoFile(path, class_map)


def test_two_categories_of_one_id_are_refused(tmp_path, class_map):
    path = coco_of_ids(tmp_path / "masks.json", [1, 2], [1, 2])
    content = json.loads(path.read_text())
    content["categories"] += [{"id": 1.0, "name": "cap"}]  # written twice, which says nothing else
    path.write_text(json.dumps(content))
    assert CocoFile(path, class_map).categories == {"1": "cap"}
    content["categories"] += [{"id": 1, "name": "stem"}]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="gives the id 1 to two categories, cap and stem"):
        CocoFile(path, class_map)


def test_run_lengths_in_every_wrapping(tmp_path, class_map):
    """As a text, as bytes that str() was applied to, as numbers, and several for one object."""
    mask = np.zeros((6, 8), dtype=np.uint8, order="F")
    mask[1:4, 2:5] = 1
    other = np.zeros((6, 8), dtype=np.uint8, order="F")
    other[5, 7] = 1
    packed = coco_mask.encode(mask)["counts"]
    numbers = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    for segmentation in (
        {"size": [6, 8], "counts": packed.decode()},
        {"size": [6, 8], "counts": str(packed)},
        numbers,
        [numbers, {"size": [6, 8], "counts": coco_mask.encode(other)["counts"].decode()}],
    ):
        source = CocoFile(coco(tmp_path / "m.json", [{"category_id": 1, "segmentation": segmentation}]), class_map)
        labels, instances = source.labels("photos/a", (6, 8))
        assert np.array_equal(labels, mask | other if isinstance(segmentation, list) else mask)
        assert len(np.unique(instances[labels > 0])) == 1


def test_pixels_of_no_object_are_ignored_without_a_background(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [cap, stem]")
    source = CocoFile(
        coco(tmp_path / "m.json", [{"category_id": 1, "segmentation": rectangle(0, 0, 4, 6)}]),
        read_class_map(tmp_path / "classes.yaml"),
    )
    labels, _ = source.labels("photos/a", (6, 8))
    assert labels[:, :4].tolist() == [[0] * 4] * 6 and (labels[:, 4:] == 255).all()


def test_labels_of_coco_are_not_taken_for_mask_values(tmp_path):
    """An ignored entry in front shifts the labels: cap is the entry 1 but the label 0."""
    (tmp_path / "classes.yaml").write_text("classes: [{name: void, ignore: true}, cap, {name: rest, background: true}]")
    class_map = read_class_map(tmp_path / "classes.yaml")
    annotation = {"category_id": 1, "segmentation": rectangle(0, 0, 4, 6)}
    source = CocoFile(coco(tmp_path / "m.json", [annotation], categories=(("cap", 1),)), class_map)
    statistics = ValueStatistics(class_map)
    assert statistics.add("m", source.raw("photos/a")).tolist() == [24, 24]
    assert value_findings(statistics) == []


def test_wrong_coco_files_are_user_errors(tmp_path, class_map):
    (tmp_path / "no.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="no.json is not a COCO file"):
        CocoFile(tmp_path / "no.json", class_map)
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(UserError, match="cut.json is not a JSON file .line 1"):
        CocoFile(tmp_path / "cut.json", class_map)
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="binary.json is not a JSON file .it is not text.: export"):
        CocoFile(tmp_path / "binary.json", class_map)
    (tmp_path / "via.json").write_text('{"a.jpg1": {"filename": "a.jpg", "regions": []}}')
    with pytest.raises(UserError, match="via.json is not a COCO file .* but VGG Image Annotator"):
        CocoFile(tmp_path / "via.json", class_map)
    with pytest.raises(UserError, match="absent.json cannot be read"):
        CocoFile(tmp_path / "absent.json", class_map)
    source = CocoFile(coco(tmp_path / "m.json", []), class_map)
    with pytest.raises(UserError, match="is for an image of 8×6 pixels, but the image has 10×6"):
        source.labels("photos/a", (6, 10))
    lengths = {"category_id": 1, "segmentation": {"size": [3, 3], "counts": [9]}}
    source = CocoFile(coco(tmp_path / "m.json", [lengths]), class_map)
    with pytest.raises(UserError, match="photos/a.*run lengths of 3×3 pixels, but an image of 8×6"):
        source.labels("photos/a", (6, 8))


def test_only_categories_that_are_used_have_to_be_classes(tmp_path, class_map):
    """Roboflow, for one, puts a category in front that no annotation has."""
    names = (("void", 0), ("cap", 1), ("gills", 3))
    source = CocoFile(coco(tmp_path / "m.json", [cap(rectangle(0, 0, 4, 5))], names), class_map)
    assert source.labels("photos/a", (6, 8))[0].sum() == 20
    source = CocoFile(coco(tmp_path / "m.json", [{**cap(rectangle(0, 0, 4, 5)), "category_id": 3}], names), class_map)
    assert source.raw("photos/a").unknown_names == {"gills": 1}
    with pytest.raises(UserError, match="'gills' .1., which .*classes.yaml does not name"):
        source.labels("photos/a", (6, 8))


def test_annotations_of_no_listed_category_are_refused(tmp_path, class_map):
    other = {**cap(rectangle(0, 0, 4, 5)), "category_id": 99}
    lost = {key: value for key, value in other.items() if key != "category_id"}
    with pytest.raises(UserError, match="m.json: 1 annotation has category_id 99, which `categories` lacks: export it"):
        CocoFile(coco(tmp_path / "m.json", [cap(rectangle(0, 0, 4, 5)), other]), class_map)
    with pytest.raises(UserError, match="m.json: 2 annotations have no category_id: export it again"):
        CocoFile(coco(tmp_path / "m.json", [lost, cap(rectangle(0, 0, 4, 5)), lost]), class_map)


def cap(segmentation, **more):
    return {"category_id": 1, "segmentation": segmentation, **more}


def test_boxes_without_outline_are_counted(tmp_path, class_map):
    boxes = [cap([], bbox=[0, 0, 2, 2]), cap(None, bbox=[4, 0, 2, 2])]
    with pytest.raises(UserError, match=r"2 of 4 annotations have no outline \(boxes only\)"):
        CocoFile(coco(tmp_path / "m.json", boxes + [cap(rectangle(0, 0, 4, 5))] * 2), class_map)
    source = CocoFile(coco(tmp_path / "m.json", boxes[:1] + [cap(rectangle(4, 3, 8, 6))] * 20), class_map)
    raw = source.raw("photos/a")  # one of 21: its area does not count
    assert (raw.codes[:2, :2] == 255).all() and (raw.codes == 255).sum() == 4 and sum(raw.remarks.values()) == 1


@pytest.mark.parametrize(
    ("segmentation", "pixels", "remarks"),
    [
        ([[0, 0, 4, 0, 4, 5, 0, 5]], 20, 0),
        ([0, 0, 4, 0, 4, 5, 0, 5], 20, 0),  # an outline that is not a list of outlines
        ([[0, 0], [4, 0], [4, 5], [0, 5]], 20, 0),  # a list of points
        ([[0, 0, 4, 0, 4, 5, 0, 5], [1, 1, 2, 2]], 20, 1),  # a line beside
        ([[0, 0, 4, 0, 4, 5, 0, 5], [1, 1, 2]], 20, 1),
        ([[0, 0, 4, 0, 4, 5, 0, "x"]], 0, 1),
        ([[1, 1, 2, 2]], 0, 1),
        ([[-9, 0, 4, 0, 4, 5, -9, 5]], 20, 0),  # beyond the image
        ([[20, 20, 24, 20, 24, 25]], 0, 1),
    ],
)
def test_odd_outlines_are_left_out_or_cut(tmp_path, class_map, segmentation, pixels, remarks):
    raw = CocoFile(coco(tmp_path / "m.json", [cap(segmentation)]), class_map).raw("photos/a")
    assert (raw.codes == 1).sum() == pixels and sum(raw.remarks.values()) == remarks


@pytest.mark.parametrize("wrong", [float("nan"), "x", None])
def test_coordinates_that_are_no_numbers_are_called_so(tmp_path, class_map, wrong):
    """The points on both sides of the wrong value keep their pairs."""
    outline = [1, wrong, 0, 0, 4, 0, 4, 5, 0, 5]
    for segmentation in ([outline], outline):
        raw = CocoFile(coco(tmp_path / "m.json", [cap(segmentation)]), class_map).raw("photos/a")
        assert raw.remarks == {NO_NUMBERS: 1} and (raw.codes[:5, :4] == 255).all() and (raw.codes == 255).sum() == 20


def test_sizes_come_from_the_images_where_the_file_has_none(tmp_path, class_map):
    path = coco(tmp_path / "m.json", [cap(rectangle(0, 0, 4, 5))])
    content = json.loads(path.read_text())
    del content["images"][0]["height"], content["images"][0]["width"]
    content["images"][0].update(id="7", file_name="C:\\data\\photos\\a.jpg")  # numbers as text, Windows' path
    path.write_text(json.dumps(content))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "photos" / "a.jpg")
    source = CocoFile(path, class_map, {"photos/a": tmp_path / "photos" / "a.jpg"})
    assert source.raw("photos/a").codes.shape == (7, 9) and source.raw("photos/a").codes.sum() == 20


@pytest.mark.parametrize("outline", [[1, 1, 5, 4, 5], [1, 1, 5, 4], [1, 1, 5, 1], [3], []])
def test_the_box_of_an_outline_that_cannot_be_drawn_does_not_count(tmp_path, class_map, outline):
    """Its pixels are not background. The box of its points lies below what can be drawn; points alone may have none."""
    box = {"bbox": [1, 1, 4, 3] if len(outline) < 5 and outline[3:] != [4] else [0, 0, 8, 6]}
    path = coco(tmp_path / "m.json", [{"category_id": 1, "segmentation": [*rectangle(0, 0, 2, 2), outline], **box}])
    raw = CocoFile(path, class_map).raw("photos/a")
    expected = np.zeros((6, 8), dtype=int)
    expected[1:4, 1:5] = 255
    expected[:2, :2] = 1
    assert np.array_equal(raw.codes, expected)
    assert raw.remarks == {ODD_OUTLINES: 1}


def test_points_without_a_box_are_left_out(tmp_path, class_map):
    path = coco(tmp_path / "m.json", [{"category_id": 1, "segmentation": [[1, 1, 5, 1]]}])
    raw = CocoFile(path, class_map).raw("photos/a")
    assert not raw.codes.any() and raw.remarks == {FEW_POINTS: 1}
