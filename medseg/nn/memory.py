"""Memory that a network frees and soon wants again stays with the process."""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# Names and values of <malloc.h>, and the values that glibc begins with.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER, _NONE = -1, 0
_USUAL_THRESHOLD, _USUAL_MOST = 128 << 10, 65536


@contextmanager
def reused_memory() -> Iterator[None]:
    """While it lasts, blocks of memory that are freed wait in the process for their next use.

    glibc returns a large block to the system as soon as it is freed. The next one comes as pages
    that the system has to clear, with a fault for each: half of the time of Swin UNETR's training
    at 96^3 voxels on the CPU it was measured on. The price is that the process keeps the most that
    it ever held, until the end gives all of it back. Where there is no glibc, nothing changes.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        log.debug("freed memory goes back to the system: the C library has no mallopt")
        yield
        return
    library.mallopt(_MMAP_MAX, _NONE)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _USUAL_MOST)
        library.mallopt(_TRIM_THRESHOLD, _USUAL_THRESHOLD)
        library.malloc_trim(0)
