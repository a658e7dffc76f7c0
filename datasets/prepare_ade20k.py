#!/usr/bin/env python3
"""Fetch ADE20K (150 classes, as in the SceneParse150 challenge) and lay it out as HierVL expects it.

    python datasets/prepare_ade20k.py                # download and convert, about 1 GB
    python datasets/prepare_ade20k.py --source PATH  # the folder of an archive that you already have

Written are ROOT/ADEChallengeData2016/images and annotations, as published, and annotations_detectron2, where the
published labels 1 … 150 are 0 … 149 and the label 0 ("other") is 255, which is ignored. What is there stays, so an
interrupted run can be repeated.
"""

from pathlib import Path

from hiervl.data.preparation.archives import Archive, fetch_and_unpack
from hiervl.data.preparation.conversions import ade20k_labels, convert_all, convert_png
from hiervl.data.preparation.script import check_contents, names_in, run_script, say, script_parser

FOLDER = "ADEChallengeData2016"
COUNTS = {"training": 20_210, "validation": 2_000}


def archive_of(counts: dict[str, int], url: str, md5: str) -> Archive:
    contents = {f"images/{split}/*.jpg": count for split, count in counts.items()}
    contents.update({f"annotations/{split}/*.png": count for split, count in counts.items()})
    return Archive("ADEChallengeData2016.zip", url, md5, 0.97, contents)


ARCHIVE = archive_of(
    COUNTS,
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    "7328b3957e407ddae1d3cbf487f149ef",
)


def place(name: str) -> str | None:
    """A member's place in the dataset's folder: images, annotations and the lists of names beside them."""
    top, _, rest = name.partition("/")
    return rest if top == FOLDER and rest.startswith(("images/", "annotations/", "objectInfo150", "scene")) else None


def prepare(
    folder: Path,
    source: Path | None = None,
    archive: Archive = ARCHIVE,
    counts: dict[str, int] = COUNTS,
    workers: int = 1,
    keep: bool = False,
) -> None:
    """Make ``folder``; ``archive`` and ``counts`` are those of the publishers unless a test has its own."""
    fetch_and_unpack(archive, folder, place, source, keep)
    jobs = []
    for split in counts:
        published, converted = folder / "annotations" / split, folder / "annotations_detectron2" / split
        converted.mkdir(parents=True, exist_ok=True)
        for name in sorted(names_in(published, ".png") - names_in(converted, ".png")):
            jobs.append((published / f"{name}.png", converted / f"{name}.png", ade20k_labels))
    convert_all("shifting labels", convert_png, jobs, workers)
    check_contents(folder, {f"annotations_detectron2/{split}/*.png": count for split, count in counts.items()})
    say(f"{folder} is ready")


def main() -> None:
    arguments = script_parser(__doc__, [ARCHIVE.name], FOLDER).parse_args()
    prepare(arguments.root / FOLDER, arguments.source, workers=arguments.workers, keep=arguments.keep)


if __name__ == "__main__":
    run_script(main)
