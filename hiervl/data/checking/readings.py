"""Possible meanings of mask values if the class file does not fit them.

An error about values can be fixed in several ways, and all except one make the labels wrong. So advice depends on the
masks: which value is the most frequent, and which entry is declared as background. If that does not decide, all
readings are named, and ``check-data`` draws them side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hiervl.data.classes.class_lists import has_entries
from hiervl.data.classes.class_maps import IGNORED, ClassMap

MOSTLY = 0.5
MOST_PLACES = 3  # of a forgotten class that are drawn, beside the end
# Names of a first entry for everything that is not an object, even if it is not marked as background.
BACKGROUND_NAMES = {
    "background", "bg", "void", "unlabeled", "unlabelled", "ignore", "ignored", "none", "nothing", "other", "others",
    "rest", "_background_", "__ignore__",
}  # fmt: skip
NEW_CLASS, NEW_BACKGROUND = "(an entry to be added)", "(a background to be added)"


@dataclass(frozen=True)
class Reading:
    """One way to read the values of index masks.

    Attributes:
        title: the assumption.
        names: the class of each value; missing values do not count.
    """

    title: str
    names: dict[int, str]


def names_of_values(class_map: ClassMap) -> dict[int, str]:
    """The class of each value, without ignored values."""
    return {value: class_map.class_names[label] for value, label in class_map.values.items() if label != IGNORED}


def is_background(class_map: ClassMap, value: int) -> bool:
    """Whether the entry of a value is background or ignored, by its flags or its name."""
    label = class_map.values.get(value)
    if label is None:
        return False
    if label == IGNORED:
        return True
    definition = class_map.classes[label]
    return definition.background or definition.name.strip().lower() in BACKGROUND_NAMES


def share_of(counts: dict[int, int], value: int) -> float:
    """Share of the pixels of all masks that have a value."""
    return counts.get(value, 0) / max(sum(counts.values()), 1)


def with_entries(class_map: ClassMap) -> str:
    """The end of a sentence that advises keys for an entry: what to do first if the class file is a list without keys,
    such as labelmap.txt."""
    if has_entries(class_map.path):
        return ""
    return (
        f"; {class_map.path.name} is no YAML of entries: first write its classes into one, below `classes:` an entry "
        "`- {name: …, label: …, color: […]}` for each, with the numbers and colours that it has now and with "
        "`background: true` for the background, and name that file in DATASET.CLASSES"
    )


def one_value_more(class_map: ClassMap, counts: dict[int, int]) -> tuple[str, tuple[Reading, ...]]:
    """For masks with values 0 (or 1) to N and a class file with 0 to N - 1: what is missing, and where?

    Returns:
        The end of a sentence, and the readings to be drawn.
    """
    count = len(class_map.values)
    names = names_of_values(class_map)
    at_the_end = Reading(f"an entry for {count} is missing at the end", {**names, count: NEW_CLASS})
    add = f"add an entry for {count} at the end (or where the forgotten class belongs: all entries below it move on)"
    shifted = {value + 1: name for value, name in names.items()}
    share = share_of(counts, 0)
    in_front = Reading("an entry for 0 is missing in front", {0: NEW_BACKGROUND, **shifted})
    if 0 in counts and is_background(class_map, 0):
        if any(share_of(counts, value) > MOSTLY for value in names if value != 0):
            put = (
                f"0 ({share:.0%} of the pixels) is not '{names.get(0, 'ignored')}', but an entry that the file lacks: "
                "put it in front, such as `{name: void, ignore: true}`"
            )
            return _two_ways("one more than its entries (off by one)", [(put, in_front), (add, at_the_end)])
        elsewhere = [_missing_at(value, names) for value in range(count - 1, 0, -1)][:MOST_PLACES]
        compare = ". The pictures show it at several places: compare them before you change the class file"
        return f": a class is missing: {add}{compare if elsewhere else ''}", (at_the_end, *elsewhere)
    if 0 in counts:
        put = (
            f"0 ({share:.0%} of the pixels) is a background that the file lacks: put "
            "`{name: background, background: true}` in front, or `{name: void, ignore: true}` if it does not count"
        )
        ways = [(put, in_front), (f"a class is missing: {add}", at_the_end)]
        return _two_ways("one more than its entries (off by one)", ways if share > MOSTLY else ways[::-1])
    from_1 = Reading("the masks count from 1", shifted)
    put = f"the masks count from 1: write `label: 1` to `label: {count}` into the class file"
    ways = [(put, from_1), (f"0 merely does not occur, and a class is missing: {add}", at_the_end)]
    return _two_ways("while 0 never occurs (off by one)", ways)


def _missing_at(value: int, names: dict[int, str]) -> Reading:
    """The class of a value was forgotten among the others, so that those behind it have a value too low."""
    moved = {other + (other >= value): name for other, name in names.items()}
    return Reading(f"an entry for {value} is missing", {**moved, value: NEW_CLASS})


def zero_never_occurs(class_map: ClassMap) -> tuple[str, tuple[Reading, ...]]:
    """For values that all have an entry, but 0 does not occur; result as in :func:`one_value_more`."""
    names = names_of_values(class_map)
    ways = [
        ("no pixel is of that entry, and all is well", Reading("as the class file says", names)),
        (
            "the masks count from 1: write `label: 1` and so on into the class file",
            Reading("the masks count from 1", {value + 1: name for value, name in names.items()}),
        ),
    ]
    return _two_ways("", ways)


def mostly_ignored(class_map: ClassMap, value: int) -> tuple[str, tuple[Reading, ...]]:
    """For a most frequent value that is ignored although a background is declared; result as in
    :func:`one_value_more`."""
    names = names_of_values(class_map)
    last = max(class_map.values)
    moved = {value - 1: name for value, name in names.items() if value > 0}
    ways = [
        ("most pixels were never labelled, and all is well", Reading("as the class file says", names)),
        (
            f"{value} is the background: take the ignored entry out, and add one for {last} at the end if it occurs",
            Reading(f"{value} is the background", {**moved, last: NEW_CLASS}),
        ),
    ]
    return _two_ways("", ways)


def _two_ways(start: str, ways: Sequence[tuple[str, Reading]]) -> tuple[str, tuple[Reading, ...]]:
    (first, _), (second, _) = ways
    start = f", {start}; " if start else " "
    sentence = (
        f"{start}two readings are possible: (1) {first}; (2) {second}. Compare both in the pictures before you change "
        "the class file"
    )
    return sentence, tuple(reading for _, reading in ways)
