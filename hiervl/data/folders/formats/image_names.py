"""Find the image that an annotation file means, for paths written by any tool and system."""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from urllib.parse import parse_qs, unquote, urlsplit

from hiervl.data.loading.file_types import TYPES
from hiervl.utils.files import NO_UTF8

UPLOAD_MARK = re.compile(r"[0-9a-f]{4,32}-(?=.)")  # Label Studio's prefix for the name of an uploaded file
DRIVE = re.compile(r"[A-Za-z]:/")
ZEROS = re.compile(r"(?<![0-9])(?<![0-9]\.)0+(?=[0-9])")  # in front of a number, but not after a decimal point


class ImageNames:
    """The images of a folder, found by the paths in annotation files."""

    def __init__(self, stems: Iterable[str]):
        """stems: relative paths without suffix, with /."""
        self.stems = set(stems)
        bases = Counter(map(base_name, self.stems))
        self.unique = {base_name(stem): stem for stem in self.stems if bases[base_name(stem)] == 1}
        folded = Counter(map(folded_name, self.unique))
        self.folded = {folded_name(base): stem for base, stem in self.unique.items() if folded[folded_name(base)] == 1}
        numbers = Counter(without_zeros(folded_name(base_name(stem))) for stem in self.stems)
        self._numbered = {
            number: stem for stem in self.stems if numbers[number := without_zeros(folded_name(base_name(stem)))] == 1
        }

    def find(self, written: str) -> str | None:
        """The stem of the image; None if there is none, or several.

        Windows paths, absolute paths, URLs (``file://``, ``s3://``, ``/data/local-files/?d=``), URL-encoded names and
        the prefix of files uploaded to Label Studio are understood. The longest end of the path that matches an image
        counts, then the name alone if it is unique.
        """
        for path in dict.fromkeys((self.clean(written), self.clean(unquote(written)))):
            parts = path.split("/")
            for start in range(len(parts)):
                if "/".join(parts[start:]) in self.stems:
                    return "/".join(parts[start:])
            base = parts[-1]
            for name in (base, UPLOAD_MARK.sub("", base, count=1) if UPLOAD_MARK.match(base) else base):
                found = self.unique.get(name) or self.folded.get(folded_name(name))
                if found is not None:
                    return found
        return None

    def find_for_file(self, written: str) -> str | None:
        """The stem of the image of an annotation file at this path: as in :meth:`find`, or the only image of its name
        in the nearest folder above that has some, as ``a/images/7`` for ``a/labels/7``."""
        found = self.find(written)
        if found is not None:
            return found
        *folders, base = self.clean(written).split("/")
        for end in range(len(folders) - 1, 0, -1):
            above = "/".join(folders[:end]) + "/"
            near = [stem for stem in self._by_base.get(base, ()) if stem.startswith(above)]
            if near:
                return near[0] if len(near) == 1 else None
        return None

    @functools.cached_property
    def _by_base(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for stem in self.stems:
            found.setdefault(base_name(stem), []).append(stem)
        return found

    def by_number(self, written: str) -> str | None:
        """The only image whose name, without folders, differs at most in capitals and in the zeros in front of
        numbers."""
        return self._numbered.get(without_zeros(folded_name(base_name(self.clean(written)))))

    @staticmethod
    def clean(written: str) -> str:
        """The path with /, without drive or URL prefix, and without an image suffix."""
        path = written.replace("\\", "/")
        if "://" in path:
            parts = urlsplit(path)
            path = parts.path if parts.scheme != "file" else parts.path.lstrip("/")
        if "?d=" in written:
            path = parse_qs(urlsplit(written).query).get("d", [path])[0].replace("\\", "/")
        path = DRIVE.sub("", path, count=1) if DRIVE.match(path) else path
        path = os.path.normpath(path).lstrip("/") if path else path
        stem, suffix = os.path.splitext(path)
        return stem if suffix.lower() in TYPES else path


def folded_name(name: str) -> str:
    """The same for names that differ in capitals, in how accents are encoded (macOS takes them apart), or in whether
    the file system's names are UTF-8 or Latin-1."""
    latin = NO_UTF8.sub(lambda found: chr(ord(found[0]) - 0xDC00), name)
    return unicodedata.normalize("NFC", latin).casefold()


def without_zeros(name: str) -> str:
    """The same for names that differ in the zeros in front of their numbers, such as img_7 and img_0007."""
    return ZEROS.sub("", name)


def base_name(stem: str) -> str:
    """The name of a file without its folders."""
    return stem.rsplit("/", 1)[-1]
