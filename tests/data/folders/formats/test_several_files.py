"""Several annotations for the images of one folder: of files, of tasks, and by names that disagree."""

import json

import annotation_exports as exports
import numpy as np
import pytest
from annotation_exports import open_own, write_own
from partial_exports import cvat, label_studio

from hiervl.__main__ import main
from hiervl.data.checking.check import check
from hiervl.utils.errors import UserError


def jobs(root, full=(3, 3), stems=(exports.STEMS[:3], exports.STEMS[3:])):
    """A CVAT file for each job; ``full``: how many of its images have an object."""
    exports.write_images(root / "images", ".jpg")
    (root / "jobs").mkdir()
    for number, (own, count) in enumerate(zip(stems, full)):
        (root / cvat(root, own, count)).rename(root / f"jobs/job_{number}.xml")
    write_own(root, "LABELED: {IMAGES: images, MASKS: jobs}")
    return root


def test_the_files_of_several_jobs_are_read_together(tmp_path):
    layout = open_own(jobs(tmp_path))
    report = check(layout)
    assert report.is_sound and sorted(layout.labeled.samples) == sorted(exports.STEMS)
    assert all((layout.label(sample) == 1).any() for sample in layout.labeled.samples.values())


def test_init_finds_all_jobs(tmp_path, capsys):
    jobs(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    assert main(["init", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "annotations in jobs" in printed and "cap: 6 objects in 6 images" in printed and "not used" not in printed


def test_an_image_of_two_jobs(tmp_path):
    """With objects in both, nobody knows which counts; without any in one, the other counts."""
    both = (exports.STEMS[:4], exports.STEMS[3:])
    root = jobs(tmp_path, full=(3, 3), stems=both)
    layout = open_own(root)
    assert (layout.label(layout.labeled.samples["shot 3"]) == 1).any()
    assert any(
        "listed by two files, of which one has no object" in finding.sentence for finding in check(layout).findings
    )
    (root / cvat(root, both[0], 4)).rename(root / "jobs/job_0.xml")
    with pytest.raises(UserError, match="job_0.xml and .*job_1.xml both have objects for the image shot 3"):
        check(open_own(root))


@pytest.mark.parametrize("is_truth", [False, True])
def test_a_newer_empty_annotation_does_not_hide_an_older_full_one(tmp_path, is_truth):
    exports.write_images(tmp_path / "images", ".jpg")
    write_own(tmp_path, f"LABELED: {{IMAGES: images, MASKS: {label_studio(tmp_path, exports.STEMS, 6)}}}")
    tasks = json.loads((tmp_path / "labels.json").read_text())
    tasks[0]["annotations"].append({"id": 99, "result": [], "ground_truth": is_truth})
    (tmp_path / "labels.json").write_text(json.dumps(tasks))
    layout = open_own(tmp_path)
    warned = [f for f in check(layout).findings if "annotations without a region are newer" in f.sentence]
    assert (layout.label(layout.labeled.samples["shot 0"]) == 1).any() == (not is_truth)
    assert len(warned) == (not is_truth)


def test_a_labelme_file_that_names_another_image_is_warned_of(tmp_path):
    layout = exports.open_export(tmp_path, "labelme_apart")
    path = tmp_path / "labels/shot 1.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "imagePath": "..\\images\\shot 2.jpg"}))
    (found,) = check(open_own(tmp_path)).findings
    assert found.files == (str(path),) and "name of one image and the imagePath of another" in found.sentence
    assert np.array_equal(layout.label(layout.labeled.samples["shot 1"]), exports.label_map(1))
