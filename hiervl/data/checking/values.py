"""What is wrong with the values and colours of masks, said in sentences that name the mend."""

from dataclasses import dataclass, field

import numpy as np

from hiervl.data.classes.class_maps import IGNORED, ClassMap
from hiervl.data.folders.masks import (
    COLOR,
    INDEX,
    LABEL,
    RawMask,
    decode_color,
    describe_codes,
    encode_color,
    label_of_code,
)

ERROR, WARNING = "error", "warning"
MANY_CODES = 32  # unknown ones in one mask: no list of classes, but blurred colours or a photograph
NEAR_COLOR = 12  # largest difference of a channel between a blurred colour and its class's
MOSTLY = 0.5
# ITU-R 601, as Pillow and OpenCV turn RGB into grey.
GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Finding:
    """A fault: how bad, what and how to mend it, and the files that show it."""

    level: str
    sentence: str
    files: tuple[str, ...] = ()


def _by_form() -> dict[str, dict]:
    return {INDEX: {}, COLOR: {}, LABEL: {}}


@dataclass
class ValueStatistics:
    """Which codes the masks hold, gathered mask by mask."""

    class_map: ClassMap
    counts: dict[str, dict[int, int]] = field(default_factory=_by_form)
    files: dict[str, dict[int, list[str]]] = field(default_factory=_by_form)
    unknown: dict[str, dict[str, list[int]]] = field(default_factory=_by_form)
    palettes: dict[str, tuple[set[int], dict]] = field(default_factory=dict)
    unknown_names: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, name: str, raw: RawMask) -> np.ndarray:
        """Take in a mask; returns its pixels per class (C,)."""
        meaning = label_of_code(raw, self.class_map)
        pixels = np.zeros(len(self.class_map.classes), dtype=np.int64)
        codes = raw.counts()
        for code, count in codes.items():
            self.counts[raw.form][code] = self.counts[raw.form].get(code, 0) + count
            self.files[raw.form].setdefault(code, []).append(name)
            label = meaning.get(code)
            if label is not None and label != IGNORED:
                pixels[label] += count
        unknown = [code for code in codes if code not in meaning]
        if unknown:
            self.unknown[raw.form][name] = unknown
        if raw.unknown_names:
            self.unknown_names[name] = dict(raw.unknown_names)
        if raw.remarks:
            self.remarks[name] = dict(raw.remarks)
        if raw.palette:
            self.palettes[name] = (set(codes), raw.palette)
        return pixels

    def files_with(self, form: str, codes) -> tuple[str, ...]:
        """Names of the masks that hold one of the codes."""
        return tuple(sorted({name for code in codes for name in self.files[form].get(code, [])}))


def value_findings(statistics: ValueStatistics) -> list[Finding]:
    """Everything that the codes of all masks together say."""
    findings = [*_unknown_colors(statistics), *_palette_order(statistics)]
    unknown = sorted({code for codes in statistics.unknown[INDEX].values() for code in codes})
    used = sorted(statistics.counts[INDEX])
    if not used:
        return findings
    if unknown:
        findings.append(_unknown_values(statistics, unknown, used))
    findings.extend(_ignored_255(statistics, used))
    if not unknown and used == [0]:
        findings.append(Finding(
            ERROR,
            f"every pixel of every mask is 0 ('{_name_of(statistics.class_map, 0)}'): the masks are empty, or their "
            "values were lost when they were saved; export them again as index PNGs.",
            statistics.files_with(INDEX, [0]),
        ))  # fmt: skip
    elif not unknown and 0 not in used and 0 in statistics.class_map.values and [v for v in used if v != IGNORED]:
        findings.append(Finding(
            WARNING,
            f"the value 0 never occurs, but {statistics.class_map.path} gives it to "
            f"'{_name_of(statistics.class_map, 0)}': if the masks count from 1, write `label: 1` and so on into the "
            "class file.",
        ))  # fmt: skip
    return findings


def registered_findings(statistics: ValueStatistics) -> list[Finding]:
    """The same of a registered dataset, whose classes no class file of the user's defines."""
    unknown = sorted({code for codes in statistics.unknown[INDEX].values() for code in codes})
    if not unknown:
        return []
    class_map = statistics.class_map
    ignored = next(value for value, label in class_map.values.items() if label == IGNORED)
    return [Finding(
        ERROR,
        f"labels hold {describe_codes(INDEX, unknown)}, but the {len(class_map.classes)} classes are 0 to "
        f"{len(class_map.classes) - 1} and {ignored} is ignored: prepare the dataset anew (datasets/README.md), or "
        "correct the files.",
        tuple(sorted(statistics.unknown[INDEX])),
    )]  # fmt: skip


