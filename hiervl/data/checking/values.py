"""Problems with the values and colours of masks, in sentences that say how to fix them."""

import itertools

import numpy as np

from hiervl.data.checking.ignored_pixels import (
    background_as_255,
    ignored_beside_unknown,
    ignored_by_default,
    ignored_value,
    may_be_a_class,
    void_classes,
)
from hiervl.data.checking.mixed_exports import mixed_exports
from hiervl.data.checking.palettes import differing_palettes, numbers_mean_nothing
from hiervl.data.checking.readings import (
    MOSTLY,
    Reading,
    names_of_values,
    one_value_more,
    share_of,
    with_entries,
    zero_never_occurs,
)
from hiervl.data.checking.statistics import ERROR, WARNING, Finding, ValueStatistics
from hiervl.data.checking.two_values import blurred_two_values, two_value_findings
from hiervl.data.classes.class_maps import IGNORED, ClassMap, Color
from hiervl.data.folders.masks import (
    AUTO,
    COLOR,
    INDEX,
    MAX_LISTED,
    decode_color,
    describe_codes,
    encode_color,
)

MANY_CODES = 32  # more unknown values in one mask mean blurred colours or a photograph
NEAR_COLOR = 12  # largest difference of a channel between a blurred colour and the colour of its class
MIN_EDGE_COLORS, MAX_EDGE_SHARE = 3, 0.2  # of smooth edges: different colours, and their share of all pixels
OVERSHOOT = 0.2  # by which bicubic and Lanczos filters go beyond the two colours that they mix
# ITU-R 601: Pillow and OpenCV turn RGB into grey like this.
GRAY_WEIGHTS = (0.299, 0.587, 0.114)


def value_findings(statistics: ValueStatistics) -> list[Finding]:
    """All findings from the codes of all masks together."""
    if numbers_mean_nothing(statistics):
        return differing_palettes(statistics)
    palettes = differing_palettes(statistics) or _palette_order(statistics)
    findings = [*_unknown_colors(statistics), *palettes, *void_classes(statistics)]
    unknown = sorted({code for codes in statistics.unknown[INDEX].values() for code in codes})
    used = sorted(statistics.counts[INDEX])
    mixed = mixed_exports(statistics)
    findings += mixed
    if not used:
        return findings
    of_two = [] if unknown and _are_grays(statistics) else two_value_findings(statistics)
    if unknown and not of_two and not any(finding.level == ERROR for finding in mixed):
        findings.append(_unknown_values(statistics, unknown, used))
    as_255 = [] if unknown or of_two else background_as_255(statistics)
    findings.extend(of_two or as_255 or ([] if unknown else may_be_a_class(statistics)) or ignored_value(statistics))
    if as_255:
        return findings
    if not unknown and used == [0]:
        findings.append(Finding(
            ERROR,
            f"every pixel of every mask is 0 ('{_name_of(statistics.class_map, 0)}'): the masks are empty, or their "
            "values were lost when they were saved; export them again as index PNGs.",
            statistics.files_with(INDEX, [0]),
        ))  # fmt: skip
    elif not unknown and 0 not in used and 0 in statistics.class_map.values and [v for v in used if v != IGNORED]:
        ways, readings = zero_never_occurs(statistics.class_map)
        findings.append(Finding(
            WARNING,
            f"the value 0 never occurs, but {statistics.class_map.path} gives it to "
            f"'{_name_of(statistics.class_map, 0)}':{ways}{with_entries(statistics.class_map)}.",
            readings=readings,
        ))  # fmt: skip
    return findings


def registered_findings(statistics: ValueStatistics) -> list[Finding]:
    """The same for a registered dataset, whose classes do not come from the user's class file."""
    unknown = sorted({code for codes in statistics.unknown[INDEX].values() for code in codes})
    if not unknown:
        return []
    class_map = statistics.class_map
    ignored = next(value for value, label in class_map.values.items() if label == IGNORED)
    return [Finding(
        ERROR,
        f"labels hold {describe_codes(INDEX, unknown)}, but the {len(class_map.classes)} classes are 0 to "
        f"{len(class_map.classes) - 1} and {ignored} is ignored: prepare the dataset again (datasets/README.md), or "
        "correct the files.",
        tuple(sorted(statistics.unknown[INDEX])),
    )]  # fmt: skip


