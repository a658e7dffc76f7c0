"""Tell by its first bytes that a file is not what was wanted, because its contents never arrived."""

from pathlib import Path
from typing import NamedTuple

from hiervl.utils.errors import UserError

HEAD = 512  # how many bytes are read
NOT_READABLE = (
    "damaged, of another model or program, or carries code, which is not run"  # what a file of weights may be
)


class FileType(NamedTuple):
    """A type of file.

    Attributes:
        name: of one such file, with an article: "a ZIP archive".
        advice: what to do with such files, as the end of a sentence.
    """

    name: str
    advice: str


EMPTY = FileType("an empty file", "copy or download it again")
LFS_POINTER = FileType("a Git LFS pointer", "fetch the contents by `git lfs pull`")
WEB_PAGE = FileType("an HTML page", "download the file again: the server answered with a page")


def placeholder(head: bytes) -> FileType | None:
    """What came in place of a file that begins with ``head``, if its contents never arrived."""
    if not head:
        return EMPTY
    if head.startswith(b"version https://git-lfs"):
        return LFS_POINTER
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:16].lower()
    return WEB_PAGE if start.startswith((b"<!doctype html", b"<html")) else None


def refuse_placeholder(path: str | Path, wanted: str, key: str = "") -> None:
    """
    Args:
        wanted: what the file should be: "a checkpoint"; key: the config key that names it, if one does.

    Raises:
        UserError: something else came in its place.
    """
    with open(path, "rb") as file:
        found = placeholder(file.read(HEAD))
    if found is not None:
        where = f"{key}: " if key else ""
        raise UserError(f"{where}'{path}' is {found.name}, not {wanted}: {found.advice}.")
