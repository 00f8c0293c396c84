"""Claims: of several runs on one output folder, one does each case.

A claim is a lock (flock) on a small file. The system ends it with the process, however that ends,
so there is nothing stale to be judged by its age. A file that stays behind tells the next run by
its content whether outputs of the case may be half made. Where the file system knows no locks each
run does every case, which is told.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from medseg.fault import InputFault

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
FULL = (errno.ENOSPC, errno.EDQUOT)
RUNNING = ".running"
# What a claim's file holds while outputs are written; empty before.
WRITING = b"writing\n"


@dataclass(frozen=True)
class Claim:
    """A case held by this process; `was_left`: an earlier holder was lost while it wrote."""

    path: Path
    handle: int
    was_left: bool

    def begin_writing(self) -> None:
        """Note that outputs are being made: a process lost from now on leaves them half done."""
        os.pwrite(self.handle, WRITING, 0)

    def release(self, *, finished: bool) -> None:
        """Let the case go. What was begun and is not `finished` stays noted."""
        try:
            if finished or not _was_writing(self.handle):
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self.handle)


@contextmanager
def alone_in(folder: Path, work: str) -> Iterator[None]:
    """Keep a second process from doing the same `work` in `folder` at the same time.

    Raises:
        InputFault: one is at it (E_RUN), or the folder cannot be written (E_DISKFULL, E_WRITE).
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    held = claim(folder / RUNNING)
    if held is None:
        raise InputFault(
            f"{folder}: another process is doing this {work} now; wait for its end, or choose "
            "another folder.",
            code="E_RUN",
        )
    try:
        yield
    finally:
        held.release(finished=True)
        # Work that was refused before it began leaves no folder behind.
        with suppress(OSError):
            for path in missing:
                path.rmdir()


def claim(path: Path) -> Claim | None:
    """The claim whose file is `path`; None where another process holds it.

    Raises:
        InputFault: the file cannot be made (E_DISKFULL, E_WRITE).
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(path, error) from error
        if not _locked(handle, path):
            os.close(handle)
            return None
        if _is_still(handle, path):
            return Claim(path, handle, _was_writing(handle))
        # Its holder finished between our opening and locking, and took the name away.
        os.close(handle)


def _locked(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise _unwritable(path, error) from error
        log.warning("%s: no locks here, so another run would do the same cases.", path.parent)
    return True


def _was_writing(handle: int) -> bool:
    return os.fstat(handle).st_size > 0


def _is_still(handle: int, path: Path) -> bool:
    """Whether the open file still has its name: a removed one protects nothing."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _unwritable(path: Path, error: OSError) -> InputFault:
    if error.errno in FULL:
        return InputFault(
            f"{path}: the disk is full; free some space and run the command again.",
            code="E_DISKFULL",
        )
    return InputFault(
        f"{path}: cannot be written ({error.strerror or error}); check the folder, or choose "
        "another.",
        code="E_WRITE",
    )
