#!/usr/bin/env python3
"""Lay Cityscapes (19 classes, 2048×1024) out as HierVL expects it.

    python datasets/prepare_cityscapes.py                # says what to download, then unpacks and converts it
    python datasets/prepare_cityscapes.py --source PATH  # the folder that holds the two archives

The archives need a login, so you download them by hand. Written are ROOT/cityscapes/leftImg8bit/{train,val} and
gtFine/{train,val}, as published, and beside every NAME_gtFine_labelIds.png a NAME_gtFine_labelTrainIds.png with the
19 evaluated classes and 255 for all else. What is there stays, so an interrupted run can be repeated.
"""

from collections.abc import Sequence
from pathlib import Path

from hiervl.data.preparation.archives import Archive, fetch_and_unpack
from hiervl.data.preparation.conversions import cityscapes_labels, convert_all, convert_png
from hiervl.data.preparation.script import check_contents, names_in, run_script, say, script_parser

FOLDER = "cityscapes"
COUNTS = {"train": 2_975, "val": 500}
BY_HAND = (
    "register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip (11 GB) and "
    "gtFine_trainvaltest.zip (241 MB), put both there (or name their folder with --source), and run this again."
)
PUBLISHED, CONVERTED = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def archives_of(counts: dict[str, int], md5_images: str, md5_labels: str) -> Sequence[Archive]:
    images = {f"leftImg8bit/{split}/*/*_leftImg8bit.png": count for split, count in counts.items()}
    labels = {f"gtFine/{split}/*/*{PUBLISHED}": count for split, count in counts.items()}
    return (
        Archive("leftImg8bit_trainvaltest.zip", "", md5_images, 11.6, images, BY_HAND),
        Archive("gtFine_trainvaltest.zip", "", md5_labels, 0.25, labels, BY_HAND),
    )


ARCHIVES = archives_of(COUNTS, "0a6e97e94b616a514066c9e2adb0c97f", "4237c19de34c8a376e9ba46b495d6f66")


def place(name: str) -> str | None:
    """A member's place in the dataset's folder. The test set has no labels to compare with and is left out."""
    wanted = tuple(f"{kind}/{split}/" for kind in ("leftImg8bit", "gtFine") for split in COUNTS)
    return name if name.startswith(wanted) else None


def prepare(
    folder: Path,
    source: Path | None = None,
    archives: Sequence[Archive] = ARCHIVES,
    counts: dict[str, int] = COUNTS,
    workers: int = 1,
) -> None:
    """Make ``folder``; ``archives`` and ``counts`` are those of the publishers unless a test has its own."""
    for archive in archives:
        fetch_and_unpack(archive, folder, place, source, keep=True)  # nobody should have to log in twice
    jobs = []
    for split in counts:
        for city in sorted(path for path in (folder / "gtFine" / split).iterdir() if path.is_dir()):
            for name in sorted(names_in(city, PUBLISHED) - names_in(city, CONVERTED)):
                jobs.append((city / f"{name}{PUBLISHED}", city / f"{name}{CONVERTED}", cityscapes_labels))
    convert_all("making train ids", convert_png, jobs, workers)
    check_contents(folder, {f"gtFine/{split}/*/*{CONVERTED}": count for split, count in counts.items()})
    say(f"{folder} is ready")


def main() -> None:
    arguments = script_parser(__doc__, [archive.name for archive in ARCHIVES], FOLDER, may_keep=False).parse_args()
    prepare(arguments.root / FOLDER, arguments.source, workers=arguments.workers)


if __name__ == "__main__":
    run_script(main)
