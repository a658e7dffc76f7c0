"""Images that an export lists without an object: they may show none, or nobody has annotated them yet."""

import annotation_exports as exports
import pytest
from annotation_exports import open_own, write_own
from partial_exports import coco, cvat, label_studio, via, yolo

from hiervl.data.checking.check import check
from hiervl.engine.run_config import load_config
from hiervl.utils.errors import UserError


@pytest.mark.parametrize("write", [coco, cvat, via, label_studio, yolo])
def test_images_without_objects_are_counted_and_named(tmp_path, write):
    exports.write_images(tmp_path / "images", ".jpg")
    masks = write(tmp_path, exports.STEMS, 4)
    lines = f"LABELED: {{IMAGES: images, MASKS: {masks}}}\n  UNLABELED: images"
    write_own(tmp_path, lines)
    (found,) = [finding for finding in check(open_own(tmp_path)).findings if "without any object" in finding.sentence]
    assert found.level == "warning" and found.sentence.startswith("2 images are listed without any object")
    assert "all of their pixels are 'background'" in found.sentence and len(found.files) == 2
    assert all(stem in " ".join(found.files) for stem in exports.STEMS[4:])

    write_own(tmp_path, f"{lines}\n  EMPTY_ANNOTATIONS: background")
    layout = open_own(tmp_path)
    assert not any("without any object" in finding.sentence for finding in check(layout).findings)
    assert len(layout.labeled.samples) == 6

    write_own(tmp_path, f"{lines}\n  EMPTY_ANNOTATIONS: unlabeled")
    layout = open_own(tmp_path)
    (found,) = [finding for finding in check(layout).findings if "without any object" in finding.sentence]
    assert found.level == "note" and len(found.files) == 2 and len(layout.labeled.samples) == 4
    assert [path.rsplit("/", 1)[1] for path in layout.unlabeled] == ["shot 4.jpg", "shot 5.jpg"]


def test_images_meant_to_be_unlabelled_may_lie_among_those_of_validation(tmp_path):
    """Two files annotate images of one folder; the first lists one image without objects."""
    exports.write_images(tmp_path / "images", ".jpg")
    (tmp_path / "val").mkdir()
    train, val = coco(tmp_path, exports.STEMS[:4], 3), coco(tmp_path / "val", exports.STEMS[4:], 2)
    parts = f"LABELED: {{IMAGES: images, MASKS: {train}}}\n  VAL: {{IMAGES: images, MASKS: val/{val}}}"
    write_own(tmp_path, f"{parts}\n  EMPTY_ANNOTATIONS: unlabeled")
    layout = open_own(tmp_path)
    assert [len(layout.division[split]) for split in ("train", "val")] == [3, 2]


def test_without_a_background_such_images_tell_nothing(tmp_path):
    exports.write_images(tmp_path / "images", ".jpg")
    lines = f"LABELED: {{IMAGES: images, MASKS: {coco(tmp_path, exports.STEMS, 4)}}}"
    write_own(tmp_path, lines, classes="classes: [cap, stem]")
    sentences = [finding.sentence for finding in check(open_own(tmp_path)).findings]
    assert any("so that none of their pixels counts: annotate them" in sentence for sentence in sentences)


def test_other_words_are_refused(tmp_path):
    write_own(tmp_path, "LABELED: {IMAGES: images, MASKS: labels}\n  EMPTY_ANNOTATIONS: ignore")
    with pytest.raises(UserError, match="EMPTY_ANNOTATIONS is one of auto, background, unlabeled, not 'ignore'"):
        load_config(str(tmp_path / "own.yaml"))
        open_own(tmp_path)
