"""Find image and mask files in a user's folders, and read lists of names."""

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES
from hiervl.data.folders.formats.image_names import ImageNames
from hiervl.data.folders.kinds import OWN_FILES, is_hidden, is_own_output, refuse_file
from hiervl.data.loading.bands import TIFF_SUFFIXES, has_rasterio, tiff_size
from hiervl.data.loading.file_types import IMAGE_SUFFIXES
from hiervl.data.loading.readers import Frame, file_frame
from hiervl.data.loading.turns import turned_size
from hiervl.utils.errors import UserError
from hiervl.utils.files import text_encoding, write_text

# JPEG blurs labels. It is in the list so that `check-data` can report it.
MASK_SUFFIXES = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
HASH_MARK = "# sha256 "


def find_folder(root: Path, folder: str, key: str) -> Path:
    """``folder`` below ``root`` (or absolute).

    Raises:
        UserError: there is no such folder. The message names the kind of a file with that name, or a similar folder.
    """
    path = (root / folder).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise refuse_file(path, key)
    raise UserError(f"{key}: there is no folder {path}{or_similar(path)}")


def or_similar(path: Path) -> str:
    """The end of a sentence about a missing ``path``: names a similar one beside it, if there is one."""
    if not path.parent.is_dir():
        return f" (nor {path.parent})."
    try:
        names = os.listdir(path.parent)
    except OSError:
        return "."
    close = difflib.get_close_matches(path.name, [name for name in names if name != path.name], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else "."


def list_files(
    folder: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES, above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Paths of the files in a folder and its subfolders, sorted. Links are followed; hidden files are left out, and
    subfolders that HierVL has written.

    They begin with ``folder``. There may be millions, so they come one by one as plain strings, and no file is opened.
    ``above``: the folders above this one, with links resolved.
    """
    real = os.path.realpath(folder)
    if any(path == real or path.startswith(os.path.join(real, "")) for path in above):  # a link back to a folder above
        return
    names, folders, own = [], set(), set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.name in OWN_FILES:
                    own.add(entry.name)
                if entry.is_dir():
                    folders.add(entry.name)
                elif os.path.splitext(entry.name)[1].lower() not in suffixes:
                    continue
                names.append(entry.name)
    except PermissionError:
        return
    if above and own and is_own_output(os.fspath(folder), own):
        return
    names.sort()
    for name in names:
        path = os.path.join(folder, name)
        if name in folders:
            yield from list_files(path, suffixes, (*above, real))
        else:
            yield path


def find_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """The files of :func:`list_files`, by relative path without suffix.

    Raises:
        UserError: two files differ only in their suffix, so a mask would belong to both.
    """
    found: dict[str, Path] = {}
    for path in map(Path, list_files(folder, suffixes)):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(
                f"{found[stem]} and {path.name} share one stem, and so one mask: remove one of them, or, if one is the "
                "other's mask, move the masks into a folder of their own."
            )
        found[stem] = path
    return dict(sorted(found.items()))


def image_frame(path: str | Path) -> Frame:
    """Stored size and orientation of an image, from its header.

    Raises:
        UserError: the file is missing or not an image.
    """
    try:
        return file_frame(path)
    except UserError:
        if str(path).lower().endswith(TIFF_SUFFIXES) and has_rasterio():  # for bands that Pillow cannot decode
            return Frame(tiff_size(str(path)), None)
        raise


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image after rotation. Errors are those of :func:`image_frame`."""
    height, width = turned_size(*image_frame(path))
    return height, width


# ---------------------------------------------------------------------------- lists of names


def write_list(path: Path, names: Iterable[str]) -> str:
    """Write names, one per line, below a line with their hash. Returns the hash."""
    names = list(names)
    digest = names_hash(names)
    write_text(path, "\n".join([HASH_MARK + digest, *names]) + "\n")
    return digest


def read_list(path: Path, key: str) -> Iterator[str]:
    """The names in a list file, one by one. Empty lines and lines that begin with # are skipped.

    Raises:
        UserError: the file is missing or empty; or (after the last name) the names do not match the hash in it.
    """
    expected, digest = None, hashlib.sha256()
    count = 0
    try:
        with open(path, encoding=text_encoding(path)) as file:
            for line in map(str.strip, file):
                if line.startswith(HASH_MARK) and expected is None:
                    expected = line.removeprefix(HASH_MARK)
                elif line and not line.startswith("#"):
                    digest.update(_bytes_of(line))
                    count += 1
                    yield line
    except FileNotFoundError as error:
        raise UserError(f"{key}: the list {path} cannot be read ({error.strerror}){or_similar(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        if path.is_dir():
            raise UserError(f"{key}: {path} is a folder, but a list is a text file with one name a line.") from None
        if isinstance(error, OSError):
            raise UserError(f"{key}: the list {path} cannot be read ({error.strerror}).") from None
        raise UserError(f"{key}: {path} is not text, but a list is a text file with one name a line.") from None
    if not count:
        raise UserError(f"{key}: the list {path} names no image: write one per line.")
    if expected not in (None, digest.hexdigest()):
        raise UserError(
            f"{key}: the names in {path} were changed after it was drawn: restore it, or delete its line that begins "
            "with '# sha256' if the change is intended."
        )


def names_hash(names: Iterable[str]) -> str:
    """sha256 (hexadecimal) of the names, each followed by a line feed."""
    return hashlib.sha256(b"".join(map(_bytes_of, names))).hexdigest()


def _bytes_of(name: str) -> bytes:
    """A line of a list; of a file's name that is no UTF-8 the bytes that it has on the disk."""
    return f"{name}\n".encode("utf-8", "surrogateescape")


def choose_names(names: Iterable[str], stems: Iterable[str], path: Path, key: str) -> list[str]:
    """The stems of the lines in a list: a line is a relative path with or without suffix, or the bare stem if unique.
    Capitals, and zeros in front of numbers, may differ where only one image fits.

    Raises:
        UserError: a line matches no image, or several.
    """
    stems = list(stems)
    known = set(stems)
    by_base: dict[str, list[str]] = {}
    for stem in stems:
        by_base.setdefault(_base(stem), []).append(stem)
    image_names = ImageNames(stems)
    chosen = []
    for name in names:
        stem = name.replace("\\", "/")
        if Path(stem).suffix.lower() in IMAGE_SUFFIXES:
            stem = stem[: -len(Path(stem).suffix)]
        candidates = [stem] if stem in known else by_base.get(_base(stem), [])
        if not candidates:
            candidates = [found for found in (image_names.find(stem) or image_names.by_number(stem),) if found]
        if len(candidates) != 1:
            close = difflib.get_close_matches(stem, stems, n=1)
            hint = f"; did you mean {close[0]}?" if close and not candidates else ""
            problem = "fits several images" if candidates else "is not an image with a mask"
            raise UserError(f"{key}: '{name}' in {path} {problem}{hint or '.'}")
        chosen.append(candidates[0])
    return list(dict.fromkeys(chosen))


def _base(stem: str) -> str:
    return stem.rsplit("/", 1)[-1]
