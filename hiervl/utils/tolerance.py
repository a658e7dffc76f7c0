"""Reports may fail to be written; training goes on."""

import contextlib
import logging
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Log that ``what`` could not be written, for example because the disk is full, and go on."""
    try:
        yield
    except OSError as error:
        logger.error("%s could not be written (%s); going on without it.", what, error.strerror or error)
