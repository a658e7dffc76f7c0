"""Findings about palettes that number the colours of one file alone."""

from hiervl.data.checking.statistics import ERROR, WARNING, Finding, ValueStatistics
from hiervl.data.classes.class_maps import Color
from hiervl.data.folders.masks import AUTO, COLOR


def differing_palettes(statistics: ValueStatistics) -> list[Finding]:
    """A number of pixels that has different colours in different files: GIF and optimised PNG number the colours that
    an image shows, and leave out those that it lacks."""
    if statistics.form == COLOR:
        return []
    files: dict[int, dict[Color, list[str]]] = {}
    for name, (codes, palette) in sorted(statistics.palettes.items()):
        for code in codes & palette.keys():
            files.setdefault(code, {}).setdefault(palette[code], []).append(name)
    several = {code: of_color for code, of_color in sorted(files.items()) if len(of_color) > 1}
    if not several:
        return []
    code, of_color = next(iter(several.items()))
    (one, first), (other, second) = sorted(of_color.items(), key=lambda item: -len(item[1]))[:2]
    concerned = {name for each in several.values() for names in each.values() for name in names}
    what = (
        f"the number {code} is the colour {list(one)} in the palette of {first[0]} and {list(other)} in that of "
        f"{second[0]}: each mask seems to number its own colours, so that one number means several classes"
    )
    if statistics.form != AUTO:
        return [Finding(
            WARNING,
            f"{what}; DATASET.MASK_VALUES says that the numbers count all the same: see in the overlays of both masks "
            "that this is so, else set it to color.",
            tuple(sorted(concerned)),
        )]  # fmt: skip
    return [Finding(
        ERROR,
        f"{what}: set DATASET.MASK_VALUES to color, and give every entry of {statistics.class_map.path} the `color` "
        "that the masks have for it. Only if one class has different colours in the two masks, the colours mean "
        "nothing: then set it to index.",
        tuple(sorted(concerned)),
    )]  # fmt: skip


def numbers_mean_nothing(statistics: ValueStatistics) -> bool:
    """Whether that is an error, beside which nothing can be said of the numbers."""
    return any(finding.level == ERROR for finding in differing_palettes(statistics))
