import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiervl.data.registered.benchmarks import (
    ADE20K,
    BENCHMARKS,
    CITYSCAPES,
    COCO,
    PASCAL,
    divide,
    read_list,
    register_benchmarks,
)
from hiervl.data.registered.datasets import load_dataset
from hiervl.utils.errors import UserError

SHARED = Path(__file__).resolve().parents[4] / "shared"
TRAINING_IMAGES = {"pascal": 10_582, "coco": 118_287, "ade20k": 20_210, "cityscapes": 2_975}
VALIDATION_IMAGES = {"pascal": 1_449, "coco": 5_000, "ade20k": 2_000, "cityscapes": 500}


def test_registering_twice_and_names():
    before = set(DatasetCatalog.list())
    register_benchmarks()
    assert set(DatasetCatalog.list()) == before
    for benchmark in BENCHMARKS:
        assert {f"{benchmark.name}_train", f"{benchmark.name}_val"} <= before
        for count in benchmark.subsets:
            assert {f"{benchmark.name}_train_{count}", f"{benchmark.name}_train_{count}_unlabeled"} <= before


@pytest.mark.parametrize(
    "name, classes, first, last",
    [
        ("pascal", 21, "background", "tv/monitor"),
        ("coco", 81, "background", "toothbrush"),
        ("ade20k", 150, "wall", "flag"),
        ("cityscapes", 19, "road", "bicycle"),
    ],
)
def test_metadata(name, classes, first, last):
    metadata = MetadataCatalog.get(f"{name}_train_{dict(pascal=92, coco=232, ade20k=158, cityscapes=100)[name]}")
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == len(metadata.class_definitions) == classes
    assert (metadata.stuff_classes[0], metadata.stuff_classes[-1]) == (first, last)
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_class_names_are_detectron2s():
    from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, CITYSCAPES_CATEGORIES, COCO_CATEGORIES

    names = {benchmark.name: [definition.name for definition in benchmark.classes] for benchmark in BENCHMARKS}
    assert names["coco"] == ["background"] + [entry["name"] for entry in COCO_CATEGORIES if entry["isthing"]]
    assert names["cityscapes"] == [entry["name"] for entry in CITYSCAPES_CATEGORIES]
    # Detectron2 lists all published synonyms, for instance "windowpane, window"; a few differ in spelling or form.
    firsts = [entry.split(", ")[0] for entry in ADE20K_SEM_SEG_CATEGORIES]
    assert sum(ours == theirs for ours, theirs in zip(names["ade20k"], firsts)) >= 140


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"published text embeddings are not in {SHARED}")
def test_class_names_are_those_of_the_published_text_embeddings():
    """The files hold no names, but equal names must have equal embeddings in all four, and different names others."""
    files = {"pascal": "voc12_wbg", "coco": "coco", "ade20k": "ade", "cityscapes": "cityscapes"}
    names, rows = [], []
    for benchmark in BENCHMARKS:
        embeddings = np.load(SHARED / "clip_text_embeddings" / f"{files[benchmark.name]}_single.npy").astype(np.float32)
        assert len(embeddings) == len(benchmark.classes)
        # The file of Pascal VOC was made from its names in one word; HierVL writes them as English does.
        joined = {"dining table": "diningtable", "potted plant": "pottedplant"} if benchmark is PASCAL else {}
        names += [joined.get(definition.name, definition.name) for definition in benchmark.classes]
        rows.append(embeddings)
    similarity = np.concatenate(rows) @ np.concatenate(rows).T
    same = np.array(names)[:, None] == np.array(names)[None]
    assert same.sum() - len(names) > 100  # pairs that check each other
    assert similarity[same].min() > 0.998
    assert similarity[~same].max() < 0.998


