"""A file that gives no more bytes than it has, whatever length a header claims."""

from typing import BinaryIO


class Bounded:
    """Reads of any announced length, cut to what is there before memory is asked for."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self.size = size
        self.name = source.name

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes, fewer only at the end of the file."""
        left = max(0, self.size - self._source.tell())
        return self._source.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as a file does."""
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._source.tell()

    def close(self) -> None:
        """Leave the file open: who opened it closes it."""
