"""Findings about pixels that do not count, or perhaps should not."""

from hiervl.data.checking.readings import (
    MOSTLY,
    Reading,
    is_background,
    mostly_ignored,
    names_of_values,
    share_of,
    with_entries,
)
from hiervl.data.checking.statistics import ERROR, WARNING, Finding, ValueStatistics
from hiervl.data.classes.class_lists import plain_name
from hiervl.data.classes.class_maps import IGNORED
from hiervl.data.folders.masks import INDEX, label_of_form
from hiervl.utils.text import listed

# Names, without capitals and separators, for pixels that nobody labelled.
VOID_NAMES = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "undefined", "dontcare", "unannotated")


def classes_that_255_may_be(statistics: ValueStatistics) -> list[str]:
    """Classes without a pixel in any mask, if pixels of 255 are ignored although the class file does not say so."""
    class_map, counts = statistics.class_map, statistics.counts[INDEX]
    if IGNORED not in counts or IGNORED in class_map.values:
        return []
    shown = {label for form in statistics.counts for label in _labels_shown(statistics, form)}
    return [name for label, name in enumerate(class_map.class_names) if label not in shown]


def _labels_shown(statistics: ValueStatistics, form: str) -> set[int | None]:
    meaning = label_of_form(form, statistics.class_map)
    return {meaning.get(code) for code in statistics.counts[form]}


def background_as_255(statistics: ValueStatistics) -> list[Finding]:
    """Most pixels are 255, which is ignored, a background is declared, and a class never occurs."""
    class_map, counts = statistics.class_map, statistics.counts[INDEX]
    absent = classes_that_255_may_be(statistics)
    if class_map.background is None or not absent or share_of(counts, IGNORED) <= MOSTLY:
        return []
    ground = class_map.class_names[class_map.background]
    others = [name for name in names_of_values(class_map).values() if name != ground]
    moved = dict(zip(sorted(set(counts) - {IGNORED}), others))
    return [Finding(
        ERROR,
        f"{_share_ignored(statistics)}, and no mask shows {listed([repr(name) for name in absent])}; two readings are "
        f"possible: (1) 255 is '{ground}', the background: write `label: 255` into its entry, and into the other "
        "entries the `label` that the masks have for each; (2) most pixels were never labelled: add the entry "
        "`{name: unlabelled, ignore: true, label: 255}`. Compare both in the pictures before you change the class file"
        f"{with_entries(class_map)}.",
        statistics.files_with(INDEX, [IGNORED]),
        (
            Reading("255 is the background", {**moved, IGNORED: ground}),
            Reading("255 was never labelled", names_of_values(class_map)),
        ),
    )]  # fmt: skip


def may_be_a_class(statistics: ValueStatistics) -> list[Finding]:
    """255 is ignored, and a class never occurs."""
    absent = classes_that_255_may_be(statistics)
    if not absent:
        return []
    names = names_of_values(statistics.class_map)
    shown = listed([f"'{name}'" for name in absent])
    what = shown if len(absent) == 1 else f"one of {shown}"
    return [Finding(
        WARNING,
        f"no mask shows {shown}, while {_share_ignored(statistics)}; two readings are "
        f"possible: (1) 255 is {what}: write `label: 255` into its entry; (2) 255 marks borders that do not count: "
        "label images of the class that no mask shows. Compare both in the pictures before you change the class file"
        f"{with_entries(statistics.class_map)}.",
        statistics.files_with(INDEX, [IGNORED]),
        (
            Reading("255 is a class", {**names, IGNORED: " or ".join(absent)}),
            Reading("255 does not count", names),
        ),
    )]  # fmt: skip


def ignored_beside_unknown(statistics: ValueStatistics, unknown: list[int]) -> tuple[str, tuple[Reading, ...]]:
    """The same beside unknown values: the end of a sentence, and the readings to be drawn."""
    absent = classes_that_255_may_be(statistics)
    if not absent:
        return "", ()
    names = names_of_values(statistics.class_map)
    numbered = {value: name for value, name in names.items() if value in statistics.counts[INDEX]}
    numbered.update((value, f"value {value}") for value in unknown)
    sentence = (
        f". Besides, {_share_ignored(statistics)}; two readings are possible: (1) 255 is a class, too: write "
        "`label: 255` into its entry; (2) it marks borders that do not count. Compare both in the pictures"
    )
    return sentence, (
        Reading("255 is a class", {**numbered, IGNORED: "value 255"}),
        Reading("255 does not count", numbered),
    )


def ignored_by_default(statistics: ValueStatistics) -> str:
    """Beside other values that the class file does not name: that 255 is none of them; "" if no pixel is 255."""
    if IGNORED not in statistics.counts[INDEX] or IGNORED in statistics.class_map.values:
        return ""
    return f" (255, {_percent_ignored(statistics)} of the pixels, is ignored by default)"


def _percent_ignored(statistics: ValueStatistics) -> str:
    share = share_of(statistics.counts[INDEX], IGNORED)
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _share_ignored(statistics: ValueStatistics) -> str:
    return (
        f"{_percent_ignored(statistics)} of the masks' pixels are 255, which is ignored unless the class file names it"
    )


def ignored_value(statistics: ValueStatistics) -> list[Finding]:
    """A value that does not count although it has most of the pixels."""
    class_map, counts = statistics.class_map, statistics.counts[INDEX]
    value = max(counts, key=lambda code: counts[code])
    share = share_of(counts, value)
    if share <= MOSTLY or class_map.known_values().get(value) != IGNORED:
        return []
    files = statistics.files_with(INDEX, [value])
    what = f"{share:.0%} of the masks' pixels are {value}, which does not count"
    if value == 0 and is_background(class_map, 0) and class_map.background is not None:
        ways, readings = mostly_ignored(class_map, value)
        name = class_map.classes[class_map.background].name
        return [Finding(WARNING, f"{what}, though '{name}' is the background:{ways}.", files, readings)]
    return [
        Finding(WARNING, f"{what}: if it is a class, give its entry `label: {value}`{with_entries(class_map)}.", files)
    ]


def void_classes(statistics: ValueStatistics) -> list[Finding]:
    """Classes that are learnt although their names say that their pixels have no label."""
    class_map = statistics.class_map
    pixels = [0] * len(class_map.classes)
    for form, counts in statistics.counts.items():
        for code, label in label_of_form(form, class_map).items():
            if label != IGNORED:
                pixels[label] += counts.get(code, 0)
    total = sum(sum(counts.values()) for counts in statistics.counts.values())
    return [
        Finding(
            WARNING,
            f"'{definition.name}' ({count / total:.1%} of the masks' pixels) is a class like any other, which training "
            "learns: write `ignore: true` into its entry if its pixels do not count, or `background: true` if it is "
            f"everything beside the objects{with_entries(class_map)}.",
        )
        for definition, count in zip(class_map.classes, pixels)
        if count and not definition.background and plain_name(definition.name) in VOID_NAMES
    ]
