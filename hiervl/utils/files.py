"""Writing files so that a reader never sees half of one."""

import os
from pathlib import Path

TEMPORARY = ".tmp"


def write_whole(path: Path, write) -> None:
    """Write beside the file, flush to the disk, then rename: a reader never sees half a file.

    Raises:
        OSError: whatever kept it from being written; nothing is left behind.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # PyTorch's, when its writer could not write
            raise OSError(getattr(error, "errno", None), str(error)) from error
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """The new name reaches the disk, too. Some network drives do not offer it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        pass
