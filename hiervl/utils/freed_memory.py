"""Memory of a process on the CPU."""

import ctypes

# Numbers of glibc's malloc.h, and the largest values that it takes.
M_TRIM_THRESHOLD, LARGEST_INT = -1, 2**31 - 1
M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD = -3, 32 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors.

    By default the C library returns large blocks to the system. Every iteration of a training then gets the same
    memory anew, page by page, which costs about a tenth of its time. The process keeps what it needed at most.

    Returns:
        Whether the C library can do it (glibc, so not on macOS and Windows).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
