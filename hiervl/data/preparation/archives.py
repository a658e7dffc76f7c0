"""Download, check and unpack the archives of a dataset's publishers."""

import functools
import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from hiervl.data.preparation.script import CHUNK, Progress, missing_contents, say
from hiervl.utils.errors import UserError
from hiervl.utils.files import whole_file

TIMEOUT = 60  # seconds without a byte
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
# zipfile raises the last one for an unknown compression.
BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Archive:
    """An archive from the dataset's publishers.

    Attributes:
        name: of the file.
        url: its address; empty if a login is needed.
        md5: of the file.
        gigabytes: approximate size of the archive and of its contents.
        contents: glob pattern → least number of files in the dataset's folder after unpacking.
        by_hand: how to get it without a ``url``, as the end of a sentence.
    """

    name: str
    url: str
    md5: str
    gigabytes: float
    contents: dict[str, int] = field(default_factory=dict)
    by_hand: str = ""


def fetch_and_unpack(
    archive: Archive, folder: Path, place: Callable[[str], str | None], source: Path | None, keep: bool
) -> None:
    """Unpack an archive's contents into ``folder``, unless they are there.

    Args:
        place: as in :func:`unpack`.
        source: folder that holds the archive; None: it is downloaded into ``folder``.
        keep: do not delete a downloaded archive. Archives in ``source`` always stay.

    Raises:
        UserError: it cannot be downloaded, is damaged, or has the wrong content.
    """
    if archive.contents and not missing_contents(folder, archive.contents):
        say(f"{archive.name}: its files are there")
        return
    path = obtain(archive, folder, source)
    unpack(path, folder, place)
    missing = missing_contents(folder, archive.contents)
    if missing:
        raise UserError(f"{archive.name} is unpacked, but {missing}: empty that folder and run the script again.")
    if source is None and not keep:
        path.unlink()


# ---------------------------------------------------------------------------- fetching


def obtain(archive: Archive, folder: Path, source: Path | None) -> Path:
    """The archive's file with the right checksum: from ``source``, or downloaded into ``folder``."""
    path = (folder if source is None else source) / archive.name
    if not path.is_file():
        if source is not None:
            raise UserError(f"{path} does not exist: --source names the folder that holds {archive.name}.")
        if not archive.url:
            raise UserError(f"{path} does not exist: {archive.by_hand}")
        _check_space(folder, archive)
        download(archive.url, path, f"download it elsewhere and name its folder with --source (MD5 {archive.md5})")
    found = md5_of(path)
    if found != archive.md5:
        if source is None and archive.url:
            path.unlink()
        raise UserError(f"{path} is damaged: its MD5 is {found} instead of {archive.md5}; fetch it again.")
    return path


def _check_space(folder: Path, archive: Archive) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder).free / 1e9, 2 * archive.gigabytes
    if free < needed:
        raise UserError(
            f"{folder} has {free:.1f} GB left, but {archive.name} and its contents need {needed:.1f} GB: "
            "free some space, or name another disk with --root."
        )


def download(url: str, target: Path, otherwise: str) -> None:
    """Download ``url``, and continue an interrupted download.

    Args:
        otherwise: what the user can do without a network, as the end of a sentence.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "HierVL"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            total = _receive(response, partial, start)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise UserError(f"{url} answered {error.code} {error.reason}: {otherwise}.") from None
        total = start  # nothing left to send: the file was complete
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be downloaded ({reason}): run it again to continue, or {otherwise}.") from None
    size = partial.stat().st_size
    if total and size != total:
        raise UserError(f"the download of {url} stopped at {size} of {total} bytes: run it again to continue.")
    partial.replace(target)


def _receive(response, partial: Path, start: int) -> int:
    """Append the answer to ``partial``, or start again if the server sends everything → total bytes, 0 if unknown."""
    if getattr(response, "status", None) != PARTIAL_CONTENT:
        start = 0
    length = int(response.headers.get("Content-Length") or 0)
    total = start + length if length else 0
    name = partial.name[: -len(".part")]
    with open(partial, "ab" if start else "wb") as file, Progress(f"fetching {name}", total / 1e6, " MB") as progress:
        done = start
        for chunk in iter(lambda: response.read(CHUNK), b""):
            file.write(chunk)
            done += len(chunk)
            progress.show(done / 1e6)
    return total


def md5_of(path: Path) -> str:
    """MD5 of a file in hexadecimal. A line shows the progress."""
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with open(path, "rb") as file, Progress(f"checking {path.name}", size / 1e6, " MB") as progress:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
            progress.show(file.tell() / 1e6)
    return digest.hexdigest()


# ---------------------------------------------------------------------------- unpacking


def unpack(path: Path, folder: Path, place: Callable[[str], str | None]) -> None:
    """Write the members of a zip or tar archive into ``folder``, except those that are there in full size.

    Args:
        place: function from a member's name to its path below ``folder``; None: leave it out.

    Raises:
        UserError: the archive is damaged, or would write outside of ``folder``.
    """
    present: dict[Path, dict[str, int]] = {}
    try:
        with Progress(f"unpacking {path.name}", unit=" files") as progress:
            for done, (name, size, is_file, reader) in enumerate(_members(path), start=1):
                relative = place(str(PurePosixPath(name)))  # some begin with ./
                if relative is None:
                    continue
                target = _inside(folder, relative, name, path, is_file)
                if _sizes(target.parent, present).get(target.name) != size:
                    with reader() as content, whole_file(target) as temporary, open(temporary, "wb") as file:
                        shutil.copyfileobj(content, file, CHUNK)
                progress.show(done)
    except BROKEN_ARCHIVE as error:
        raise UserError(f"{path} is damaged ({error}): remove it and fetch it again.") from None


Member = tuple[str, int, bool, Callable[[], IO[bytes]]]  # name, bytes, is a plain file, opens it


def _members(path: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    is_link = stat.S_ISLNK(entry.external_attr >> 16)
                    yield entry.filename, entry.file_size, not is_link, functools.partial(archive.open, entry)
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isdir():
                yield member.name, member.size, member.isfile(), functools.partial(_extracted, tar, member)


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """The content of a plain file. Other members are refused before."""
    content = tar.extractfile(member)
    assert content is not None
    return content


def _inside(folder: Path, relative: str, name: str, path: Path, is_file: bool) -> Path:
    """The path of a member. Only plain paths below ``folder`` are accepted, because links could lead outside later."""
    parts = PurePosixPath(relative).parts
    if not is_file or not parts or parts[0] == "/" or ".." in parts or "\\" in relative or ":" in relative:
        raise UserError(
            f"{path} holds {name!r}, which is not a plain file below {folder}: this is not the official archive."
        )
    return folder.joinpath(*parts)


def _sizes(folder: Path, present: dict[Path, dict[str, int]]) -> dict[str, int]:
    """File sizes by name. Every folder is listed once, and created if needed."""
    if folder not in present:
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            present[folder] = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    return present[folder]
