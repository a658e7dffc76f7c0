"""Unlabelled images in a light that no labelled image shows."""

import numpy as np
import pytest

from hiervl.data.checking.duplicates import fingerprint
from hiervl.data.checking.image_facts import ImageFacts, read_image_facts
from hiervl.data.checking.light import light_findings
from hiervl.data.folders.facts import FactsStore
from hiervl.data.registered.datasets import load_dataset
from hiervl.utils.errors import UserError


def images(*levels):
    """Flat images of these grey values."""
    return [ImageFacts((8, 8), fingerprint(np.full((8, 8, 3), level, np.uint8)), level) for level in levels]


def named(facts):
    return {f"{index}.png": of_image for index, of_image in enumerate(facts)}


def test_images_far_outside_the_labeled_range_are_named_darkest_first():
    """Labelled 100 to 155: below 75, and above 180 (less than three quarters of 155's distance to white) is far."""
    found = light_findings(images(100, 155), named(images(74, 60, 76, 120, 179, 181)))
    assert [finding.files for finding in found] == [("1.png", "0.png"), ("5.png",)]
    assert found[0].sentence.startswith("2 of 6 unlabelled images are far darker") and "60 to 74" in found[0].sentence
    assert "labelled 100 to 155" in found[1].sentence


def test_no_advice_that_is_followed_already():
    for transfers in (False, True):
        (finding,) = light_findings(images(100), named(images(20)), transfers)
        assert ("SEMI.COLOR_TRANSFER" in finding.sentence) != transfers


def test_few_of_them_are_no_matter():
    assert not light_findings(images(100), named(images(10, *[100] * 19)))
    assert light_findings(images(100), named(images(10, *[100] * 18)))


@pytest.mark.parametrize(("labeled", "unlabeled"), [([], images(10)), (images(10), [])])
def test_nothing_to_compare(labeled, unlabeled):
    assert not light_findings(labeled, named(unlabeled))


@pytest.mark.parametrize(("labels", "dusk"), [(12, 48), (23, 0)])
def test_dusk_of_camvid_is_found_until_it_has_a_label(labels, dusk):
    """A sixth of the photographs are of a sequence at dusk; the first 12 labels have none of it, the first 23 do."""
    try:
        parts = [load_dataset(f"camvid_inner_train_{labels}{rest}") for rest in ("", "_unlabeled")]
    except UserError:
        pytest.skip("CamVid is not in DETECTRON2_DATASETS")
    paths = [[item["file_name"] for item in part] for part in parts]
    labeled, others = (read_image_facts(part, FactsStore(None)) for part in paths)
    found = light_findings(labeled, dict(zip(paths[1], others)))
    assert [len(finding.files) for finding in found] == ([dusk] if dusk else [])
    assert all(sum("0001TP" in path for path in finding.files) > 40 for finding in found)
