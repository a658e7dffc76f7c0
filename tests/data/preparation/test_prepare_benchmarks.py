"""The scripts of the four benchmarks, on tiny archives in the layout of the official ones."""

import dataclasses
import hashlib
import io
import json
import runpy
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from scipy.io import savemat

from hiervl.data.loading.readers import read_instances, read_label
from hiervl.data.registered.datasets import load_dataset
from hiervl.utils.errors import UserError

# What pycocotools does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
SCRIPTS = Path(__file__).resolve().parents[3] / "datasets"


def png(values) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def jpg(height=2, width=2) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_archive(path: Path, members: dict) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def read(path) -> list:
    return np.array(Image.open(path)).tolist()


def script(name: str) -> dict:
    return runpy.run_path(str(SCRIPTS / f"prepare_{name}.py"))


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def prepare_twice(prepare, folder, source, **facts):
    """Prepare, then again after one map and the archives are gone: only the map is written again."""
    prepare(folder, source, **facts)
    made = {"semantic", "annotations_detectron2", "SegmentationClassAug"}
    maps = [path for path in sorted(folder.rglob("*.png")) if made & set(path.parts) or "TrainIds" in path.name]
    contents = [path.read_bytes() for path in maps]
    times = [path.stat().st_mtime_ns for path in maps]
    maps[0].unlink()
    for archive in source.iterdir():
        archive.unlink()
    prepare(folder, source, **facts)
    assert [path.read_bytes() for path in maps] == contents
    assert [path.stat().st_mtime_ns for path in maps[1:]] == times[1:]


class TestAde20k:
    @pytest.fixture
    def facts(self, source):
        members = {"ADEChallengeData2016/objectInfo150.txt": b"Idx\n", "ADEChallengeData2016/readme.pdf": b"x"}
        for split, stem in (("training", "ADE_train_1"), ("training", "ADE_train_2"), ("validation", "ADE_val_1")):
            members[f"ADEChallengeData2016/images/{split}/{stem}.jpg"] = jpg()
            members[f"ADEChallengeData2016/annotations/{split}/{stem}.png"] = png([[0, 1], [150, 13]])
        path = source / "ADEChallengeData2016.zip"
        write_archive(path, members)
        counts = {"training": 2, "validation": 1}
        return {"archive": script("ade20k")["archive_of"](counts, path.as_uri(), md5(path)), "counts": counts}

    def test_layout_and_labels(self, source, facts, tmp_path):
        folder = tmp_path / "root" / "ADEChallengeData2016"
        prepare_twice(script("ade20k")["prepare"], folder, source, **facts)
        assert (folder / "objectInfo150.txt").exists() and not (folder / "readme.pdf").exists()
        entries = load_dataset("ade20k_train")
        assert [entry["image_id"] for entry in entries] == ["ADE_train_1", "ADE_train_2"]
        assert read_label(entries[0]["sem_seg_file_name"], 150).tolist() == [[255, 0], [149, 12]]
        assert len(load_dataset("ade20k_val")) == 1

    def test_download(self, source, facts, tmp_path):
        folder = tmp_path / "root" / "ADEChallengeData2016"
        script("ade20k")["prepare"](folder, None, **facts)
        found = {path.name for path in folder.iterdir()}  # the archive is gone
        assert found == {"annotations", "annotations_detectron2", "images", "objectInfo150.txt"}


