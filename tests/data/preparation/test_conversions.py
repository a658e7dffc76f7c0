import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from scipy.io import savemat

from hiervl.data.loading.readers import read_instances
from hiervl.data.preparation.conversions import (
    ade20k_labels,
    cityscapes_labels,
    coco_labels,
    coco_maps,
    convert_all,
    convert_coco,
    convert_png,
    pascal_labels,
    sbd_labels,
    write_map,
)
from hiervl.utils.errors import UserError

# What pycocotools does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def test_ade20k_is_shifted_and_other_is_ignored():
    published = np.array([[0, 1, 2, 150]], dtype=np.uint8)
    assert ade20k_labels(published).tolist() == [[255, 0, 1, 149]]
    with pytest.raises(ValueError, match="label 151"):
        ade20k_labels(np.array([[151]], dtype=np.uint8))


def test_cityscapes_train_ids():
    # Of the benchmark's table: road 7, car 26, bicycle 33 count; unlabeled 0, parking 9, caravan 29 do not.
    label_ids = np.array([[7, 26, 33, 0, 9, 29, 11, 24]], dtype=np.uint8)
    assert cityscapes_labels(label_ids).tolist() == [[0, 13, 18, 255, 255, 255, 2, 11]]
    assert sorted(set(cityscapes_labels(np.arange(34)).tolist())) == [*range(19), 255]
    with pytest.raises(ValueError, match="label id 34"):
        cityscapes_labels(np.array([[34]], dtype=np.uint8))


def test_cityscapes_train_ids_are_those_of_detectron2():
    from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

    ids = np.array([category["id"] for category in CITYSCAPES_CATEGORIES])
    assert cityscapes_labels(ids).tolist() == [category["trainId"] for category in CITYSCAPES_CATEGORIES]


def test_pascal_labels_are_checked():
    labels = np.array([[0, 20, 255]], dtype=np.uint8)
    assert pascal_labels(labels).tolist() == [[0, 20, 255]]
    with pytest.raises(ValueError, match="label 21"):
        pascal_labels(np.array([[21]], dtype=np.uint8))


class TestSbd:
    def test_classes(self, tmp_path):
        path = tmp_path / "1.mat"
        labels = np.array([[0, 20], [7, 7]], dtype=np.uint8)
        savemat(path, {"GTcls": {"Boundaries": np.zeros(20), "Segmentation": labels, "CategoriesPresent": [7, 20]}})
        assert sbd_labels(path).tolist() == labels.tolist() and sbd_labels(path).dtype == np.uint8

    @pytest.mark.parametrize("content", [b"", b"text", "other"])
    def test_broken_file(self, tmp_path, content):
        path = tmp_path / "1.mat"
        if content == "other":
            savemat(path, {"GTinst": {"Segmentation": np.zeros((2, 2))}})
        else:
            path.write_bytes(content)
        with pytest.raises(UserError, match="1.mat is not a label file of SBD"):
            sbd_labels(path)


