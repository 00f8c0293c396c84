"""The bytes of a plain or gzip file, read to the end and never beyond what the header needs."""

import gzip
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medseg.fault import InputFault

GZIP_MAGIC = b"\x1f\x8b"
# Deflate packs at most 1032 bytes into one; a header that wants more than that lies.
LARGEST_RATIO = 1032
BLOCK = 1 << 24
TRAILING = 1 << 20
FAST = 1


class Stream:
    """A file open for reading from its start; `path` stands in every message."""

    def __init__(self, path: Path, source: BinaryIO, *, size: int, packed: bool) -> None:
        self.path = path
        self._source = source
        self._size = size
        self._packed = packed
        self._start = b""

    def peek(self, count: int) -> bytes:
        """The first `count` bytes, or as many as there are."""
        if not self._start:
            self._start = self._read(count)
        return self._start[:count]

    def refuse_size(self, size: int) -> None:
        """Refuse a file that cannot hold `size` bytes, before anything is allocated."""
        at_most = self._size * LARGEST_RATIO if self._packed else self._size
        if size > at_most:
            raise InputFault(
                f"{self.path}: its header asks for {size} bytes and the file can hold "
                f"{at_most} at most; it was cut short or damaged. Copy it again.",
                code="E_TRUNC",
            )

    def rest(self, offset: int, end: int) -> bytes:
        """The bytes from `offset` to `end`; reads on to the end of the file to verify it."""
        parts = [self._start]
        have = len(self._start)
        while have < end:
            block = self._read(min(BLOCK, end - have))
            if not block:
                raise InputFault(
                    f"{self.path}: it ends after {have} of {end} bytes; it was cut short. "
                    "Copy it again.",
                    code="E_TRUNC",
                )
            parts.append(block)
            have += len(block)
        self._finish()
        return b"".join(parts)[offset:end]

    def _finish(self) -> None:
        beyond = 0
        while self._packed and beyond <= TRAILING:
            block = self._read(TRAILING)
            if not block:
                return
            beyond += len(block)
        if beyond > TRAILING:
            raise InputFault(
                f"{self.path}: more than {TRAILING} bytes follow the voxels; the header does "
                "not describe this file. Export it again.",
                code="E_TOOBIG",
            )

    def _read(self, count: int) -> bytes:
        try:
            return self._source.read(count)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputFault(
                f"{self.path}: the compressed data are damaged ({error}); copy it again.",
                code="E_GZIP",
            ) from error


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """Open a regular file, plain or gzip (told by its first bytes, not its name).

    Raises:
        InputFault: it does not exist, is no regular file (E_NOTFILE), or is empty (E_TRUNC).
    """
    size = _size_of_file(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if not packed:
                yield Stream(path, raw, size=size, packed=False)
                return
            with gzip.GzipFile(fileobj=raw) as source:
                yield Stream(path, source, size=size, packed=True)  # type: ignore[arg-type]
    except PermissionError as error:
        raise InputFault(
            f"{path}: reading it is not permitted; check its rights.", code="E_NOTFILE"
        ) from error


def deflated(data: bytes) -> bytes:
    """`data` as gzip, the same bytes each time: no name and no date within."""
    return gzip.compress(data, compresslevel=FAST, mtime=0)


def _size_of_file(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise InputFault(
            f"{path}: there is no such file ({error.strerror}); check the path.", code="E_NOTFILE"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputFault(f"{path}: it is no regular file; name a NIfTI file.", code="E_NOTFILE")
    if status.st_size == 0:
        raise InputFault(f"{path}: it is empty; copy it again.", code="E_TRUNC")
    return status.st_size
