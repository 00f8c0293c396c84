"""Memory that a network frees and soon wants again stays with the process."""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# Names and values of <malloc.h>, and the values that glibc begins with.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER, _NONE = -1, 0
_USUAL_THRESHOLD, _USUAL_MOST = 128 << 10, 65536

_lock = threading.Lock()
_holders = 0


def prepare() -> None:
    """Give this process and its children one heap for all threads, and torch's blocks large pages.

    To be called before torch is loaded and threads are there. glibc gives each thread a heap of its
    own, of small blocks, and asks the system for others: the first one's alone can keep large
    blocks. A user's number of heaps is their most, and one is never more than that; where there is
    no glibc, nothing changes.
    """
    environment = os.environ  # noqa: TID251  # torch and glibc read it, not medseg
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    environment["MALLOC_ARENA_MAX"] = "1"
    library = _glibc()
    if library is not None:
        library.mallopt(_ARENA_MAX, 1)


@contextmanager
def reused_memory() -> Iterator[None]:
    """While it lasts, blocks of memory that are freed wait in the process for their next use.

    glibc returns a large block to the system as soon as it is freed. The next one comes as pages
    that the system has to clear, with a fault for each: half of the time of Swin UNETR's training
    at 96^3 voxels on the CPU it was measured on, and two fifths of its prediction. The price is
    that the process keeps the most that it ever held, until the last end of those that are open
    gives all of it back. Where there is no glibc, nothing changes.
    """
    library = _glibc()
    if library is None:
        log.debug("freed memory goes back to the system: the C library has no mallopt")
        yield
        return
    _hold(library, 1)
    try:
        yield
    finally:
        _hold(library, -1)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where its memory can be told what to do."""
    library = None if sys.platform == "win32" else ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None


def _hold(library: ctypes.CDLL, more: int) -> None:
    global _holders  # noqa: PLW0603  # the C library's settings are the process's
    with _lock:
        _holders += more
        if more > 0 and _holders == 1:
            library.mallopt(_MMAP_MAX, _NONE)
            library.mallopt(_TRIM_THRESHOLD, _NEVER)
        elif _holders == 0:
            library.mallopt(_MMAP_MAX, _USUAL_MOST)
            library.mallopt(_TRIM_THRESHOLD, _USUAL_THRESHOLD)
            library.malloc_trim(0)
