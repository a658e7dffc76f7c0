"""Find folders of overlays: photographs with something drawn over them, such as their labels.

They bear the names of the photographs, and could be taken for them. They are left out only where the pixels and the
name of the folder say it: sharpened photographs, or those of a camera that stands still, look alike.
"""

import random
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from hiervl.data.preparation.overlay_pictures import Comparison, compare_files
from hiervl.data.preparation.survey_contents import Contents, common_start, share_of_masks

WORDS = re.compile(
    r"(?<![a-z])(overlays?|visuali[sz](ations?|ed)|blend(s|ed)?|previews?|drawn|pred(s|icted|ictions?)?|contours?)(?![a-z])"
)
LOOKED_AT = 6  # names of a folder that are looked up in others
COMPARED = 4  # pairs of pictures
MOST_DIFFERENT = 1  # of them; one may have been cropped, or may have another photograph's name
NEAREST = 3  # folders that are compared, of those with the same names and start of the path, or end of it


def is_named_as_overlays(folder: str) -> bool:
    """Whether the name of a folder says that it holds overlays."""
    last = "/".join(Path(folder).parts[-2:])
    return bool(WORDS.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()))


def bear_names_of(files: Sequence[Path], stems: Container[str]) -> bool:
    """Whether most of the files are named as the images ``stems`` are, perhaps with something before or behind."""
    some = _some(files)
    return sum(any(name in stems for name in _shorter_names(path.stem)) for path in some) > len(some) / 2


def _some(files: Sequence[Path]) -> list[Path]:
    return random.Random(0).sample(files, min(LOOKED_AT, len(files)))


def find_overlays(contents: Contents) -> dict[str, str]:
    """Folders that seem to hold overlays of the pictures in another one → that other one."""
    folders = {folder: files for folder, files in contents.files.items() if share_of_masks(files) == 0}
    by_stem: dict[str, dict[str, Path]] = {}  # stem → folder → file
    for folder, files in folders.items():
        for path in files:
            by_stem.setdefault(path.stem, {})[folder] = path
    overlays: dict[str, str] = {}
    compared: set[frozenset[str]] = set()
    for folder, files in folders.items():
        for other, pairs in _find_twins(folder, files, by_stem):
            both = frozenset((folder, other))
            if both in compared or both & overlays.keys():
                continue
            compared.add(both)
            found = _which_is_overlay(folder, other, pairs)
            if found is not None:
                overlays[found] = other if found == folder else folder
    return overlays


def drop_overlays(contents: Contents) -> list[str]:
    """Remove those folders whose names say it, too. Of others nobody can be sure: photographs of a camera that stands
    still, or sharpened ones, look alike. They are noted in ``contents.overlays``. → sentences for the user."""
    notes = []
    for folder, photographs in find_overlays(contents).items():
        what = f"the photographs of {photographs or '.'} with something drawn over them"
        if is_named_as_overlays(folder):
            del contents.files[folder], contents.images[folder]
            notes.append(f"{folder} holds {what}, and is not used")
        else:
            contents.overlays.add(folder)
            notes.append(f"{folder or '.'} seems to hold {what}: look at it, and take it out of my.yaml if it does")
    return notes


def _find_twins(
    folder: str, files: Sequence[Path], by_stem: dict[str, dict[str, Path]]
) -> list[tuple[str, list[tuple[Path, Path]]]]:
    """The nearest other folders that hold files of (nearly) the same names, and pairs of such files."""
    found: dict[str, list[tuple[Path, Path]]] = {}
    looked_at = _some(files)
    for path in looked_at:
        for stem in _shorter_names(path.stem):
            others = {other: twin for other, twin in by_stem.get(stem, {}).items() if other != folder}
            for other, twin in others.items():
                found.setdefault(other, []).append((path, twin))
            if others:
                break
    often = [other for other in found if len(found[other]) > len(looked_at) / 2]
    # Both of scene_1/images and scene_1/overlays, and of images/scene_1 and overlays/scene_1.
    by_start = sorted(often, key=lambda other: -common_start(Path(folder).parts, Path(other).parts))
    by_end = sorted(often, key=lambda other: -common_start(Path(folder).parts[::-1], Path(other).parts[::-1]))
    near = dict.fromkeys([*by_start[:NEAREST], *by_end[:NEAREST]])
    return [(other, found[other]) for other in near]


def _shorter_names(stem: str) -> Iterator[str]:
    """The name itself, then what is left without its end or beginning: ``a_1_overlay`` → ``a_1`` …"""
    yield stem
    cuts = [match.start() for match in re.finditer(r"[_\-. ]", stem)]
    yield from (stem[:cut] for cut in reversed(cuts))
    yield from (stem[cut + 1 :] for cut in cuts)


def _which_is_overlay(folder: str, other: str, pairs: Sequence[tuple[Path, Path]]) -> str | None:
    """The folder of the two that holds overlays; None: they show different things, or nobody knows."""
    alike: list[Comparison] = []
    different = 0
    for pair in pairs[:COMPARED]:
        comparison = compare_files(*pair)
        if comparison is not Comparison.DIFFERENT:
            alike.append(comparison)
            continue
        different += 1
        if different > MOST_DIFFERENT:
            return None
    is_named = [is_named_as_overlays(name) for name in (folder, other)]
    if is_named[0] != is_named[1] and any(comparison is not Comparison.ALIKE for comparison in alike):
        return folder if is_named[0] else other
    if len(alike) < 2 or len(set(alike)) > 1:
        return None
    return {Comparison.FIRST_IS_OVERLAY: folder, Comparison.SECOND_IS_OVERLAY: other}.get(alike[0])
