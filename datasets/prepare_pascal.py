#!/usr/bin/env python3
"""Fetch Pascal VOC 2012 and SBD and make the augmented VOC of them (21 classes), as HierVL expects it.

    python datasets/prepare_pascal.py                # download and convert, about 3.5 GB
    python datasets/prepare_pascal.py --source PATH  # the folder of archives that you already have

Written are ROOT/VOC2012/JPEGImages, SegmentationClass and ImageSets/Segmentation, as published, SBD's labels in sbd/,
and SegmentationClassAug: VOC's own labels where there are any (255, the rim of the objects, is ignored), SBD's
elsewhere. ImageSets/Segmentation/trainaug.txt lists the training images: all that have a label, but for VOC's
validation images. What is there stays, so an interrupted run can be repeated.
"""

from collections.abc import Sequence
from pathlib import Path

from hiervl.data.preparation.archives import Archive, fetch_and_unpack
from hiervl.data.preparation.conversions import convert_all, convert_png, convert_sbd, pascal_labels
from hiervl.data.preparation.script import check_contents, names_in, run_script, say, script_parser
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_text

FOLDER = "VOC2012"
COUNTS = {"images": 17_125, "voc": 2_913, "sbd": 11_355, "train": 10_582, "val": 1_449}
LISTS = "ImageSets/Segmentation"


def archives_of(counts: dict[str, int], urls: Sequence[str], md5s: Sequence[str]) -> Sequence[Archive]:
    voc = {"JPEGImages/*.jpg": counts["images"], "SegmentationClass/*.png": counts["voc"], f"{LISTS}/val.txt": 1}
    sbd = {"sbd/cls/*.mat": counts["sbd"]}
    return (
        Archive("VOCtrainval_11-May-2012.tar", urls[0], md5s[0], 2.0, voc),
        Archive("benchmark.tgz", urls[1], md5s[1], 1.4, sbd),
    )


ARCHIVES = archives_of(
    COUNTS,
    (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    ),
    ("6cd6e144f989b92b3379bac3b3de84fd", "82b4d87ceb2ed10f6038a1cba92111cb"),
)


def place(name: str) -> str | None:
    """A member's place in the dataset's folder: images, class labels and lists of VOC, class labels of SBD."""
    voc, sbd = "VOCdevkit/VOC2012/", "benchmark_RELEASE/dataset/"
    if name.startswith(sbd + "cls/"):
        return "sbd/" + name[len(sbd) :]
    rest = name[len(voc) :] if name.startswith(voc) else ""
    return rest if rest.startswith(("JPEGImages/", "SegmentationClass/", LISTS + "/")) else None


def read_names(path: Path) -> set[str]:
    return set(path.read_text(encoding="utf-8").split())


def make_labels(folder: Path, workers: int) -> set[str]:
    """Fill SegmentationClassAug with what is not there yet; gives the names of all its files."""
    voc, sbd, augmented = folder / "SegmentationClass", folder / "sbd" / "cls", folder / "SegmentationClassAug"
    augmented.mkdir(exist_ok=True)
    voc_names, sbd_names, done = names_in(voc, ".png"), names_in(sbd, ".mat"), names_in(augmented, ".png")
    own = [(voc / f"{name}.png", augmented / f"{name}.png", pascal_labels) for name in sorted(voc_names - done)]
    convert_all("taking over labels of VOC", convert_png, own, workers)
    more = [(sbd / f"{name}.mat", augmented / f"{name}.png") for name in sorted(sbd_names - voc_names - done)]
    convert_all("converting labels of SBD", convert_sbd, more, workers)
    return voc_names | sbd_names


def prepare(
    folder: Path,
    source: Path | None = None,
    archives: Sequence[Archive] = ARCHIVES,
    counts: dict[str, int] = COUNTS,
    workers: int = 1,
    keep: bool = False,
) -> None:
    """Make ``folder``; ``archives`` and ``counts`` are those of the publishers unless a test has its own."""
    for archive in archives:
        fetch_and_unpack(archive, folder, place, source, keep)
    labeled, val = make_labels(folder, workers), read_names(folder / LISTS / "val.txt")
    train = sorted(labeled - val)
    if (len(train), len(val)) != (counts["train"], counts["val"]):
        raise UserError(
            f"{folder}: {len(train):,} training and {len(val):,} validation images instead of {counts['train']:,} and "
            f"{counts['val']:,}: empty the folder and run the script again."
        )
    check_contents(folder, {"SegmentationClassAug/*.png": len(labeled)})
    write_text(folder / LISTS / "trainaug.txt", "".join(f"{name}\n" for name in train))
    say(f"{folder} is ready")


def main() -> None:
    arguments = script_parser(__doc__, [archive.name for archive in ARCHIVES], FOLDER).parse_args()
    prepare(arguments.root / FOLDER, arguments.source, workers=arguments.workers, keep=arguments.keep)


if __name__ == "__main__":
    run_script(main)
