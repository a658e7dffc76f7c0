"""Problems with objects in annotation files, in sentences that say how to fix them."""

import difflib
from collections import Counter

from hiervl.data.checking.readings import MOSTLY, with_entries
from hiervl.data.checking.statistics import ERROR, WARNING, Finding, ValueStatistics
from hiervl.data.folders.formats.class_layers import OVERLAPS
from hiervl.data.folders.formats.source import BEYOND, NO_OBJECTS
from hiervl.data.folders.masks import describe_names

DRAWN_LARGER = (
    "if they were drawn on larger images, all labels are at wrong places (the overlays show it): take the images that "
    "were annotated, or export the annotations for these"
)


def object_findings(statistics: ValueStatistics) -> list[Finding]:
    """Labels that are not a class, and objects that cannot be drawn, counted over all annotations."""
    findings = []
    unknown = _total(statistics.unknown_names)
    if unknown:
        findings.append(Finding(
            ERROR,
            f"the annotations have {describe_names(unknown)}, which {statistics.class_map.path} does not name: add an "
            "entry for each, with `ignore: true` if it is not a class, or `merge_into: CLASS` if it means another class"
            f"{_likely(unknown, statistics)}{with_entries(statistics.class_map)}.",
            tuple(sorted(statistics.unknown_names)),
        ))  # fmt: skip
    for problem, count in sorted(_total(statistics.remarks).items()):
        files = tuple(sorted(name for name, counts in statistics.remarks.items() if problem in counts))
        if problem == NO_OBJECTS:
            findings.append(_without_objects(count, statistics, files))
            continue
        if problem == BEYOND:
            findings.append(Finding(WARNING, f"{count} {BEYOND}: {DRAWN_LARGER}.", files))
            continue
        inverted = _inverted(count, statistics, files) if problem == OVERLAPS else None
        findings.append(inverted or Finding(WARNING, f"{count} {problem}.", files))
    return findings


def _without_objects(count: int, statistics: ValueStatistics, files: tuple[str, ...]) -> Finding:
    """Images that nobody has annotated look like images that show nothing: exports list both."""
    ground = statistics.class_map.background
    leave_out = "write `EMPTY_ANNOTATIONS: unlabeled` below DATASET, which leaves them out of the labelled ones"
    if ground is None:
        return Finding(
            WARNING, f"{count} {NO_OBJECTS}, so that none of their pixels counts: annotate them, or {leave_out}.", files
        )
    return Finding(
        WARNING,
        f"{count} {NO_OBJECTS}, so that all of their pixels are '{statistics.class_map.class_names[ground]}': if that "
        "is so, write `EMPTY_ANNOTATIONS: background` below DATASET, which ends this warning; if they have not been "
        f"annotated yet, {leave_out}.",
        files,
    )


def _inverted(count: int, statistics: ValueStatistics, files: tuple[str, ...]) -> Finding | None:
    """Masks of one class each that are set where the class is not: most pixels then belong to several classes."""
    pixels = sum(sum(counts.values()) for counts in statistics.counts.values())
    if count <= MOSTLY * pixels:
        return None
    return Finding(
        ERROR,
        f"{count / pixels:.0%} of the pixels belong to several classes: the masks look inverted, black where the class "
        "is; export them with 0 (black) where it is not.",
        files,
    )


def _total(by_file: dict[str, dict[str, int]]) -> Counter:
    return sum((Counter(counts) for counts in by_file.values()), Counter())


def _likely(unknown: Counter, statistics: ValueStatistics) -> str:
    """A class with a similar name (another case, another letter), for the first label that has one."""
    known = {name.casefold(): name for name in statistics.class_map.names}
    for name, _ in unknown.most_common():
        close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)
        if close:
            return f" (is '{name}' the class '{known[close[0]]}'?)"
    return ""