def _unknown_values(statistics: ValueStatistics, unknown: list[int], used: list[int]) -> Finding:
    class_map = statistics.class_map
    files = tuple(sorted(statistics.unknown[INDEX]))
    count = len(class_map.values)
    what = f"masks hold {describe_codes(INDEX, unknown)}, which {class_map.path} does not name"
    not_classes = set() if class_map.known_values()[IGNORED] != IGNORED else {IGNORED}
    absent = sorted(set(class_map.values) - set(used) - not_classes)
    is_renumbered = any(value != 0 for value in absent)
    ignored, pictures = ignored_beside_unknown(statistics, unknown) if is_renumbered else ("", ())
    if not ignored:
        what += ignored_by_default(statistics)
    if sorted(class_map.values) == list(range(count)) and unknown == [count] and not is_renumbered:
        ways, readings = one_value_more(class_map, {value: statistics.counts[INDEX][value] for value in used})
        return Finding(ERROR, f"{what}{ways}{with_entries(class_map)}.", files, readings)
    if unknown[0] < 0:
        return Finding(
            ERROR,
            f"masks hold {describe_codes(INDEX, [value for value in unknown if value < 0])}, but a mask value is a "
            "whole number from 0 on: save the masks with another value there (255 if these pixels do not count).",
            files,
        )
    if _are_grays(statistics):
        return Finding(
            ERROR,
            f"{what}; they are the grey values of the classes' colours: RGB masks were turned into grey ones; use the "
            "RGB masks.",
            files,
        )
    blurred = blurred_two_values(statistics, unknown)
    if blurred is not None:
        return blurred
    if any(len(codes) > MANY_CODES for codes in statistics.unknown[INDEX].values()):
        return Finding(
            ERROR,
            f"{what}; there are far more values than classes: these are photographs or masks that were blurred "
            "(JPEG, smooth resizing); export index PNGs again, or correct DATASET.LABELED.MASKS.",
            files,
        )
    if is_renumbered:
        return Finding(
            ERROR,
            f"{what}, while {describe_codes(INDEX, absent)} never occur"
            f"{'' if len(absent) > 1 else 's'}: if the masks number the classes otherwise, write into every entry the "
            f"value that stands for it, such as `label: {unknown[0]}`, and look at the overlays; if it is a class that "
            "the file lacks, add an entry with that `label`; correct the masks if it is not a class"
            f"{ignored}{with_entries(class_map)}.",
            files,
            pictures,
        )
    return Finding(
        ERROR,
        f"{what}: add an entry with {_listed(unknown)} (`ignore: true` if it is not a class), or correct the masks"
        f"{with_entries(class_map)}.",
        files,
    )


def _are_grays(statistics: ValueStatistics) -> bool:
    """Whether the masks with unknown values hold the grey values of the classes' colours, no two the same one."""
    files = set(statistics.unknown[INDEX])
    values = [
        code for code, names in statistics.files[INDEX].items() if code != IGNORED and not files.isdisjoint(names)
    ]
    grays = {_gray(color) for color in statistics.class_map.colors}
    nearest = {value: min(grays, key=lambda gray: abs(gray - value), default=value) for value in values}
    is_near = all(abs(value - gray) <= 1 for value, gray in nearest.items())
    return len(grays) > 1 and is_near and len(set(nearest.values())) == len(values)


def _listed(values: list[int]) -> str:
    """For a sentence: "`label: 3`" or "`label: 3`, `label: 4` and 7 more"."""
    shown = ", ".join(f"`label: {value}`" for value in values[:MAX_LISTED])
    return shown if len(values) <= MAX_LISTED else f"{shown} and {len(values) - MAX_LISTED} more"


