#!/usr/bin/env python3
"""Fetch COCO 2017 and make 81-class labels (background and 80 things) of its instances, as HierVL expects them.

    python datasets/prepare_coco.py                # download and convert, about 20 GB
    python datasets/prepare_coco.py --source PATH  # the folder of archives that you already have

Written are ROOT/coco/{train,val}2017 and annotations, as published, and for every image a map of its classes,
semantic/{train,val}2017/NAME.png, and one of its instances, instances/{train,val}2017/NAME.png (0 where there is
none). What is there stays, so an interrupted run can be repeated.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hiervl.data.classes.definitions import CLASS_FILES, read_classes
from hiervl.data.preparation.archives import Archive, fetch_and_unpack
from hiervl.data.preparation.conversions import coco_labels, convert_all, convert_coco
from hiervl.data.preparation.script import check_contents, names_in, run_script, say, script_parser
from hiervl.utils.errors import UserError

FOLDER = "coco"
COUNTS = {"train2017": 118_287, "val2017": 5_000}
URL = "http://images.cocodataset.org"


def archives_of(counts: dict[str, int], url: str, md5s: dict[str, str]) -> Sequence[Archive]:
    def images(split: str, gigabytes: float) -> Archive:
        contents = {f"{split}/*.jpg": counts[split]}
        return Archive(f"{split}.zip", f"{url}/zips/{split}.zip", md5s[split], gigabytes, contents)

    name = "annotations_trainval2017.zip"
    contents = {f"annotations/instances_{split}.json": 1 for split in counts}
    annotations = Archive(name, f"{url}/annotations/{name}", md5s["annotations"], 0.7, contents)
    return (annotations, images("val2017", 0.8), images("train2017", 19.4))


ARCHIVES = archives_of(
    COUNTS,
    URL,
    {
        "annotations": "f4bbac642086de4f52a3fdda2de5fa2c",
        "train2017": "cced6f7f71b7629ddf16f17bbcfab6b2",
        "val2017": "442b8da7639aecaf257c1dceb8ba8c80",
    },
)


def place(name: str) -> str | None:
    """A member's place in the dataset's folder: the images, and of the annotations the instances."""
    return name if name.startswith(("train2017/", "val2017/", "annotations/instances_")) else None


def jobs_of(folder: Path, split: str) -> list[tuple]:
    """What is left to convert of a split, as arguments of :func:`convert_coco`."""
    classes, instances = folder / "semantic" / split, folder / "instances" / split
    for target in (classes, instances):
        target.mkdir(parents=True, exist_ok=True)
    done = names_in(classes, ".png")
    if not names_in(folder / split, ".jpg") - done:
        return []
    path = folder / "annotations" / f"instances_{split}.json"
    say(f"reading {path}")
    try:
        published = json.loads(path.read_bytes())
        labels = coco_labels(published["categories"], [c.name for c in read_classes(CLASS_FILES / "coco.yaml")], path)
        annotations_by_image = defaultdict(list)
        for annotation in published["annotations"]:
            annotations_by_image[annotation["image_id"]].append(annotation)
        images = {Path(image["file_name"]).stem: image for image in published["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an annotation file of COCO ({error!r}): remove it and run it again.") from None
    jobs = []
    for name in sorted(set(images) - done):
        image = images[name]
        targets = (classes / f"{name}.png", instances / f"{name}.png")
        jobs.append((annotations_by_image[image["id"]], labels, (image["height"], image["width"]), *targets))
    return jobs


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
    for split, count in counts.items():
        convert_all(f"making labels of {split}", convert_coco, jobs_of(folder, split), workers)
        check_contents(folder, {f"semantic/{split}/*.png": count, f"instances/{split}/*.png": count})
    say(f"{folder} is ready")


def main() -> None:
    arguments = script_parser(__doc__, [archive.name for archive in ARCHIVES], FOLDER).parse_args()
    prepare(arguments.root / FOLDER, arguments.source, workers=arguments.workers, keep=arguments.keep)


if __name__ == "__main__":
    run_script(main)
