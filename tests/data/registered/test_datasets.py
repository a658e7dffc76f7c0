import dataclasses
import os
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import hiervl.data.registered.datasets as datasets
from hiervl.data.registered.datasets import class_names_of, load_dataset, register_all
from hiervl.utils.errors import UserError


def test_registering_twice_and_names():
    before = set(DatasetCatalog.list())
    register_all()
    assert set(DatasetCatalog.list()) == before
    expected = {f"camvid_{split}" for split in ("train", "val", "test")}
    expected |= {f"camvid_train_{n}{rest}" for n in (12, 23, 46, 92, 184) for rest in ("", "_unlabeled")}
    expected |= {f"shapesworld_train_{n}{rest}" for n in (16, 32, 64, 128, 400) for rest in ("", "_unlabeled")}
    assert expected <= before


def test_metadata():
    metadata = MetadataCatalog.get("camvid_train_46_unlabeled")
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 11
    assert metadata.class_definitions[0].phrases == ("sky",)
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")
    assert class_names_of("shapesworld_val")[0] == "background"


def test_labeled_and_unlabeled_complement_each_other(camvid):
    whole = load_dataset("camvid_train")
    labeled, unlabeled = load_dataset("camvid_train_12"), load_dataset("camvid_train_12_unlabeled")
    assert len(labeled) == 12 and all("sem_seg_file_name" in entry for entry in labeled)
    assert sorted(entry["image_id"] for entry in labeled + unlabeled) == [entry["image_id"] for entry in whole]
    assert all(set(entry) == {"file_name", "image_id"} for entry in unlabeled)


def test_inner_validation_is_held_out_of_training(camvid, monkeypatch):
    """Never labelled, and not among the unlabelled images; 20 training images, of which the largest subset takes 12."""
    small = dataclasses.replace(datasets.CAMVID, label_counts=(3, 12), inner_val=5)
    held_out = {entry["image_id"] for entry in datasets.load_inner_val(small)}
    assert len(held_out) == 5
    for count in small.label_counts:
        labeled, unlabeled = datasets.load_labeled(small, count), datasets.load_unlabeled(small, count, inner=True)
        names = {entry["image_id"] for entry in [*labeled, *unlabeled]}
        assert len(labeled) == count and len(names) == 15 and not names & held_out
    crowded = dataclasses.replace(small, label_counts=(18,))
    assert len(datasets.load_inner_val(crowded)) == 2


def test_images_may_be_jpeg_and_unlabeled_ones_need_no_label(camvid):
    for entry in load_dataset("camvid_train_12_unlabeled"):
        os.remove(camvid / "labels" / "train" / f"{entry['image_id']}.png")
    assert len(load_dataset("camvid_train_12_unlabeled")) == 8
    Image.open(camvid / "images" / "val" / "000.png").save(camvid / "images" / "val" / "photo.JPG")
    shutil.copy(camvid / "labels" / "val" / "000.png", camvid / "labels" / "val" / "photo.png")
    assert load_dataset("camvid_val")[-1]["file_name"].endswith("photo.JPG")


class TestErrors:
    def test_an_unknown_dataset_is_answered_with_close_names(self):
        with pytest.raises(UserError, match="'camvid_trian_12' in DATASETS.TRAIN; close names are camvid_train_12"):
            load_dataset("camvid_trian_12", "DATASETS.TRAIN")
        with pytest.raises(UserError, match="HierVL registers camvid_…, shapesworld_…"):
            load_dataset("qqqq")

    def test_a_missing_folder_says_how_to_make_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=r"nowhere.*does not exist: run `python datasets/prepare_camvid.py`"):
            load_dataset("camvid_train_12")

    def test_image_without_label(self, camvid):
        os.remove(camvid / "labels" / "val" / "001.png")
        with pytest.raises(UserError, match="001.png has no label: .*labels/val/001.png is missing"):
            load_dataset("camvid_val")

    def test_a_folder_without_images_is_one_sentence(self, camvid):
        for path in (camvid / "images" / "val").iterdir():
            path.unlink()
        with pytest.raises(UserError, match="holds no images"):
            load_dataset("camvid_val")

    def test_two_images_of_one_stem(self, camvid):
        (camvid / "images" / "val" / "001.jpg").touch()
        with pytest.raises(UserError, match="share one label"):
            load_dataset("camvid_val")

    def test_too_few_images(self, camvid):
        with pytest.raises(UserError, match="20 images, fewer than the 46"):
            load_dataset("camvid_train_46")


class TestShapesWorld:
    @pytest.fixture
    def small_world(self, monkeypatch, tmp_path):
        write = lambda folder, split: datasets.shapesworld.write_split(folder, split, count=20)  # noqa: E731
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        return dataclasses.replace(datasets.SHAPESWORLD, generate=write)

    def test_is_generated_on_first_use(self, small_world, tmp_path):
        assert not (tmp_path / "shapesworld").exists()
        entries = datasets.load_labeled(small_world, 16)
        assert len(entries) == 16 and len(datasets.load_unlabeled(small_world, 16)) == 4
        assert all(os.path.isfile(entry[f"{kind}file_name"]) for entry in entries for kind in ("sem_seg_", "instance_"))

    def test_an_unwritable_root_is_one_sentence(self, small_world, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "file"))
        with pytest.raises(UserError, match="cannot be written into .*set DETECTRON2_DATASETS"):
            datasets.load_split(small_world, "val")
