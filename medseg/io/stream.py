"""The bytes of a plain or gzip file: read in order, in blocks, and to the end.

A compressed file is told by its first bytes, not by its name. Its checksums are verified only by
reading on to its end, so `finish` belongs to every reading of voxels.
"""

import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np

from medseg.fault import InputFault

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = 31
# Deflate packs at most 1032 bytes into one; a header that wants more than that lies.
LARGEST_RATIO = 1032
PACKED_BLOCK = 1 << 16
BLOCK = 1 << 20
LARGEST_TAIL = 1 << 20
FAST = 1


@runtime_checkable
class Source(Protocol):
    """Something that gives at most `most` of the next bytes, and none at its end."""

    def read(self, most: int, /) -> bytes:
        """At most `most` bytes."""
        ...


class Stream:
    """A file open for reading from its start; `path` stands in every message."""

    def __init__(self, path: Path, source: Source, *, size: int, packed: bool) -> None:
        self.path = path
        self._source = source
        self._size = size
        self._packed = packed
        self._peeked = b""
        self._place = 0

    def peek(self, count: int) -> bytes:
        """The first `count` bytes, or as many as there are; they will be read again."""
        assert self._place == 0
        while len(self._peeked) < count and (block := self._read(count - len(self._peeked))):
            self._peeked += block
        return self._peeked[:count]

    def refuse_size(self, size: int) -> None:
        """Refuse a file that cannot hold `size` bytes, before anything is allocated.

        Raises:
            InputFault: E_TRUNC for a plain file, E_TOOBIG for a compressed one.
        """
        at_most = self._size * LARGEST_RATIO if self._packed else self._size
        if size > at_most:
            raise InputFault(
                f"{self.path}: its header asks for {size} bytes and the file can hold {at_most} "
                "at most; it was cut short, or its header is damaged. Copy it again.",
                code="E_TOOBIG" if self._packed else "E_TRUNC",
            )

    def skip_to(self, place: int) -> None:
        """Pass over the bytes before `place`."""
        while self._place < place:
            self._take(min(BLOCK, place - self._place))

    def fill(self, array: np.ndarray) -> None:
        """Read the next bytes into `array`, contiguous and of type uint8.

        Raises:
            InputFault: the file ends too early (E_TRUNC) or is damaged (E_GZIP).
        """
        have = 0
        while have < array.size:
            block = self._take(min(BLOCK, array.size - have))
            array[have : have + len(block)] = np.frombuffer(block, np.uint8)
            have += len(block)

    def finish(self) -> None:
        """Read a compressed file on to its end, which verifies its checksums.

        Raises:
            InputFault: it is damaged (E_GZIP), or goes on and on (E_BOMB).
        """
        tail = 0
        while self._packed and (block := self._read(BLOCK)):
            tail += len(block)
            if tail > LARGEST_TAIL:
                raise InputFault(
                    f"{self.path}: more than {LARGEST_TAIL} bytes follow the voxels; the header "
                    "does not describe this file. Export it again.",
                    code="E_BOMB",
                )

    def _take(self, most: int) -> bytes:
        if self._peeked:
            block, self._peeked = self._peeked[:most], self._peeked[most:]
        else:
            block = self._read(most)
        if not block:
            raise InputFault(
                f"{self.path}: it ends after {self._place} bytes, before its last voxel; it was "
                "cut short. Copy it again.",
                code="E_TRUNC",
            )
        self._place += len(block)
        return block

    def _read(self, most: int) -> bytes:
        try:
            return self._source.read(most)
        except (EOFError, zlib.error) as error:
            raise InputFault(
                f"{self.path}: the compressed data are damaged ({error}); copy it again.",
                code="E_GZIP",
            ) from error


class GzipMembers:
    """The bytes of all gzip members of a file; what follows the last one is passed over.

    `read` raises zlib.error where data or a checksum are wrong and EOFError where they end early.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._inflating = zlib.decompressobj(GZIP_WINDOW)
        self._packed = b""
        self._ended = False
        self.has_tail = False

    def read(self, most: int, /) -> bytes:
        """At most `most` of the next bytes."""
        while not self._ended:
            self._packed = self._packed or self._raw.read(PACKED_BLOCK)
            cut = not self._packed
            block = self._inflating.decompress(self._packed, most)
            self._packed = self._inflating.unconsumed_tail
            if self._inflating.eof:
                self._open_next_member()
            elif cut and not block:
                raise EOFError("they end too early")
            if block:
                return block
        return b""

    def _open_next_member(self) -> None:
        rest = self._inflating.unused_data
        if len(rest) < len(GZIP_MAGIC):
            rest += self._raw.read(PACKED_BLOCK)
        self._ended = not rest.startswith(GZIP_MAGIC)
        self.has_tail = self._ended and bool(rest)
        if not self._ended:
            self._inflating = zlib.decompressobj(GZIP_WINDOW)
            self._packed = rest


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """Open a regular file, plain or gzip.

    Raises:
        InputFault: it does not exist, is no regular file, or may not be read (E_NOTFILE), or
            is empty (E_TRUNC).
    """
    size = _size_of_file(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            yield Stream(path, GzipMembers(raw) if packed else raw, size=size, packed=packed)
    except OSError as error:
        raise _unreadable(path, error) from error


class Sink:
    """A file that is written in blocks, packed or plain; it keeps the CRC-32 of what it got.

    Packed bytes are the same each time: there is no name and no date within.
    """

    def __init__(self, target: BinaryIO, *, packed: bool, strategy: int) -> None:
        self.crc32 = 0
        self._target = target
        self._deflating = (
            zlib.compressobj(FAST, zlib.DEFLATED, GZIP_WINDOW, 9, strategy) if packed else None
        )

    def write(self, block: bytes) -> None:
        """Append `block`."""
        self.crc32 = zlib.crc32(block, self.crc32)
        self._target.write(self._deflating.compress(block) if self._deflating else block)

    def finish(self) -> None:
        """Write what is still held back."""
        if self._deflating:
            self._target.write(self._deflating.flush())


def crc32_of(path: Path) -> int:
    """The CRC-32 of all (unpacked) bytes of a file, its own checksums verified on the way."""
    crc32 = 0
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        source: Source = GzipMembers(raw) if packed else raw
        while block := source.read(BLOCK):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def _size_of_file(path: Path) -> int:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputFault(f"{path}: there is no such file; check the path.", code="E_NOTFILE") from (
            error
        )
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputFault(f"{path}: it is no regular file; name a NIfTI file.", code="E_NOTFILE")
    if status.st_size == 0:
        raise InputFault(f"{path}: it is empty; copy it again.", code="E_TRUNC")
    return status.st_size


def _unreadable(path: Path, error: OSError) -> InputFault:
    return InputFault(
        f"{path}: it cannot be read ({error.strerror or error}); check its rights and the disk.",
        code="E_NOTFILE",
    )
