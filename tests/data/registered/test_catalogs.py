import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiervl.data.classes.definitions import ClassDefinition, distinct_color
from hiervl.data.registered.catalogs import (
    definitions_of,
    register_in_catalogs,
    registered_classes,
    remove_from_catalogs,
)

SKY = ClassDefinition("sky", ("blue sky", "clouds"), (1, 2, 3), background=True)
TREE = ClassDefinition("tree", ("a tree",), (4, 5, 6))


@pytest.fixture
def name():
    yield "catalogs_test"
    remove_from_catalogs("catalogs_test")


def test_classes_stay_whole_and_detectron2_has_its_lists(name):
    register_in_catalogs(name, list, [SKY, TREE], ignore_label=7)
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["sky", "tree"] and metadata.stuff_colors == [[1, 2, 3], [4, 5, 6]]
    assert metadata.ignore_label == 7 and registered_classes(name) == [SKY, TREE]
    first, second = definitions_of(["sky", "tree"], name, background=["tree"])
    assert first.phrases == ("blue sky", "clouds") and (first.background, second.background) == (False, True)
    assert definitions_of(["tree", "sky"], name)[0].phrases == ("tree",)  # another order is another list of classes


def test_classes_of_a_dataset_that_detectron2_alone_knows(name):
    DatasetCatalog.register(name, list)
    assert registered_classes(name) == []
    MetadataCatalog.get(name).set(stuff_classes=["a", "b"])
    assert registered_classes(name)[1] == ClassDefinition("b", ("b",), distinct_color(1))
    MetadataCatalog.get(name).set(stuff_colors=[[0, 0, 0], [9, 8, 7]])
    assert registered_classes(name)[1] == ClassDefinition("b", ("b",), (9, 8, 7))
