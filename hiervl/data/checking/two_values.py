"""Findings about masks of two values, 0 and another one, which may show an object in either of them."""

import re
from collections.abc import Sequence

from hiervl.data.checking.ignored_pixels import background_as_255
from hiervl.data.checking.palettes import numbers_mean_nothing
from hiervl.data.checking.readings import (
    BACKGROUND_NAMES,
    MOSTLY,
    NEW_BACKGROUND,
    Reading,
    share_of,
    with_entries,
)
from hiervl.data.checking.statistics import ERROR, WARNING, Finding, ValueStatistics
from hiervl.data.classes.class_maps import IGNORED, ClassMap
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.data.folders.masks import COLOR, INDEX, LABEL, MOSTLY_NEAR, NEAR, decode_color, label_of_form

PROVISIONAL_NAME = re.compile(r"value \d+|colour \d+ \d+ \d+")  # of ``init``
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")
MIN_BLURRED = 6  # values beside those of classes
RARE = 0.25  # a background with fewer pixels, beside a class with most of them, may be exchanged with it


def value_beside_0(statistics: ValueStatistics) -> int | None:
    """The other value of masks that hold 0 and one more, if the class file does not say which classes the two are."""
    used = sorted(statistics.counts[INDEX])
    if len(used) != 2 or used[0] != 0:
        return None
    value = used[1]
    class_map = statistics.class_map
    if class_map.values.get(value) == IGNORED:
        return None
    named, entry = _named(class_map), _class_of(class_map, value)
    if value == IGNORED and entry is None and len(named) > 2:
        return value
    is_without_name = entry is not None and PROVISIONAL_NAME.fullmatch(entry.name) is not None
    is_told_apart = len(named) == 2 or (len(named) == 1 and not _is_ground(named[0]))
    return value if is_told_apart and (entry is None or is_without_name) else None


def classes_of_two_values(statistics: ValueStatistics) -> list[str]:
    """Classes that one of the two values may be, so that nobody knows yet whether they occur."""
    return [] if value_beside_0(statistics) is None else [entry.name for entry in _named(statistics.class_map)]


def two_value_findings(statistics: ValueStatistics) -> list[Finding]:
    """Masks of 0 and another value, of which the class file does not say what they are."""
    class_map, value = statistics.class_map, value_beside_0(statistics)
    if value is None:
        return []
    files = statistics.files_with(INDEX, [value])
    named = _named(class_map)
    objects = [entry for entry in named if not entry.background]
    if len(objects) > 1 and len(named) > 2:
        return [Finding(
            ERROR,
            f"masks hold only 0 and {value}, but the class file has {len(objects)} classes beside the background: such "
            "a mask shows where something is, not what. If each class has masks of its own, they have to be joined; "
            "else export masks with the index of the class per pixel.",
            files,
        )]  # fmt: skip
    shares = [share_of(statistics.counts[INDEX], code) for code in (0, value)]
    not_counted = (
        ", and 255 does not count unless the class file names it" if value == IGNORED not in class_map.values else ""
    )
    ways = _ways(named, value, *shares)
    entry = _class_of(class_map, value)
    remove = f"; either way take the entry '{entry.name}' out" if entry is not None and entry not in named else ""
    further = (
        "" if value == IGNORED else f"; if {value} is a class that the file lacks, add an entry with `label: {value}`"
    )
    sentence = "; ".join(f"({number}) {text}" for number, (text, _) in enumerate(ways, start=1))
    return [Finding(
        ERROR,
        f"masks hold only 0 and {value} ({shares[0]:.0%} and {shares[1]:.0%} of the pixels){not_counted}; two readings "
        f"are possible: {sentence}{remove}{further}. Compare both in the pictures before you change the class file"
        f"{with_entries(class_map)}.",
        files,
        tuple(reading for _, reading in ways),
    )]  # fmt: skip


def _ways(
    named: list[ClassDefinition], value: int, share_of_0: float, share_of_value: float
) -> list[tuple[str, Reading]]:
    """Both readings: what to write for each, the likelier one first."""
    thing = next((entry for entry in reversed(named) if not _is_ground(entry)), named[-1])
    ground = next((entry for entry in named if entry is not thing), None)
    ways = []
    for of_thing, of_ground in ((value, 0), (0, value)):
        title = f"{of_thing} is '{thing.name}'"
        if ground is None:
            text = (
                f"{title}: write `label: {of_thing}` into its entry, and put `{{name: background, background: true, "
                f"label: {of_ground}}}` in front"
            )
        else:
            text = (
                f"{title} and {of_ground} is '{ground.name}': write `label: {of_thing}` and `label: {of_ground}` into "
                "these entries"
            )
        names = {of_thing: thing.name, of_ground: NEW_BACKGROUND if ground is None else ground.name}
        ways.append((text, Reading(title, names)))
    is_ground_known = ground is None or _is_ground(ground)
    return ways[::-1] if is_ground_known and share_of_value > share_of_0 else ways


