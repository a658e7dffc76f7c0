"""Drafts for annotation tools, read back by COCO's own reader and by HierVL's."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy import ndimage

from hiervl.data.classes.class_maps import read_class_map
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.classes.records import write_classes
from hiervl.data.folders.formats.coco import CocoFile
from hiervl.inference.annotation_files import CocoDraft
from hiervl.inference.predictor import Prediction

NAMES = ("ground", "a", "b")
CLASSES = [ClassDefinition(name, (name,), (40 * i, 0, 0), name == "ground") for i, name in enumerate(NAMES)]


@pytest.fixture
def draft(tmp_path):
    """→ function from label maps to the file of their draft."""

    def make(*label_maps):
        file = CocoDraft(CLASSES)
        for number, labels in enumerate(label_maps):
            confidence = np.ones(labels.shape, np.float32)
            file.add(f"deep/{number}.jpg", Prediction(labels.astype(np.uint8), confidence, None, None, tuple(CLASSES)))
        file.write(tmp_path / "annotations.json")
        return tmp_path / "annotations.json"

    return make


def clouds(seed, size=(60, 90)):
    """Regions of three classes, with holes, thin parts and speckles."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 2.5)
    return np.digitize(noise, np.quantile(noise, [0.35, 0.7]))


def test_coco_reads_every_region_as_it_was(draft):
    label_maps = [clouds(0), clouds(1)]
    coco = COCO(str(draft(*label_maps)))
    assert {c["id"]: c["name"] for c in coco.cats.values()} == {2: "a", 3: "b"}  # no background
    compared = 0
    for image_id, labels in enumerate(label_maps, start=1):
        assert coco.imgs[image_id]["file_name"] == f"deep/{image_id - 1}.jpg"
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            (polygon,) = annotation["segmentation"]  # what Label Studio can read
            regions, _ = ndimage.label(labels == annotation["category_id"] - 1)
            drawn = coco.annToMask(annotation).astype(bool)
            number = np.bincount(regions[drawn]).argmax()
            region = regions == number
            assert number and (drawn & region).sum() >= 0.95 * (drawn | region).sum()
            assert annotation["area"] == region.sum()
            rows, columns = np.nonzero(region)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            compared += 1
        expected = sum((np.bincount(ndimage.label(labels == label)[0].ravel())[1:] >= 4).sum() for label in (1, 2))
        assert len(coco.getAnnIds(imgIds=image_id)) == expected  # regions of fewer than 4 pixels are left out
    assert compared > 10


def test_a_thin_line_and_a_hole_survive(draft):
    labels = np.zeros((20, 30), int)
    labels[1, 2:27] = 1
    labels[4:18, 4:20] = 2
    labels[8:12, 8:14] = 0
    coco = COCO(str(draft(labels)))
    line, ring = (coco.annToMask(a) for a in sorted(coco.anns.values(), key=lambda a: a["category_id"]))
    np.testing.assert_array_equal(line, labels == 1)
    np.testing.assert_array_equal(ring, labels == 2)
    assert len(json.loads(draft(labels).read_text())["annotations"][0]["segmentation"][0]) <= 24


def test_corrected_drafts_are_masks_to_train_with(draft, tmp_path):
    labels = clouds(2)
    write_classes(tmp_path / "classes.yaml", CLASSES)
    masks = CocoFile(draft(labels), read_class_map(tmp_path / "classes.yaml"))
    read, _ = masks.labels("deep/0", labels.shape)
    assert (read == labels).mean() > 0.97
