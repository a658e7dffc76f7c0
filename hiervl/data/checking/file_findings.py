"""Findings about which files belong together, and which are not used."""

from collections.abc import Sequence
from pathlib import Path

from hiervl.data.checking.registered_layout import RegisteredLayout
from hiervl.data.checking.statistics import ERROR, NOTE, WARNING, Finding
from hiervl.data.checking.two_values import PROVISIONAL_NAME
from hiervl.data.folders.formats.source import AnnotationSource
from hiervl.data.folders.kinds import describe_unused
from hiervl.data.folders.layout import FolderLayout
from hiervl.data.folders.pools import Pool, paired_by_number
from hiervl.utils.text import listed

Layout = FolderLayout | RegisteredLayout


def matching(layout: Layout, pools: dict[str, Pool]) -> list[Finding]:
    """Images without masks, masks without images, and images that are left out."""
    findings = []
    for split, pool in pools.items():
        missing = layout.missing_masks(pool)
        advice = pool.advice() if missing else ""
        if missing:
            end = f". {advice}." if advice else (
                ": add the masks, or take the images out (images whose folder is also in DATASET.UNLABELED need none)."
            )  # fmt: skip
            findings.append(Finding(
                ERROR, f"{len(missing)} {split} images have no mask of the same stem{end}", file_names(missing)
            ))  # fmt: skip
        if pool.extra and not advice:  # which pairs them
            findings.append(Finding(
                WARNING,
                f"{len(pool.extra)} masks of the {split} images have no image: add the images, rename the masks, or "
                "take them out.",
                tuple(pool.extra),
            ))  # fmt: skip
        if pool.other:
            findings.append(Finding(
                WARNING,
                f"{len(pool.other)} files among the {split} images are left out: DATASET.IMAGE_SUFFIX does not fit "
                "their names.",
                file_names(pool.other),
            ))  # fmt: skip
        if pool.empty:
            findings.append(Finding(
                NOTE,
                f"{len(pool.empty)} {split} images are listed without any object, and are left out "
                "of the labelled ones (DATASET.EMPTY_ANNOTATIONS).",
                file_names(pool.empty),
            ))  # fmt: skip
        if pool.by_number:
            findings.append(Finding(NOTE, paired_by_number(split, pool)))
    return findings


def notes(pools: dict[str, Pool]) -> list[Finding]:
    """Problems of annotation files as a whole."""
    sources = {id(sample.masks): sample.masks for pool in pools.values() for sample in pool.samples.values()}
    found = {
        note: Finding(WARNING, note, (str(source.path),))
        for source in sources.values() if isinstance(source, AnnotationSource)
        for note in source.notes
    }  # fmt: skip
    return list(found.values())


def unused(layout: Layout) -> list[Finding]:
    """Files in the named folders that are not used: a warning if they may be data, else a note."""
    if not isinstance(layout, FolderLayout):
        return []
    return [
        Finding(
            WARNING if kind.advice else NOTE,
            f"not used in {folder}: {describe_unused([kind])}.",
            kind.files,
        )
        for folder, kind in layout.unused()
    ]


def unnamed(layout: Layout) -> list[Finding]:
    """Classes that are still called by their values or colours, as ``init`` writes them."""
    names = [name for name in layout.class_map.class_names if PROVISIONAL_NAME.fullmatch(name)]
    if not names or not isinstance(layout, FolderLayout):
        return []
    return [Finding(
        WARNING,
        f"{layout.class_map.path} still calls {len(names)} classes by their values or colours ({listed(names)}): write "
        "what one sees into `name` and `phrases`, by which CLIP is asked.",
    )]  # fmt: skip


def file_names(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(str(path) for path in paths)
