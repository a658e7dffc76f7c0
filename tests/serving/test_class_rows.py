"""The table of classes: to the page and back again, and the input that is refused."""

import pytest

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.serving.class_rows import MAX_CLASSES, MAX_TEXT, read_rows, rows_of
from hiervl.utils.errors import UserError

CLASSES = (
    ClassDefinition("background", ("background",), (0, 0, 0), True),
    ClassDefinition("cap", ("a red cap", "a mushroom's cap"), (250, 16, 1)),
)


def row(name="cap", **others):
    return {"show": True, "color": "#010203", "name": name, "phrases": "", "background": False, **others}


def test_a_table_that_nobody_edited_means_the_same_classes():
    chosen = read_rows(rows_of(CLASSES))
    assert chosen.classes == CLASSES
    assert chosen.shown == (True, True)


def test_edits_are_read():
    rows = [row("  a  cap ", phrases=" x;; y\nz ; ", color="#FF00a0", show=False), row("stem"), row("  ")]
    chosen = read_rows(rows)
    assert chosen.classes == (
        ClassDefinition("a cap", ("x", "y z"), (255, 0, 160)),
        ClassDefinition("stem", ("stem",), (1, 2, 3)),
    )
    assert chosen.shown == (False, True)


@pytest.mark.parametrize(
    "rows, words",
    [
        (None, "reload the page"),
        ([["cap"]], "reload the page"),
        ([row(" ")], "at least one class"),
        ([row("cap"), row(" cap")], "'cap' is there twice"),
        ([row(color="red")], "#rrggbb"),
        ([row(color="#12345g")], "#rrggbb"),
        ([row("x" * (MAX_TEXT + 1))], "shorten it"),
        ([row(phrases="x" * (MAX_TEXT + 1))], "shorten it"),
        ([row(str(index)) for index in range(MAX_CLASSES + 1)], "at most 1000 classes"),
        ([row(phrases=";".join("x" * 5000))], "at most 4000 phrases"),
    ],
)
def test_content_that_a_table_cannot_have_is_refused_with_a_sentence(rows, words):
    with pytest.raises(UserError, match=words):
        read_rows(rows)
