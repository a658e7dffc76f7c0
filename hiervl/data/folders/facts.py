"""A store of facts about files, so that each file is read once. It lies beside the converted masks; keys are path, time
and size."""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from hiervl.data.folders.masks import INDEX, RIMS, RawMask, has_rims
from hiervl.utils.errors import UserError
from hiervl.utils.parallel import map_files, usable_cores

FILE_NAME = "facts.sqlite"
VERSION = 3  # raise it if other facts are kept, or are found in another way
MOST_CODES = 4096  # most codes of a stored mask; more codes cannot be classes
SECONDS_FOR_OTHERS = 10.0  # seconds to wait for a lock of another process


@dataclass(frozen=True)
class MaskFacts:
    """A :class:`RawMask` without its pixels, with the same attributes.

    Attributes:
        shape: height and width.
        code_counts: pixels of each code.
    """

    form: str
    shape: tuple[int, int]
    code_counts: Mapping[int, int]
    palette: Mapping[int, tuple[int, int, int]] | None = None
    unknown_names: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: RawMask) -> "MaskFacts":
        height, width = raw.codes.shape
        counts, remarks = raw.counts(), dict(raw.remarks)
        if raw.form == INDEX and len(counts) > 2 and has_rims(raw.codes):
            remarks[RIMS] = 1
        return cls(raw.form, (height, width), counts, raw.palette, dict(raw.unknown_names), remarks)

    def counts(self) -> Mapping[int, int]:
        return self.code_counts

    def to_json(self) -> str:
        return json.dumps([
            self.form, self.shape, list(self.code_counts.items()),
            None if self.palette is None else list(self.palette.items()), self.unknown_names, self.remarks,
        ])  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> "MaskFacts":
        form, shape, counts, palette, unknown, remarks = json.loads(text)
        colors = None if palette is None else {index: tuple(color) for index, color in palette}
        return cls(form, tuple(shape), dict(counts), colors, unknown, remarks)


class FactsStore:
    """Short texts by key in an SQLite file. If the file cannot be used, nothing is stored."""

    def __init__(self, folder: Path | None):
        """folder: None: nothing is stored."""
        self.path = None if folder is None else folder / FILE_NAME

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of known keys."""
        found: dict[str, str] = {}
        with self._open() as database:
            if database is not None:
                for start in range(0, len(keys), 500):
                    some = keys[start : start + 500]
                    marks = ",".join("?" * len(some))
                    found.update(database.execute(f"SELECT key, value FROM facts WHERE key IN ({marks})", some))
        return found

    def put(self, facts: Mapping[str, str]) -> None:
        with self._open() as database:
            if database is not None and facts:
                database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
                database.commit()

    @contextlib.contextmanager
    def _open(self):
        database = None
        if self.path is not None:
            with contextlib.suppress(sqlite3.Error, OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self.path, timeout=SECONDS_FOR_OTHERS)
                database.execute("PRAGMA synchronous = OFF")  # what a power failure destroys is read again
                database.execute("PRAGMA journal_mode = MEMORY")
                database.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT)")
        try:
            yield database
        except sqlite3.OperationalError:  # another process has the lock for too long, or the disk is full
            pass
        except sqlite3.DatabaseError:  # cut off by a power failure
            assert self.path is not None  # there was a database
            self.path.unlink(missing_ok=True)
        finally:
            if database is not None:
                database.close()


def key_of(kind: str, stamp: Any) -> str:
    """The key of facts. ``stamp`` changes when their file changes."""
    return hashlib.sha256(repr((kind, VERSION, stamp)).encode()).hexdigest()


def file_stamp(path: str | os.PathLike) -> tuple:
    """Path, time and size of a file. For a missing file, time and size are 0."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.abspath(path), 0, 0
    return os.path.abspath(path), status.st_mtime_ns, status.st_size


def processes() -> int:
    """How many processes read files for each training process on this machine."""
    return max(1, usable_cores() // comm.get_local_size())


def read_mask_facts(samples: Sequence[Any], store: FactsStore) -> list[MaskFacts | UserError]:
    """Facts about the masks of samples, or the error for an unreadable one. Facts that are not stored yet are read in
    several processes."""
    keys = [_mask_key(sample) for sample in samples]
    known = store.get([key for key in keys if key])
    new = [index for index, key in enumerate(keys) if key not in known]
    read = dict(zip(new, map_files(_read_mask, [samples[index] for index in new], "masks", processes())))
    fresh = {
        keys[index]: facts.to_json()
        for index, facts in read.items()
        if keys[index] and isinstance(facts, MaskFacts) and len(facts.code_counts) <= MOST_CODES
    }
    store.put(fresh)
    return [read[index] if index in read else MaskFacts.from_json(known[key]) for index, key in enumerate(keys)]


def _mask_key(sample) -> str:
    try:
        return key_of("mask", sample.masks.stamp(sample.key))
    except OSError:  # the file is missing; reading it reports that
        return ""


def _read_mask(sample) -> MaskFacts | UserError:
    try:
        return MaskFacts.of(sample.masks.raw(sample.key))
    except UserError as error:
        return error
