"""Drafts for labelme, CVAT, Label Studio and YOLO, read back as annotations: the same label maps."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from hiervl.data.classes.class_maps import read_class_map
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.classes.records import write_classes
from hiervl.data.folders.files import find_files
from hiervl.data.folders.formats.opening import open_annotations
from hiervl.inference.annotation_drafts import AnnotationDrafts, DraftImage, regions_of
from hiervl.inference.predictor import Prediction

NAMES = ("ground", 'cap "<1>" & more', "stem")
CLASSES = [ClassDefinition(name, (name,), (40 * i, 0, 9), name == "ground") for i, name in enumerate(NAMES)]
SIZE = (60, 90)
PLACES = {
    "labelme": "labelme",
    "cvat": "cvat/annotations.xml",
    "label_studio": "label_studio/tasks.json",
    "yolo": "yolo/labels",
}


def clouds(seed):
    """Regions of three classes, with holes and speckles."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), 4)
    return np.digitize(noise, np.quantile(noise, [0.4, 0.7])).astype(np.uint8)


def write_drafts(root, form, label_maps):
    """Photographs below ``photos`` and drafts of their annotations below ``out``."""
    drafts, images = AnnotationDrafts(root / "out", CLASSES, [form]), []
    for number, labels in enumerate(label_maps):
        file = root / f"photos/deep/a {number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels * 80).save(file)
        prediction = Prediction(labels, np.ones(SIZE, np.float32), None, None, tuple(CLASSES))
        images.append(DraftImage(f"deep/a {number}", str(file), SIZE, regions_of(prediction, CLASSES)))
        drafts.write_image(images[-1])
    drafts.write_all(images)


@pytest.mark.parametrize("form", PLACES)
def test_drafts_are_read_as_annotations(tmp_path, form):
    label_maps = [clouds(0), clouds(1)]
    write_drafts(tmp_path, form, label_maps)
    if form == "label_studio":
        accept_predictions(tmp_path / "out/label_studio/tasks.json")
    write_classes(tmp_path / "classes.yaml", CLASSES)
    class_map = read_class_map(tmp_path / "classes.yaml")
    source = open_annotations(tmp_path / "out" / PLACES[form], find_files(tmp_path / "photos"), class_map)
    assert sorted(source.keys) == ["deep/a 0", "deep/a 1"]
    for key, labels in zip(sorted(source.keys), label_maps):
        raw = source.raw(key)
        assert not raw.unknown_names and not raw.remarks
        read, _ = source.labels(key, SIZE)
        for label in (1, 2):
            both, either = (read == label) & (labels == label), (read == label) | (labels == label)
            assert both.sum() > 0.9 * either.sum()


def accept_predictions(path):
    """What Label Studio does when a person submits a draft as it is."""
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        task.update(id=number, annotations=[{"id": number, "result": task["predictions"][0]["result"]}])
    path.write_text(json.dumps(tasks))


def test_drafts_have_the_extra_fields_that_the_tools_need(tmp_path):
    for form in PLACES:
        write_drafts(tmp_path, form, [clouds(0)])
    labelme = json.loads((tmp_path / "out/labelme/deep/a 0.json").read_text())
    assert (tmp_path / "out/labelme/deep" / labelme["imagePath"]).resolve() == tmp_path / "photos/deep/a 0.jpg"
    assert labelme["imageData"] is None and {shape["shape_type"] for shape in labelme["shapes"]} == {"polygon"}
    cvat = ElementTree.parse(tmp_path / "out/cvat/annotations.xml").getroot()
    assert [label.text for label in cvat.iterfind("meta/task/labels/label/name")] == list(NAMES[1:])
    assert [label.text for label in cvat.iterfind("meta/task/labels/label/color")] == ["#280009", "#500009"]
    attributes = cvat.find("image").attrib
    assert int(attributes.pop("id")) > 100_000  # of no frame, or CVAT would take it for that one
    assert attributes == {"name": "deep/a 0.jpg", "width": "90", "height": "60"}
    config = ElementTree.parse(tmp_path / "out/label_studio/labeling_config.xml").getroot()
    assert [label.get("value") for label in config.iter("Label")] == list(NAMES[1:])
    (task,) = json.loads((tmp_path / "out/label_studio/tasks.json").read_text())
    names = {config.find("Image").get("name"), config.find("PolygonLabels").get("name")}
    assert names == {task["predictions"][0]["result"][0][key] for key in ("from_name", "to_name")}
    assert task["data"]["image"] == "/data/local-files/?d=deep/a%200.jpg"
    data = yaml.safe_load((tmp_path / "out/yolo/data.yaml").read_text())
    assert "path" not in data and data["train"] == "images" and data["names"] == dict(enumerate(NAMES[1:]))
    lines = Path(tmp_path / "out/yolo/labels/deep/a 0.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"0", "1"}
    assert all(0 <= float(share) <= 1 for line in lines for share in line.split()[1:])
