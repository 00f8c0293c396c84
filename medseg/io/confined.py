"""A process that gives up what reading a file from others does not need."""

import ctypes
import os
import resource
from pathlib import Path

NEW_USERS, NEW_NETWORK = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES = 38


def leave_network() -> bool:
    """Give up the network for ever, and with it new rights; whether the system lets us.

    A network namespace of its own has no way out of it (Linux, unshare(2)). Called before any
    thread is started, as the system demands of those who are not root.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "unshare"):
        return False
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    kinds = NEW_NETWORK if os.geteuid() == 0 else NEW_NETWORK | NEW_USERS
    return libc.unshare(kinds) == 0


def limit_memory(more: int) -> None:
    """Let this process take `more` bytes of memory than it has now; then it gets a MemoryError."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + more
        resource.setrlimit(
            resource.RLIMIT_AS,
            (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most),
        )


def limit_time(seconds: int) -> None:
    """Let this process compute for `seconds`; then the system ends it."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
