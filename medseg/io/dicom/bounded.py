"""A file that gives no more bytes than it has, whatever length a header claims."""

from typing import BinaryIO

from medseg.fault import InputFault


class Bounded:
    """Reads of any announced length, cut to what is there before memory is asked for."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self.size = size
        self.name = source.name

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes, fewer only at the end of the file.

        Raises:
            InputFault: all that is left is asked for (E_SYNTAX). pydicom does so for one thing
                alone: to inflate a deflated file, of whatever size that becomes.
        """
        if count < 0:
            raise InputFault(
                "it is deflated as a whole (transfer syntax 1.2.840.10008.1.2.1.99); store it "
                "uncompressed first, for example with dcmconv.",
                code="E_SYNTAX",
            )
        left = max(0, self.size - self._source.tell())
        return self._source.read(min(count, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as a file does."""
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._source.tell()

    def close(self) -> None:
        """Leave the file open: who opened it closes it."""
