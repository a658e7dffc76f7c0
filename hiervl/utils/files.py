"""Writing files so that a reader never sees half of one, and reading texts of other programs."""

import codecs
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

TEMPORARY = ".tmp"
CHUNK = 1 << 20  # bytes
NO_UTF8 = re.compile("[\udc80-\udcff]")  # how Python shows the bytes of file names that are no UTF-8


@contextmanager
def whole_file(path: str | Path, *, ending: str = "", durable: bool = False) -> Iterator[Path]:
    """A file that gets its name only when it is complete. Until then the old content stays.

    The block writes to a temporary file beside it, which is renamed when the block ends and removed if the block fails.
    The folder is created. Several processes may write the same file at once; the last one to end wins.

    Args:
        ending: end of the temporary name, such as ".mp4", for libraries that choose the format by it.
        durable: also flush the file to the disk first, so that a power failure leaves the old or the new content.

    Yields:
        the path of the temporary file, which does not exist yet.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}{ending}")
    try:
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(path.parent)


def typed_path(text: str) -> Path:
    """A path as people type or paste it: ``~`` is the home folder. Blanks and quotation marks around it do not count
    where there is nothing of that very name."""
    path = Path(os.path.expanduser(text))
    bare = text.strip().strip("\"'").strip()
    return path if not bare or os.path.lexists(path) else Path(os.path.expanduser(bare))


def text_encoding(path: str | Path) -> str:
    """How a text file is encoded: UTF-16 where its mark says so, as PowerShell writes; UTF-8 where it is that, with a
    mark or without; else Windows-1252, as older programs write.

    Raises:
        OSError: the file cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        chunk = file.read(CHUNK)
        if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def read_text(path: str | Path) -> str:
    """A text that other programs wrote, in any of the encodings of :func:`text_encoding`.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read or is not text.
    """
    return Path(path).read_text(encoding=text_encoding(path))


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text as a :func:`whole_file`; line ends stay as they are, and names of files that are no UTF-8 the
    bytes that they are on the disk."""
    with whole_file(path, durable=durable) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes as a :func:`whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: Any, *, indent: int | None = None) -> None:
    """Write plain values as JSON with a line end, as a :func:`whole_file`."""
    write_text(path, json_text(value, indent) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """Plain values as JSON, which is UTF-8 also where names of files are not: of these every odd byte is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return NO_UTF8.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_png(path: str | Path, picture: Image.Image, **options: Any) -> None:
    """Write a picture as PNG, as a :func:`whole_file`; ``options`` are Pillow's, such as ``compress_level``."""
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG", **options)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Flush the new name to the disk, too. Some network drives cannot do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        pass