def _unknown_colors(statistics: ValueStatistics) -> list[Finding]:
    unknown = statistics.unknown[COLOR]
    if not unknown:
        return []
    class_map, files = statistics.class_map, tuple(sorted(unknown))
    codes = sorted({code for codes in unknown.values() for code in codes}, key=lambda c: -statistics.counts[COLOR][c])
    what = f"masks hold {describe_codes(COLOR, codes)}"
    if not class_map.colors:
        return [Finding(
            ERROR,
            f"{what}: they are RGB masks, not masks of class indices, and {class_map.path} gives no colours; write "
            f"`color: [red, green, blue]` into every entry{with_entries(class_map)}.",
            files,
        )]  # fmt: skip
    values = class_map.known_values()
    everything = [decode_color(code) for code in statistics.counts[COLOR]]
    if all(len(set(color)) == 1 and color[0] in values for color in everything):  # all of them are grey
        return [Finding(
            ERROR,
            f"{what}: these are class indices that were saved as grey RGB; set DATASET.MASK_VALUES to index.",
            files,
        )]  # fmt: skip
    exchanged = [(blue, green, red) for red, green, blue in map(decode_color, codes)]
    occurs = any(encode_color(color) in statistics.counts[COLOR] for color in exchanged)
    if not occurs and all(color in class_map.colors and len(set(color)) > 1 for color in exchanged):
        return [Finding(
            ERROR,
            f"{what}: these are the colours of {class_map.path} with red and blue exchanged (OpenCV writes BGR); write "
            "them as [red, green, blue] there, or convert the masks.",
            files,
        )]  # fmt: skip
    near = [code for code in codes if _distance(code, class_map) <= NEAR_COLOR]
    meant = {code: _nearest(code, class_map) for code in near}
    if near == codes and len(set(meant.values())) == len(codes) == len(statistics.counts[COLOR]):
        pairs = ", ".join(f"{list(decode_color(code))} for {list(color)}" for code, color in meant.items())
        return [Finding(
            ERROR,
            f"{what}, which differ a little from those of {class_map.path} ({pairs}): write the colours there as the "
            "masks have them.",
            files,
        )]  # fmt: skip
    is_blurred = len(near) > MOSTLY * len(codes) or any(len(own) > MANY_CODES for own in unknown.values())
    if is_blurred or _are_edges(statistics, codes):
        return [Finding(
            ERROR,
            f"{what}, beside those of {class_map.path}: the masks were blurred (JPEG, smooth resizing or "
            "anti-aliasing); export them again as PNG, resized by nearest neighbour only.",
            files,
        )]  # fmt: skip
    bare = f" (without a colour: {', '.join(class_map.uncolored)})" if class_map.uncolored else ""
    return [Finding(
        ERROR,
        f"{what}, which {class_map.path} does not name: add an entry with `color: {list(decode_color(codes[0]))}` "
        f"(with `ignore: true` if it is not a class), or correct the colours there{bare}"
        f"{with_entries(class_map)}.",
        files,
    )]  # fmt: skip


def _palette_order(statistics: ValueStatistics) -> list[Finding]:
    """Palette files whose indices and colours mean different classes, if the user did not say which counts."""
    if statistics.form != AUTO:
        return []
    class_map = statistics.class_map
    by_index = class_map.known_values()
    colors = {encode_color(color): label for color, label in class_map.colors.items()}
    wrong = []
    for name, (codes, palette) in statistics.palettes.items():
        by_color = {code: colors.get(encode_color(palette[code])) for code in codes if code in palette}
        known = {code: label for code, label in by_color.items() if label is not None}
        differing = [code for code, label in known.items() if label != by_index.get(code)]
        # One colour of a class may be chance, unless all colours are those of classes.
        if len(differing) > 1 or (differing and len(known) == len(by_color) > 1):
            wrong.append(name)
    if not wrong:
        return []
    palette = statistics.palettes[wrong[0]][1]
    labels = {code: colors.get(encode_color(color)) for code, color in palette.items()}
    names_by_color = {
        code: class_map.class_names[label] for code, label in labels.items() if label is not None and label != IGNORED
    }
    return [Finding(
        ERROR,
        "the palettes of masks show the colours of the classes in another order than the class file; two readings are "
        "possible: (1) the colours count: set DATASET.MASK_VALUES to color; (2) the numbers count: set it to index. "
        "Compare both in the pictures.",
        tuple(sorted(wrong)),
        (
            Reading("the palette's colours count", names_by_color),
            Reading("the numbers count", names_of_values(class_map)),
        ),
    )]  # fmt: skip


def _name_of(class_map: ClassMap, value: int) -> str:
    label = class_map.known_values().get(value)
    return "ignored" if label == IGNORED or label is None else class_map.classes[label].name


def _gray(color) -> int:
    return round(sum(weight * channel for weight, channel in zip(GRAY_WEIGHTS, color)))


def _are_edges(statistics: ValueStatistics, codes: list[int]) -> bool:
    """Several colours of few pixels, all between two colours of classes or a little beyond: those of smooth edges."""
    share = sum(share_of(statistics.counts[COLOR], code) for code in codes)
    if len(codes) < MIN_EDGE_COLORS or share > MAX_EDGE_SHARE:
        return False
    known = [np.array(color, dtype=float) for color in statistics.class_map.colors]
    pairs = [(first, second - first) for first, second in itertools.combinations(known, 2)]
    return all(_is_between(np.array(decode_color(code), dtype=float), pairs) for code in codes)


def _is_between(color: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    for start, way in pairs:
        share = min(max(float((color - start) @ way / (way @ way)), -OVERSHOOT), 1 + OVERSHOOT)
        if np.abs(start + share * way - color).max() <= NEAR_COLOR:
            return True
    return False


def _nearest(code: int, class_map: ClassMap) -> Color:
    color = decode_color(code)
    return min(class_map.colors, key=lambda other: max(abs(a - b) for a, b in zip(color, other)))


def _distance(code: int, class_map: ClassMap) -> int:
    color = decode_color(code)
    return min(max(abs(a - b) for a, b in zip(color, other)) for other in class_map.colors)
