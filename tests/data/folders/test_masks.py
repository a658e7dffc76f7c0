"""The same label map in every form that users have."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hiervl.data.checking.values import ValueStatistics, value_findings
from hiervl.data.classes.class_maps import read_class_map
from hiervl.data.folders.masks import COLOR, INDEX, CocoFile, MaskFolder
from hiervl.utils.errors import UserError

LABELS = np.array([[0, 0, 1], [2, 1, 255]], dtype=np.uint8)
COLORS = {0: (10, 0, 0), 1: (0, 20, 0), 2: (0, 0, 30), 255: (9, 9, 9)}
CLASSES = (
    "classes:\n  - {name: ground, background: true, color: [10, 0, 0]}\n  - {name: cap, color: [0, 20, 0]}\n"
    "  - {name: stem, color: [0, 0, 30]}\n  - {name: void, ignore: true, label: 255, color: [9, 9, 9]}\n"
)


@pytest.fixture
def class_map(tmp_path):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return read_class_map(tmp_path / "classes.yaml")


def rgb(labels=LABELS):
    return np.array([[COLORS[value] for value in row] for row in labels.tolist()], dtype=np.uint8)


def palette_image(order=(0, 1, 2, 255)):
    """A palette file in which ``order[i]`` is the class of index i."""
    indices = np.vectorize({value: index for index, value in enumerate(order)}.get)(LABELS).astype(np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette([channel for value in order for channel in COLORS[value]])
    return image


IMAGES = {
    "index": (lambda: Image.fromarray(LABELS), "auto", INDEX),
    "16 bit index": (lambda: Image.fromarray(LABELS.astype(np.uint16)), "auto", INDEX),
    "rgb": (lambda: Image.fromarray(rgb()), "auto", COLOR),
    "rgba": (lambda: Image.fromarray(np.dstack([rgb(), np.full(LABELS.shape, 128, np.uint8)])), "auto", COLOR),
    "palette that is shuffled": (lambda: palette_image((2, 255, 0, 1)), "color", COLOR),
    "index saved as grey rgb": (lambda: Image.fromarray(np.repeat(LABELS[:, :, None], 3, axis=2)), "index", INDEX),
}


@pytest.mark.parametrize("name", IMAGES)
def test_forms_of_one_label_map(tmp_path, class_map, name):
    make, values, form = IMAGES[name]
    (tmp_path / "masks").mkdir()
    make().save(tmp_path / "masks" / "a.png")
    masks = MaskFolder(tmp_path / "masks", class_map, values)
    assert masks.raw("a").form == form
    labels, instances = masks.labels("a", (2, 3))
    assert labels.dtype == np.uint8 and labels.tolist() == LABELS.tolist() and instances is None


def test_palette_indices_count_by_default(tmp_path, class_map):
    (tmp_path / "masks").mkdir()
    palette_image((0, 1, 2, 255)).save(tmp_path / "masks" / "a.png")
    masks = MaskFolder(tmp_path / "masks", class_map)
    raw = masks.raw("a")
    assert raw.form == INDEX and raw.codes.tolist() == [[0, 0, 1], [2, 1, 3]]
    assert raw.palette[1] == (0, 20, 0)
    with pytest.raises(UserError, match="a.png holds the value 3, which .*classes.yaml does not name"):
        masks.labels("a", (2, 3))


def test_a_label_map_is_used_as_it_is(tmp_path, class_map):
    (tmp_path / "masks").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "masks" / "a.png")
    Image.fromarray(rgb()).save(tmp_path / "masks" / "b.png")
    masks = MaskFolder(tmp_path / "masks", class_map)
    assert masks.as_it_is("a") and not masks.as_it_is("b")
    assert not MaskFolder(tmp_path / "masks", class_map, "color").as_it_is("a")
    (tmp_path / "classes.yaml").write_text(CLASSES.replace("{name: cap,", "{name: cap, label: 5,"))
    assert not MaskFolder(tmp_path / "masks", read_class_map(tmp_path / "classes.yaml")).as_it_is("a")


def test_wrong_masks_are_user_errors(tmp_path, class_map):
    (tmp_path / "masks").mkdir()
    Image.fromarray(rgb()).save(tmp_path / "masks" / "a.png")
    with pytest.raises(UserError, match="a.png is 3×2 pixels, but its image is 2×3"):
        MaskFolder(tmp_path / "masks", class_map).labels("a", (3, 2))
    with pytest.raises(UserError, match="MASK_VALUES is 'index'"):
        MaskFolder(tmp_path / "masks", class_map, "index").raw("a")


# ---------------------------------------------------------------------------- COCO


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
    assert source.keys == {"photos/a": 7}
    labels, instances = source.labels("photos/a", (6, 8))
    expected = np.zeros((6, 8), dtype=int)
    expected[:5, :4], expected[:2, 6:8], expected[5], expected[2:4, 1:3] = 1, 1, 1, 2
    assert labels.tolist() == expected.tolist()
    assert (instances > 0).tolist() == ((expected > 0) & (crowd == 0)).tolist()
    assert len({instances[0, 0], instances[2, 1], instances[0, 7]}) == 3
    assert (instances[:5, :4][expected[:5, :4] == 1] == instances[0, 0]).all()


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
    with pytest.raises(UserError, match="categories gills, which .*classes.yaml does not name"):
        CocoFile(coco(tmp_path / "m.json", [{"category_id": 3}], categories=(("cap", 1), ("gills", 3))), class_map)
    (tmp_path / "no.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="no.json is no COCO file"):
        CocoFile(tmp_path / "no.json", class_map)
    with pytest.raises(UserError, match="absent.json cannot be read"):
        CocoFile(tmp_path / "absent.json", class_map)
    source = CocoFile(coco(tmp_path / "m.json", [{"category_id": 1, "segmentation": None}]), class_map)
    with pytest.raises(UserError, match=r"image photos/a.jpg\): the annotation 0 has no outline"):
        source.labels("photos/a", (6, 8))
    with pytest.raises(UserError, match="is 8×6 pixels there, but the image is 10×6"):
        source.labels("photos/a", (6, 10))