class TestStandIns:
    def test_files_of_every_dataset(self, benchmarks):
        entry = load_dataset("pascal_train_92")[0]
        assert entry["file_name"] == str(benchmarks / "VOC2012/JPEGImages/2007_000000.jpg")
        assert entry["sem_seg_file_name"] == str(benchmarks / "VOC2012/SegmentationClassAug/2007_000000.png")
        entry = load_dataset("coco_train_232")[1]
        assert entry["file_name"] == str(benchmarks / "coco/train2017/000000000001.jpg")
        assert entry["sem_seg_file_name"] == str(benchmarks / "coco/semantic/train2017/000000000001.png")
        assert entry["instance_file_name"] == str(benchmarks / "coco/instances/train2017/000000000001.png")
        entry = load_dataset("ade20k_val")[0]
        folder = benchmarks / "ADEChallengeData2016"
        assert entry["file_name"] == str(folder / "images/validation/ADE_val_1.jpg")
        assert entry["sem_seg_file_name"] == str(folder / "annotations_detectron2/validation/ADE_val_1.png")

    def test_unlabeled_images_are_the_rest_and_bring_no_labels(self, benchmarks):
        unlabeled = load_dataset("coco_train_3697_unlabeled")
        assert [entry["image_id"] for entry in unlabeled] == [f"{number:012d}" for number in range(3697, 3705)]
        assert all(set(entry) == {"file_name", "image_id"} for entry in unlabeled)

    def test_lists_of_other_layouts_fit(self, benchmarks, tmp_path):
        (tmp_path / "list.txt").write_text("some/where/2007_000001.jpg x.png\n\n2007_000002\n")
        assert read_list(tmp_path / "list.txt") == ["2007_000001", "2007_000002"]


class TestErrors:
    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        return tmp_path

    @pytest.fixture
    def pascal(self, root):
        """A VOC of three images with a list of two; what is changed here touches no other test."""
        for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
            (root / "VOC2012" / folder).mkdir(parents=True)
        for name in "abc":
            (root / "VOC2012" / "JPEGImages" / f"{name}.jpg").touch()
            (root / "VOC2012" / "SegmentationClassAug" / f"{name}.png").touch()
        (root / "VOC2012/ImageSets/Segmentation/trainaug.txt").write_text("a\nb\nc\n")
        (root / "splits/pascal/2").mkdir(parents=True)
        (root / "splits/pascal/2/labeled.txt").write_text("JPEGImages/a.jpg x\nJPEGImages/b.jpg x\n")
        return dataclasses.replace(PASCAL, subsets={2: "pascal/2"})

    def test_the_stand_in_is_right(self, pascal):
        assert divide(pascal, 2) == (["a", "b"], ["c"])

    @pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
    def test_a_missing_dataset_names_its_script(self, benchmark, root):
        remedy = f"{benchmark.folder} does not exist: run `python datasets/{benchmark.script}`"
        with pytest.raises(UserError, match=remedy):
            load_dataset(f"{benchmark.name}_val")
        assert (Path(__file__).resolve().parents[3] / "datasets" / benchmark.script).is_file()

    def test_an_empty_dataset_names_its_script(self, root):
        (root / "coco").mkdir()
        with pytest.raises(UserError, match="coco holds no images train2017/.*: run `python datasets/prepare_coco.py`"):
            load_dataset("coco_train")

    def test_a_missing_list_names_its_script(self, pascal, root):
        shutil.rmtree(root / "splits")
        with pytest.raises(UserError, match="labeled.txt cannot be read: run `python datasets/prepare_splits.py`"):
            divide(pascal, 2)

    def test_list_of_another_length(self, pascal, root):
        (root / "splits/pascal/2/labeled.txt").write_text("JPEGImages/a.jpg x\n")
        with pytest.raises(UserError, match="labeled.txt names 1 images instead of 2"):
            divide(pascal, 2)

    def test_list_that_repeats_itself_or_is_no_text(self, pascal, root):
        (root / "splits/pascal/2/labeled.txt").write_text("JPEGImages/a.jpg x\nother/a.jpg x\n")
        with pytest.raises(UserError, match="labeled.txt names a twice"):
            divide(pascal, 2)
        (root / "splits/pascal/2/labeled.txt").write_bytes(b"\xff\xfe\xfd")
        with pytest.raises(UserError, match="labeled.txt is not text"):
            divide(pascal, 2)

    def test_list_of_unknown_images(self, pascal, root):
        (root / "splits/pascal/2/labeled.txt").write_text("JPEGImages/a.jpg x\nJPEGImages/z.jpg x\n")
        with pytest.raises(UserError, match="z, which .*labeled.txt names, is not a training image in .*VOC2012"):
            divide(pascal, 2)

    def test_missing_label_and_instances(self, root):
        for folder in ("train2017", "semantic/train2017"):
            (root / "coco" / folder).mkdir(parents=True)
        (root / "coco/train2017/1.jpg").touch()
        with pytest.raises(UserError, match="1.jpg has no label: run `python datasets/prepare_coco.py`"):
            load_dataset("coco_train")
        (root / "coco/semantic/train2017/1.png").touch()
        with pytest.raises(UserError, match="1.jpg has no map of instances: run"):
            load_dataset("coco_train")


