"""Masks of two exports in one folder, which number the classes differently."""

from collections.abc import Collection, Iterable, Mapping

from hiervl.data.checking.readings import Reading, names_of_values, with_entries
from hiervl.data.checking.statistics import ERROR, WARNING, Finding, ValueStatistics
from hiervl.data.classes.class_maps import IGNORED
from hiervl.data.folders.masks import COLOR, INDEX, describe_codes

MIN_MASKS, MIN_PART = 2, 0.1  # of an export: fewer masks may look like this by chance
# Of the distance of two exports without the shift: the most that is left with it, where the masks without 0 have a
# higher value than the others, and where not.
MUCH_NEARER, VERY_NEAR = 0.5, 0.25
MIN_SHARE = 0.01  # of the pixels, for a class that tells something


def mixed_exports(statistics: ValueStatistics) -> list[Finding]:
    """Some masks have colours, count the classes from 1 or write objects as 255, and the others do not."""
    return _two_forms(statistics) + (_counting_from_1(statistics) or _objects_as_255(statistics))


def _two_forms(statistics: ValueStatistics) -> list[Finding]:
    """Some masks are read by their numbers, the others by their colours."""
    numbers, colors = statistics.of_file[INDEX], statistics.of_file[COLOR]
    class_map = statistics.class_map
    grays = {value: class_map.colors.get((value, value, value)) for value in statistics.counts[INDEX] if value < 256}
    mean_the_same = all(label == class_map.known_values().get(value) for value, label in grays.items())
    if not numbers or not colors or mean_the_same:  # such as 0 and black, where nothing is
        return []
    return [Finding(
        WARNING,
        f"{len(numbers)} masks hold numbers and {len(colors)} hold colours, as if two exports were mixed: see in the "
        f"overlays of both that the `label` (else the place) and the `color` of each entry in "
        f"{class_map.path} mean one class, or export all masks in the same way.",
        tuple(sorted(numbers if len(numbers) < len(colors) else colors)),
    )]  # fmt: skip


def _counting_from_1(statistics: ValueStatistics) -> list[Finding]:
    """The masks without 0, if their values less one occur as often as those of the masks with 0."""
    class_map = statistics.class_map
    not_counted = {IGNORED} - set(class_map.values)
    counts = {name: _without(own, not_counted) for name, own in statistics.of_file[INDEX].items()}
    from_0 = {name: own for name, own in counts.items() if 0 in own}
    from_1 = {name: own for name, own in counts.items() if own and min(own) == 1}
    if not _are_two_groups(from_0, from_1):
        return []
    shares_0, shares_1 = _mean_shares(from_0.values()), _mean_shares(from_1.values())
    shifted = {value - 1: share for value, share in shares_1.items()}
    most = MUCH_NEARER if max(shares_1) > max(shares_0) else VERY_NEAR
    is_nearer = _distance(shares_0, shifted) < most * _distance(shares_0, shares_1)
    if not is_nearer or sum(share >= MIN_SHARE for share in shares_1.values()) < 2:
        return []
    names = names_of_values(class_map)
    zero = f"'{names[0]}'" if 0 in names else "pixel of 0"
    return [Finding(
        ERROR if statistics.unknown[INDEX] else WARNING,
        f"{len(from_1)} of {len(counts)} masks have no 0, and {describe_codes(INDEX, sorted(shares_1))} as often as "
        f"the others have {describe_codes(INDEX, sorted(shifted))}; two readings are possible: (1) two exports "
        "were mixed, and one counts the classes from 1: subtract 1 in its masks, or export all in the same way; (2) "
        f"the images of these masks show no {zero}, and all is well{_but_unknown(statistics)}. Compare both in the "
        "pictures.",
        tuple(sorted(from_1)),
        (
            Reading("these masks count from 1", {value + 1: name for value, name in names.items()}),
            Reading("as the class file says", names),
        ),
    )]  # fmt: skip


def _but_unknown(statistics: ValueStatistics) -> str:
    unknown = sorted({code for codes in statistics.unknown[INDEX].values() for code in codes})
    if not unknown:
        return ""
    return f" but that {statistics.class_map.path} lacks an entry for {describe_codes(INDEX, unknown)}"


def _objects_as_255(statistics: ValueStatistics) -> list[Finding]:
    """Masks of 0 and 255 beside others that have the values of classes and never 255."""
    class_map = statistics.class_map
    if IGNORED in class_map.values:
        return []
    counts = statistics.of_file[INDEX]
    with_255 = {name for name, own in counts.items() if IGNORED in own}
    with_classes = {name for name, own in counts.items() if set(own) - {0, IGNORED}}
    if with_255 & with_classes or not _are_two_groups(with_255, with_classes):
        return []
    names = names_of_values(class_map)
    values = sorted({value for name in with_classes for value in counts[name]} - {0})
    object_value = f"`label: [{values[0]}, 255]` into its entry" if len(values) == 1 else (
        "export these masks with the numbers of the classes"
    )  # fmt: skip
    what = f"'{names[values[0]]}', too: write {object_value}" if len(values) == 1 and values[0] in names else (
        f"an object of any class: {object_value}"
    )  # fmt: skip
    meant = names.get(values[0], "(an object)") if len(values) == 1 else "(an object)"
    return [Finding(
        WARNING,
        f"{len(with_255)} of {len(counts)} masks hold only 0 and 255, which does not count, while the others have "
        f"{describe_codes(INDEX, values)} and never 255, as if two exports were mixed; two readings are possible: (1) "
        f"255 is {what}; (2) 255 marks what does not count, and all is well. Compare both in the pictures before you "
        f"change the class file{with_entries(class_map)}.",
        tuple(sorted(with_255)),
        (Reading("255 is an object", {**names, IGNORED: meant}), Reading("255 does not count", names)),
    )]  # fmt: skip


def _are_two_groups(one: Collection[str], other: Collection[str]) -> bool:
    smaller = min(len(one), len(other))
    return smaller >= MIN_MASKS and smaller >= MIN_PART * (len(one) + len(other))


def _without(counts: Mapping[int, int], values: Collection[int]) -> dict[int, int]:
    return {value: count for value, count in counts.items() if value not in values}


def _mean_shares(masks: Iterable[Mapping[int, int]]) -> dict[int, float]:
    """The mean share of each value in a mask."""
    shares: dict[int, float] = {}
    number = 0
    for counts in masks:
        number += 1
        total = sum(counts.values())
        for value, count in counts.items():
            shares[value] = shares.get(value, 0) + count / total
    return {value: share / number for value, share in shares.items()}


def _distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    return sum(abs(one.get(value, 0) - other.get(value, 0)) for value in {*one, *other})