class TestCityscapes:
    @pytest.fixture
    def facts(self, source):
        images, labels = {}, {"README": b"x"}
        for place in ("train/jena/jena_000000_000019", "val/ulm/ulm_000000_000019", "test/bonn/bonn_000000_000019"):
            images[f"leftImg8bit/{place}_leftImg8bit.png"] = png(np.zeros((2, 2, 3)))
            labels[f"gtFine/{place}_gtFine_labelIds.png"] = png([[7, 0], [33, 26]])
            labels[f"gtFine/{place}_gtFine_polygons.json"] = b"{}"
        paths = [source / f"{name}_trainvaltest.zip" for name in ("leftImg8bit", "gtFine")]
        for path, members in zip(paths, (images, labels)):
            write_archive(path, members)
        counts = {"train": 1, "val": 1}
        return {"archives": script("cityscapes")["archives_of"](counts, *map(md5, paths)), "counts": counts}

    def test_layout_and_labels(self, source, facts, tmp_path):
        folder = tmp_path / "root" / "cityscapes"
        prepare_twice(script("cityscapes")["prepare"], folder, source, **facts)
        assert not (folder / "leftImg8bit" / "test").exists()
        (entry,) = load_dataset("cityscapes_train")
        stem = "train/jena/jena_000000_000019"
        assert entry["file_name"] == str(folder / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        assert entry["sem_seg_file_name"] == str(folder / "gtFine" / f"{stem}_gtFine_labelTrainIds.png")
        assert read_label(entry["sem_seg_file_name"], 19).tolist() == [[0, 255], [18, 13]]
        assert [entry["image_id"] for entry in load_dataset("cityscapes_val")] == ["ulm_000000_000019"]

    def test_error_names_what_to_download_by_hand(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["prepare_cityscapes.py", "--root", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPTS / "prepare_cityscapes.py"), run_name="__main__")
        assert end.value.code.startswith(f"error: {tmp_path / 'cityscapes' / 'leftImg8bit_trainvaltest.zip'} does not")
        assert "register at https://www.cityscapes-dataset.com" in end.value.code
        assert "leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB)" in end.value.code


class TestCoco:
    @pytest.fixture
    def facts(self, source):
        things = [category for category in COCO_CATEGORIES if category["isthing"]]
        annotations, md5s = {}, {}
        for split, first in (("train2017", 1), ("val2017", 3)):
            names = [f"{number:012d}" for number in ((1, 2) if split == "train2017" else (3,))]
            write_archive(source / f"{split}.zip", {f"{split}/{name}.jpg": jpg(4, 6) for name in names})
            md5s[split] = md5(source / f"{split}.zip")
            cat = {"id": 7, "category_id": 17, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
            dog = {"id": 8, "category_id": 18, "segmentation": [[4, 2, 6, 2, 6, 4, 4, 4]]}
            objects = [{**thing, "image_id": first, "iscrowd": 0} for thing in (cat, dog)]
            images = [{"id": int(name), "file_name": f"{name}.jpg", "height": 4, "width": 6} for name in names]
            content = {"images": images, "categories": things, "annotations": objects}
            annotations[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
            annotations[f"annotations/captions_{split}.json"] = b"{}"
        write_archive(source / "annotations_trainval2017.zip", annotations)
        md5s["annotations"] = md5(source / "annotations_trainval2017.zip")
        counts = {"train2017": 2, "val2017": 1}
        return {"archives": script("coco")["archives_of"](counts, source.as_uri(), md5s), "counts": counts}

    def test_layout_labels_and_instances(self, source, facts, tmp_path):
        folder = tmp_path / "root" / "coco"
        prepare_twice(script("coco")["prepare"], folder, source, **facts)
        found = {path.name for path in (folder / "annotations").iterdir()}
        assert found == {"instances_train2017.json", "instances_val2017.json"}
        with_objects, without = load_dataset("coco_train")
        # A cat (the 16th thing) at the top left and a dog (the 17th) at the bottom right.
        classes = [[16, 16, 0, 0, 0, 0]] * 2 + [[0, 0, 0, 0, 17, 17]] * 2
        numbers = [[1, 1, 0, 0, 0, 0]] * 2 + [[0, 0, 0, 0, 2, 2]] * 2
        assert read_label(with_objects["sem_seg_file_name"], 81, image_size=(4, 6)).tolist() == classes
        assert read_instances(with_objects["instance_file_name"], (4, 6)).tolist() == numbers
        assert read_label(without["sem_seg_file_name"], 81).tolist() == [[0] * 6] * 4
        assert len(load_dataset("coco_val")) == 1

    def test_broken_annotations_are_one_sentence(self, source, facts, tmp_path):
        folder = tmp_path / "root" / "coco"
        script("coco")["prepare"](folder, source, **facts)
        (folder / "annotations" / "instances_val2017.json").write_text("{}")
        next((folder / "semantic" / "val2017").iterdir()).unlink()
        with pytest.raises(UserError, match="instances_val2017.json is not an annotation file of COCO"):
            script("coco")["prepare"](folder, source, **facts)


class TestPascal:
    @pytest.fixture
    def facts(self, source, tmp_path):
        """VOC labels a (train) and b (val); SBD has labels of all but e; b must not be trained on."""
        voc, sbd = {}, {"benchmark_RELEASE/dataset/train.txt": b"a\nb\nc\nd\n"}
        for name in "abcde":
            voc[f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg"] = jpg()
        for name in "ab":
            voc[f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"] = png([[0, 255], [20, 1]])
        voc["VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"] = b"a\n"
        voc["VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"] = b"b\n"
        voc["VOCdevkit/VOC2012/Annotations/a.xml"] = b"<x/>"
        for name in "abcd":
            savemat(tmp_path / "x.mat", {"GTcls": {"Segmentation": np.array([[0, 0], [19, 2]], dtype=np.uint8)}})
            sbd[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = (tmp_path / "x.mat").read_bytes()
        paths = [source / "VOCtrainval_11-May-2012.tar", source / "benchmark.tgz"]
        for path, members in zip(paths, (voc, sbd)):
            write_archive(path, members)
        counts = {"images": 5, "voc": 2, "sbd": 4, "train": 3, "val": 1}
        urls = [path.as_uri() for path in paths]
        return {"archives": script("pascal")["archives_of"](counts, urls, list(map(md5, paths))), "counts": counts}

    def test_layout_and_labels(self, source, facts, tmp_path):
        folder = tmp_path / "root" / "VOC2012"
        prepare_twice(script("pascal")["prepare"], folder, source, **facts)
        entries = load_dataset("pascal_train")
        assert [entry["image_id"] for entry in entries] == ["a", "c", "d"]
        labels = [read_label(entry["sem_seg_file_name"], 21).tolist() for entry in entries]
        assert labels == [[[0, 255], [20, 1]], [[0, 0], [19, 2]], [[0, 0], [19, 2]]]  # VOC's own comes first
        assert [entry["image_id"] for entry in load_dataset("pascal_val")] == ["b"]

    def test_wrong_counts_are_one_sentence(self, source, facts, tmp_path):
        facts = {**facts, "counts": {**facts["counts"], "train": 4}}
        with pytest.raises(UserError, match="3 training and 1 validation images instead of 4 and 1"):
            script("pascal")["prepare"](tmp_path / "root" / "VOC2012", source, **facts)


@pytest.mark.parametrize("name", ["ade20k", "coco", "pascal", "cityscapes"])
def test_facts_of_the_publishers(name):
    """Every archive has a checksum and is checked by the number of its files."""
    facts = script(name)
    archives = facts["ARCHIVES"] if "ARCHIVES" in facts else [facts["ARCHIVE"]]
    for archive in map(dataclasses.asdict, archives):
        assert len(archive["md5"]) == 32 and archive["contents"] and archive["gigabytes"] > 0
        assert archive["url"].endswith("/" + archive["name"]) or (not archive["url"] and archive["by_hand"])
