"""Lists of classes that come with exports, named as the class file."""

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
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_exports_are_class_files(tmp_path, name):
    text, values = LISTS[name]
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    class_map = read_class_map(tmp_path / name)
    assert [definition.name.strip("_") for definition in class_map.classes] == ["background", "cap", "stem"]
    assert class_map.background == 0 and class_map.values == values
    if name in ("labelmap.txt", "meta.json"):
        assert class_map.colors[(200, 0, 0)] == 1 and class_map.colors[(0, 0, 200)] == 2


def test_other_files_are_no_class_files(tmp_path):
    for name, text in (
        ("a.csv", "name,colour\ncap,red\n"),
        ("a.json", "[1]"),
        ("labelmap.txt", "# label:color_rgb\ncap:1,x,2::"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="is not a known list of classes"):
            read_class_map(tmp_path / name)
