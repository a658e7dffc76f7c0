import pytest

from hiervl.data.classes.definitions import CLASS_FILES, ClassDefinition, distinct_color, distinct_colors, read_classes
from hiervl.utils.errors import UserError


def write(tmp_path, text):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    return path


def test_entries_in_order_with_defaults(tmp_path):
    path = write(
        tmp_path,
        "classes:\n"
        "  - {name: background, background: true, color: [0, 0, 0]}\n"
        "  - cap\n"
        "  - {name: stem, phrases: [stem of a mushroom, stalk]}\n",
    )
    assert read_classes(path) == [
        ClassDefinition("background", ("background",), (0, 0, 0), True),
        ClassDefinition("cap", ("cap",), distinct_color(1)),
        ClassDefinition("stem", ("stem of a mushroom", "stalk"), distinct_color(2)),
    ]


def test_background_is_gray_unless_a_color_is_written(tmp_path):
    classes = read_classes(write(tmp_path, "classes:\n  - {name: rest, background: true}\n  - cap\n"))
    assert [definition.color for definition in classes] == [(128, 128, 128), distinct_color(1)]


def test_default_colors_differ():
    assert len({distinct_color(index) for index in range(200)}) == 200


@pytest.mark.parametrize(
    "text, message",
    [
        ("classes: [", "is not YAML"),
        ("", "needs a list 'classes'"),
        ("classes: {sky: 1}", "needs a list 'classes'"),
        ("classes: [yes]", "entry 1: it needs a 'name' that is text"),
        ('classes: ["a\\nb"]', "entry 1: its 'name' has several lines"),
        ("classes: [cap, cap]", "names 'cap' twice"),
        ("classes: [{name: cap, colour: [1, 2, 3]}]", "there is no key 'colour'"),
        ("classes: [{name: cap, color: [1, 2, 300]}]", "'color' is"),
        ("classes: [{name: cap, color: 3}]", "'color' is"),
        ("classes: [{name: cap, phrases: []}]", "'phrases' is a list of texts"),
        ("classes: [{name: cap, background: 1}]", "'background' is true or false"),
    ],
)
def test_mistakes_name_file_and_entry(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_classes(write(tmp_path, text))
    assert "classes.yaml" in str(caught.value)


def test_a_missing_class_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_classes(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(CLASS_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_class_files(path):
    classes = read_classes(path)
    assert len({definition.color for definition in classes}) == len(classes)
    phrases = [phrase for definition in classes for phrase in definition.phrases]
    assert len(set(phrases)) == len(phrases)  # one that two classes share could tell neither
    assert [definition.name for definition in classes if definition.background] in ([], ["background"])


def test_colors_of_many_classes_differ():
    assert len(set(distinct_colors(150))) == 150
