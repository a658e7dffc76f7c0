"""One training per folder."""

import os
from pathlib import Path
from typing import TextIO

from detectron2.utils import comm

from hiervl.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE_NAME = "run.lock"


class RunLock:
    """Keeps a second training out of a folder, because each would remove the other's checkpoints. A context manager.

    The lock ends with the process in any case; the file stays. Only the main process has it: data workers, which live
    some seconds longer than a killed main process, do not inherit it.
    """

    def __init__(self, folder: str):
        self.path = Path(folder) / FILE_NAME
        self._file: TextIO | None = None

    def __enter__(self) -> "RunLock":
        """
        Raises:
            UserError: another process trains there.
        """
        if fcntl is None or not comm.is_main_process():
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+", encoding="utf-8")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._file.seek(0)
            other = self._file.read().strip() or "unknown"
            self._file.close()
            raise UserError(
                f"another training (process {other}) writes to '{self.path.parent}': wait for its end, or choose "
                "another OUTPUT_DIR."
            ) from None
        except OSError:  # some network drives have no locks
            return self
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()
