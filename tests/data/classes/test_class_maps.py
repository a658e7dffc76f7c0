import pytest

from hiervl.data.classes.class_maps import read_class_map
from hiervl.utils.errors import UserError


def write(tmp_path, text):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    return path


def test_simple_form_is_the_identity(tmp_path):
    class_map = read_class_map(write(tmp_path, "classes: [background, cap, stem]"))
    assert class_map.class_names == ["background", "cap", "stem"]
    assert class_map.values == {0: 0, 1: 1, 2: 2} and class_map.is_identity
    assert class_map.known_values()[255] == 255
    assert class_map.background is None and class_map.colors == {}


@pytest.mark.parametrize(
    "classes, is_identity",
    [
        ("[a, b]", True),
        ("[a, b, {name: void, ignore: true, label: 255}]", True),
        ("[a, {name: b, label: [1, 255]}]", False),  # 0 … C − 1, and 255 counts
        ("[{name: a, label: [0, 255]}, b]", False),
        ("[a, b, {name: void, ignore: true}]", False),
        ("[{name: a, label: 1}, {name: b, label: 0}]", False),
    ],
)
def test_masks_are_labels_already_only_where_every_value_is_its_label(tmp_path, classes, is_identity):
    assert read_class_map(write(tmp_path, f"classes: {classes}")).is_identity == is_identity


def test_values_merged_and_ignored_entries(tmp_path):
    class_map = read_class_map(
        write(
            tmp_path,
            "classes:\n"
            "  - {name: void, ignore: true, color: [0, 0, 0]}\n"  # 0
            "  - {name: car, label: [7, 8], phrases: [car], color: [1, 2, 3]}\n"
            "  - {name: van, merge_into: car, phrases: [van, car], color: [4, 5, 6]}\n"  # 2
            "  - {name: truck, merge_into: car, label: 9}\n"
            "  - {name: road, background: true, label: 255}\n",
        )
    )
    assert class_map.class_names == ["car", "road"]
    assert class_map.values == {0: 255, 7: 0, 8: 0, 2: 0, 9: 0, 255: 1}
    assert class_map.colors == {(0, 0, 0): 255, (1, 2, 3): 0, (4, 5, 6): 0}
    assert class_map.names == {"void": 255, "car": 0, "van": 0, "truck": 0, "road": 1}
    assert class_map.classes[0].phrases == ("car", "van")  # truck wrote none of its own
    assert class_map.uncolored == ("truck", "road")
    assert class_map.background == 1 and not class_map.is_identity
    assert class_map.known_values()[255] == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("classes: [a, {name: b, label: 0}]", "'a' and 'b' both have the label 0"),
        ("classes: [{name: a, color: [1, 1, 1]}, {name: b, color: [1, 1, 1]}]", "both have the colour .1, 1, 1."),
        ("classes: [a, {name: b, merge_into: c}]", "'b' is merged into 'c', which is not a class; the classes are a"),
        ("classes: [{name: a, ignore: true}]", "leaves no class to learn"),
        ("classes: [a, {name: b, ignore: maybe}]", "'ignore' of 'b' is true or false"),
        ("classes: [a, {name: b, ignore: true, merge_into: a}]", "both ignored and merged"),
        ("classes: [a, {name: b, ignore: true, background: true}]", "both ignored and the background"),
        ("classes: [{name: a, background: true}, {name: b, background: true}]", "'a', 'b' are all the background"),
        ("classes: [a, {name: b, label: x}]", "'label' of 'b' is a mask value"),
        ("classes: [a, {name: b, labels: 3}]", "there is no key 'labels'"),
        ("classes: [a, a]", "names 'a' twice"),
    ],
)
def test_mistakes_are_user_errors(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_class_map(write(tmp_path, text))


def test_two_entries_may_share_what_they_mean(tmp_path):
    class_map = read_class_map(
        write(tmp_path, "classes: [{name: a, color: [1, 1, 1]}, {name: b, merge_into: a, color: [1, 1, 1], label: 0}]")
    )
    assert class_map.values == {0: 0} and class_map.colors == {(1, 1, 1): 0}


def test_more_classes_than_labels_are_refused(tmp_path):
    names = ", ".join(f"c{number}" for number in range(256))
    with pytest.raises(UserError, match="256 classes; at most 255"):
        read_class_map(write(tmp_path, f"classes: [{names}]"))