def _unknown_values(statistics: ValueStatistics, unknown: list[int], used: list[int]) -> Finding:
    class_map = statistics.class_map
    files = tuple(sorted(statistics.unknown[INDEX]))
    count = len(class_map.values)
    what = f"masks hold {describe_codes(INDEX, unknown)}, which {class_map.path} does not name"
    is_numbered = sorted(class_map.values) == list(range(count))
    if is_numbered and unknown == [count] and 0 not in used:
        return Finding(
            ERROR,
            f"{what}, while 0 never occurs: the masks count from 1 (off by one); write `label: 1` to `label: {count}` "
            "into the class file, or put an entry for 0 (background, or one with `ignore: true`) in front.",
            files,
        )
    if is_numbered and unknown == [count]:
        return Finding(
            ERROR,
            f"{what}, one more than its entries (off by one): probably 0 is background or unlabelled; put an entry "
            "for it in front, such as `{name: background, background: true}` or `{name: void, ignore: true}`.",
            files,
        )
    greys = {_grey(color) for color in class_map.colors}
    if len(greys) > 1 and all(any(abs(value - grey) <= 1 for grey in greys) for value in unknown):
        return Finding(
            ERROR,
            f"{what}; they are the grey values of the classes' colours: RGB masks were turned into grey ones; use the "
            "RGB masks.",
            files,
        )
    if any(len(codes) > MANY_CODES for codes in statistics.unknown[INDEX].values()):
        return Finding(
            ERROR,
            f"{what}; there are far more values than classes: these are photographs or masks that were blurred "
            "(JPEG, smooth resizing); export index PNGs again, or correct DATASET.LABELED.MASKS.",
            files,
        )
    return Finding(
        ERROR,
        f"{what}: add an entry with `label: {unknown[0]}` (with `ignore: true` if it is no class), or correct the "
        "masks.",
        files,
    )


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
            "`color: [red, green, blue]` into every entry.",
            files,
        )]  # fmt: skip
    values = class_map.known_values()
    everything = [decode_color(code) for code in statistics.counts[COLOR]]
    if all(len(set(color)) == 1 and color[0] in values for color in everything):  # no true colour among them
        return [Finding(
            ERROR,
            f"{what}: these are class indices that were saved as grey RGB; set DATASET.MASK_VALUES to index.",
            files,
        )]  # fmt: skip
    near = [code for code in codes if _distance(code, class_map) <= NEAR_COLOR]
    if len(near) > MOSTLY * len(codes) or any(len(own) > MANY_CODES for own in unknown.values()):
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
        f"(with `ignore: true` if it is no class), or correct the colours there{bare}.",
        files,
    )]  # fmt: skip


def _palette_order(statistics: ValueStatistics) -> list[Finding]:
    """Palette files whose indices say other classes than their colours."""
    class_map = statistics.class_map
    by_index = class_map.known_values()
    colors = {encode_color(color): label for color, label in class_map.colors.items()}
    wrong = []
    for name, (codes, palette) in statistics.palettes.items():
        by_color = {code: colors.get(encode_color(palette[code])) for code in codes if code in palette}
        if len(by_color) > 1 and None not in by_color.values():
            if any(label != by_index.get(code) for code, label in by_color.items()):
                wrong.append(name)
    if not wrong:
        return []
    return [Finding(
        ERROR,
        "the palettes of masks show the colours of the classes in another order than the class file: set "
        "DATASET.MASK_VALUES to color, so that the colours count.",
        tuple(sorted(wrong)),
    )]  # fmt: skip


def _ignored_255(statistics: ValueStatistics, used: list[int]) -> list[Finding]:
    class_map = statistics.class_map
    if IGNORED not in used or IGNORED in class_map.values:
        return []
    counts = statistics.counts[INDEX]
    share = counts[IGNORED] / sum(counts.values())
    files = statistics.files_with(INDEX, [IGNORED])
    if set(used) <= {0, IGNORED}:
        last = class_map.classes[-1].name
        return [Finding(
            ERROR,
            f"masks hold only 0 and 255, and 255 does not count unless the class file names it: if 255 is the "
            f"foreground, write `label: 255` into its entry ('{last}'?), and `{{name: background, background: true, "
            "label: 0}` in front.",
            files,
        )]  # fmt: skip
    if share > MOSTLY:
        return [Finding(
            WARNING,
            f"{share:.0%} of the masks' pixels are 255, which does not count: if it is a class, give its entry "
            "`label: 255`.",
            files,
        )]  # fmt: skip
    return []


def _name_of(class_map: ClassMap, value: int) -> str:
    label = class_map.known_values().get(value)
    return "ignored" if label == IGNORED or label is None else class_map.classes[label].name


def _grey(color) -> int:
    return round(sum(weight * channel for weight, channel in zip(GREY_WEIGHTS, color)))


def _distance(code: int, class_map: ClassMap) -> int:
    color = decode_color(code)
    return min(max(abs(a - b) for a, b in zip(color, other)) for other in class_map.colors)