@pytest.mark.skipif(not (SHARED / "splits").is_dir(), reason=f"the published lists are not in {SHARED / 'splits'}")
class TestPublishedLists:
    """The real lists; of the datasets only what the lists themselves tell: the whole training set where one does."""

    def stems(self, path):
        return read_list(SHARED / "splits" / path)

    @pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
    def test_counts_and_no_overlap_with_validation(self, benchmark):
        val = self.stems(f"{benchmark.subsets[min(benchmark.subsets)].split('/')[0]}/val.txt")
        assert len(val) == VALIDATION_IMAGES[benchmark.name]
        for count, place in benchmark.subsets.items():
            labeled = self.stems(f"{place}/labeled.txt")
            assert len(labeled) == count and not set(labeled) & set(val)

    def test_pascal_is_labeled_within_the_augmented_training_set(self):
        train = self.stems("pascal/train_aug.txt")
        assert len(train) == TRAINING_IMAGES["pascal"] and not set(train) & set(self.stems("pascal/val.txt"))
        for place in PASCAL.subsets.values():
            assert set(self.stems(f"{place}/labeled.txt")) < set(train)

    @pytest.mark.parametrize("benchmark, count", [(ADE20K, 158), (CITYSCAPES, 100)], ids=["ade20k", "cityscapes"])
    def test_published_unlabeled_images_are_the_rest(self, benchmark, count):
        labeled = self.stems(f"{benchmark.subsets[count]}/labeled.txt")
        unlabeled = self.stems(f"{benchmark.subsets[count]}/unlabeled.txt")
        whole = set(labeled) | set(unlabeled)
        assert not set(labeled) & set(unlabeled) and len(whole) == TRAINING_IMAGES[benchmark.name]
        for place in benchmark.subsets.values():
            assert set(self.stems(f"{place}/labeled.txt")) < whole

    @pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
    def test_every_list_finds_its_images(self, benchmark, tmp_path, monkeypatch):
        """In a layout of our own with empty files under all names that the lists know."""
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        (tmp_path / "splits").symlink_to(SHARED / "splits")
        known = set()
        for path in (SHARED / "splits" / benchmark.subsets[min(benchmark.subsets)]).parent.rglob("*labeled.txt"):
            known.update(line.split()[0] for line in path.read_text().splitlines())
        folder = tmp_path / benchmark.folder
        if benchmark is PASCAL:
            names = [Path(path).stem for path in known]
            (folder / "ImageSets/Segmentation").mkdir(parents=True)
            (folder / "ImageSets/Segmentation/trainaug.txt").write_text("\n".join(names))
        else:
            for place in {Path(path).parent for path in known}:
                (folder / place).mkdir(parents=True)
            for path in known:
                (folder / path).touch()
        for count in benchmark.subsets:
            labeled, unlabeled = divide(benchmark, count)
            assert len(labeled) == count and len(unlabeled) == len(known) - count
            assert not set(labeled) & set(unlabeled)


def test_every_dataset_is_there():
    assert [benchmark.name for benchmark in BENCHMARKS] == ["pascal", "coco", "ade20k", "cityscapes"]
    assert COCO.subsets[232] == "coco/1_512"