def blurred_two_values(statistics: ValueStatistics, unknown: Sequence[int]) -> Finding | None:
    """Masks of 0 and 255 that were saved as JPEG, or resized smoothly: most pixels are near the two."""
    counts = statistics.counts[INDEX]
    total = sum(counts.values())
    near = sum(count for value, count in counts.items() if min(value, abs(value - IGNORED)) <= NEAR)
    has_both = any(value <= NEAR for value in counts) and any(value >= IGNORED - NEAR for value in counts)
    files = tuple(sorted(statistics.unknown[INDEX]))
    are_jpeg = all(name.lower().endswith(JPEG_SUFFIXES) for name in files)
    if len(unknown) < MIN_BLURRED or not has_both or near < MOSTLY_NEAR * total or max(counts) > IGNORED:
        return None
    if not are_jpeg and max(unknown) < IGNORED - NEAR:
        return None  # perhaps small numbers of classes
    return Finding(
        ERROR,
        f"masks hold {len(counts)} values from {min(counts)} to {max(counts)}, {near / total:.0%} of the pixels near 0 "
        "or 255: masks of two values were saved as JPEG or resized smoothly; export them as PNG, or make every pixel 0 "
        "or 255.",
        files,
    )


def rare_background(statistics: ValueStatistics, is_per_class: bool = False) -> list[Finding]:
    """A class that has most of the pixels beside a declared background that has few: perhaps they are exchanged.

    Args:
        is_per_class: the masks show one class each. Then, and in masks of values or colours, the background is said by
            the masks; in annotations it is what the outlines leave.
    """
    class_map = statistics.class_map
    ground = class_map.background
    if ground is None or value_beside_0(statistics) is not None or background_as_255(statistics):
        return []  # which say more
    if numbers_mean_nothing(statistics):
        return []
    for form in (INDEX, COLOR, *([LABEL] if is_per_class else [])):
        counts = statistics.counts[form]
        meaning = label_of_form(form, class_map)
        counted = {code: count for code, count in counts.items() if meaning.get(code, IGNORED) != IGNORED}
        if not counted or statistics.unknown[form]:
            continue
        top = max(counted, key=lambda code: counted[code])
        share = sum(count for code, count in counted.items() if meaning[code] == ground) / sum(counted.values())
        if meaning[top] == ground or share_of(counted, top) <= MOSTLY or share >= RARE:
            continue
        names = [class_map.class_names[label] for label in (meaning[top], ground)]
        what = f"'{names[1]}' is the background, but has {share:.1%} of the labelled pixels, and '{names[0]}' has "
        what += f"{share_of(counted, top):.0%}"
        if form == LABEL:
            return [Finding(
                WARNING,
                f"{what}: if the masks are inverted, black where the class is, export them with 0 (black) where it is "
                "not; else all is well. Look at the overlays.",
            )]  # fmt: skip
        shown = list(decode_color(top)) if form == COLOR else top
        key = "color" if form == COLOR else "label"
        as_written = {code: class_map.class_names[label] for code, label in meaning.items() if label != IGNORED}
        exchanged = {
            code: names[1] if code == top else names[0] if name == names[1] else name
            for code, name in as_written.items()
        }
        return [Finding(
            WARNING,
            f"{what}; two readings are possible: (1) that is so, and all is well; (2) {shown} is the background (the "
            f"masks are inverted, or number the classes otherwise): write into every entry the `{key}` that the masks "
            "have for it. Compare both in the pictures before you change the class file"
            f"{with_entries(class_map)}.",
            statistics.files_with(form, [top]),
            (Reading("as the class file says", as_written), Reading(f"{shown} is the background", exchanged)),
        )]  # fmt: skip
    return []


def _named(class_map: ClassMap) -> list[ClassDefinition]:
    """The classes, without those that ``init`` named by a value."""
    return [entry for entry in class_map.classes if not PROVISIONAL_NAME.fullmatch(entry.name)]


def _class_of(class_map: ClassMap, value: int) -> ClassDefinition | None:
    """The class of a value; None: none, or it is ignored."""
    label = class_map.values.get(value, IGNORED)
    return None if label == IGNORED else class_map.classes[label]


def _is_ground(entry: ClassDefinition) -> bool:
    return entry.background or entry.name.strip().lower() in BACKGROUND_NAMES
