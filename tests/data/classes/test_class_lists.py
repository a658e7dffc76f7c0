"""Lists of classes that come with exports are read as class files."""

import pytest

from hiervl.data.classes.class_maps import read_class_map
from hiervl.utils.errors import UserError

LISTS = {
    "_classes.csv": ("Pixel Value, Class\n0, background\n1, cap\n4, stem\n", {0: 0, 1: 1, 4: 2}),
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncap:200,0,0::\nstem:0,0,200::\n", {0: 0, 1: 1, 2: 2},
    ),
    "class_names.txt": ("__ignore__\n_background_\ncap\nstem\n", {0: 0, 1: 1, 2: 2, 255: 255}),
    "data.yaml": ("train: ../images\nnc: 2\nnames: ['cap', 'stem']\n", {0: 0, 1: 1, 2: 2}),
    "dataset.yaml": ("train: ../images\nnames:\n  1: stem\n  0: cap\n", {0: 0, 1: 1, 2: 2}),
    "meta.json": (
        '{"classes": [{"title": "cap", "color": "#C80000"}, {"title": "stem", "color": "#0000C8"}], "tags": []}',
        {0: 0, 1: 1, 2: 2},
    ),
    "class_dict.csv": ("name,r,g,b\nbackground,0,0,0\ncap,200,0,0\nstem,0,0,200\n", {0: 0, 1: 1, 2: 2}),
    "excel.csv": (
        "label;id;colour\r\nbackground;0;\r\ncap;3;#C80000\r\nstem;5;\"0,0,200\"\r\n;;\r\n", {0: 0, 3: 1, 5: 2},
    ),
    "classes.txt": ("# classes of the mushrooms\nbackground\n\n  #gills\ncap\nstem\n", {0: 0, 1: 1, 2: 2}),
    "commented.csv": ("# of the mushrooms\nname\nbackground\n# parts\ncap\nstem\n", {0: 0, 1: 1, 2: 2}),
    "numbered_from_1.txt": ("# number name\n0 background\n2 cap\n3 stem\n", {0: 0, 2: 1, 3: 2}),
    "numbered.txt": ("0: background\n2: stem\n1: cap\n", {0: 0, 1: 1, 2: 2}),
    "classes.json": ('["background", "cap", "stem"]', {0: 0, 1: 1, 2: 2}),
    "id2label.json": ('{"0": "background", "7": "cap", "8": "stem"}', {0: 0, 7: 1, 8: 2}),
    "label2id.json": ('{"cap": 1, "stem": 2, "background": 0}', {0: 0, 1: 1, 2: 2}),
    "categories.json": (
        '{"categories": [{"id": 0, "name": "background"}, {"id": 1, "name": "cap", "color": [200, 0, 0]}, '
        '{"id": 2, "name": "stem", "color": "#0000c8"}]}', {0: 0, 1: 1, 2: 2},
    ),
    "bare.yaml": ("- background\n- cap\n- stem\n", {0: 0, 1: 1, 2: 2}),
    "numbers.yaml": ("0: background\n4: stem\n2: cap\n", {0: 0, 2: 1, 4: 2}),
    "names.yaml": ("names: {0: background, 1: cap, 2: stem}\n", {0: 0, 1: 1, 2: 2}),
}  # fmt: skip
COLORED = ("labelmap.txt", "meta.json", "class_dict.csv", "excel.csv", "categories.json")
ENCODINGS = ("utf-8-sig", "utf-16", "cp1252")


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_exports_are_class_files(tmp_path, name):
    text, values = LISTS[name]
    for encoding in ENCODINGS:
        (tmp_path / name).write_bytes(text.replace("stem", "Stängel").encode(encoding))
        class_map = read_class_map(tmp_path / name)
        names = [definition.name.strip("_") for definition in class_map.classes]
        assert sorted(names) == ["Stängel", "background", "cap"]
        assert {value: names[label] for value, label in class_map.values.items() if label != 255} == {
            value: ("background", "cap", "Stängel")[label] for value, label in values.items() if label != 255
        }
        assert class_map.background == names.index("background")
    if name in COLORED:
        assert class_map.colors[(200, 0, 0)] == 1 and class_map.colors[(0, 0, 200)] == 2


def test_other_files_are_no_class_files(tmp_path):
    for name, text in (
        ("a.csv", "x,colour\ncap,red\n"),
        ("b.txt", "0 cap\n0 stem\n"),
        ("a.json", "[1]"),
        ("labelmap.txt", "# label:color_rgb\ncap:1,x,2::"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="is not a known list of classes"):
            read_class_map(tmp_path / name)