def box(x, y, width, height):
    """A rectangle as COCO's polygon."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


class TestCoco:
    LABELS = {1: 1, 18: 17, 90: 80}

    def maps(self, *annotations, size=(4, 6)):
        numbered = [{"id": number, "iscrowd": 0, **entry} for number, entry in enumerate(annotations)]
        return tuple(values.tolist() for values in coco_maps(numbered, self.LABELS, *size))

    def test_the_smaller_object_is_on_top_whatever_the_order(self):
        large = {"category_id": 1, "segmentation": box(0, 0, 4, 3)}
        small = {"category_id": 18, "segmentation": box(3, 1, 2, 1)}
        classes = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 17, 17, 0], [1, 1, 1, 1, 0, 0], [0] * 6]
        instances = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0], [0] * 6]
        assert self.maps(large, small) == self.maps(small, large) == (classes, instances)

    def test_a_crowd_has_a_class_but_no_number_and_lies_below(self):
        # Run lengths of 0 and 1 in columns of 4: the first two columns.
        crowd = {"category_id": 1, "iscrowd": 1, "segmentation": {"size": [4, 6], "counts": [0, 8, 16]}}
        person = {"category_id": 90, "segmentation": box(0, 0, 6, 4)}
        classes, instances = self.maps(person, crowd)
        assert classes == [[80] * 6] * 4 and instances == [[1] * 6] * 4
        classes, instances = self.maps(crowd)
        assert classes == [[1, 1, 0, 0, 0, 0]] * 4 and instances == [[0] * 6] * 4

    def test_compressed_codes_and_degenerate_polygons(self):
        values = np.zeros((4, 6), dtype=np.uint8, order="F")
        values[2, 3] = 1
        compressed = {"category_id": 18, "segmentation": coco_masks.encode(values)}
        line = {"category_id": 1, "segmentation": [[0, 0, 5, 3]]}
        classes, instances = self.maps(line, compressed)
        assert np.argwhere(classes).tolist() == np.argwhere(instances).tolist() == [[2, 3]]
        assert classes[2][3] == 17 and instances[2][3] == 1

    def test_no_annotations(self):
        assert self.maps() == ([[0] * 6] * 4, [[0] * 6] * 4)

    def test_category_ids_have_gaps(self, tmp_path):
        from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

        from hiervl.data.registered.benchmarks import COCO

        names = [definition.name for definition in COCO.classes]
        things = [category for category in COCO_CATEGORIES if category["isthing"]]
        labels = coco_labels(things[::-1], names, tmp_path)
        assert (labels[1], labels[90], len(labels)) == (1, 80, 80)
        assert all(names[labels[category["id"]]] == category["name"] for category in things)
        with pytest.raises(UserError, match="has not the 80 categories"):
            coco_labels(things[:-1], names, tmp_path)

    def test_files_with_more_than_255_instances(self, tmp_path):
        annotations = [
            {"id": n, "category_id": 1, "iscrowd": 0, "segmentation": box(n % 20, n // 20, 1, 1)} for n in range(300)
        ]
        convert_coco(annotations, self.LABELS, (20, 20), tmp_path / "classes.png", tmp_path / "instances.png")
        numbers = read_instances(str(tmp_path / "instances.png"), (20, 20))
        assert sorted(np.unique(numbers).tolist()) == list(range(301))
        assert np.array_equal(read_instances(str(tmp_path / "classes.png")), np.minimum(numbers, 1))


class TestFiles:
    def test_png(self, tmp_path):
        Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8)).save(tmp_path / "in.png")
        convert_png(tmp_path / "in.png", tmp_path / "out.png", ade20k_labels)
        assert np.array(Image.open(tmp_path / "out.png")).tolist() == [[255, 0], [1, 2]]

    def test_wrong_values_and_broken_files_are_one_sentence(self, tmp_path):
        write_map(tmp_path / "in.png", np.array([[200]]))
        with pytest.raises(UserError, match="in.png is broken .label 200 is not a class.*remove it"):
            convert_png(tmp_path / "in.png", tmp_path / "out.png", ade20k_labels)
        (tmp_path / "in.png").write_bytes(b"no image")
        with pytest.raises(UserError, match="in.png cannot be read"):
            convert_png(tmp_path / "in.png", tmp_path / "out.png", ade20k_labels)
        assert not (tmp_path / "out.png").exists()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_all_jobs_are_done_and_an_error_comes_through(self, tmp_path, workers, capsys):
        jobs = [(tmp_path / f"{number}.png", np.array([[number]])) for number in range(20)]
        convert_all("writing", write_map, jobs, workers)
        assert all(np.array(Image.open(path)).tolist() == values.tolist() for path, values in jobs)
        assert "writing: 20 of 20 files" in capsys.readouterr().err
        broken = [(tmp_path / "none.png", tmp_path / "out.png", ade20k_labels)] * 20
        with pytest.raises(UserError, match="none.png is missing"):
            convert_all("converting", convert_png, broken, workers)
