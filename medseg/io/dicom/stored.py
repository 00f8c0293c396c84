"""How the stored values lie in a file, read without reading them."""

import struct
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.tag import Tag

from medseg.fault import InputFault
from medseg.io.dicom.bounded import Bounded
from medseg.io.dicom.elements import whole

PIXEL_DATA = Tag("PixelData")
UNDEFINED = 0xFFFFFFFF
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
BIG_ENDIAN = "1.2.840.10008.1.2.2"


@dataclass(frozen=True)
class Pixels:
    """How the stored values lie in a file; `length` is None where they are compressed."""

    syntax: str
    offset: int
    length: int | None
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def dtype(self) -> np.dtype:
        """The type of a stored value, in the byte order of the file."""
        order = ">" if self.syntax == BIG_ENDIAN else "<"
        return np.dtype(f"{order}{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


def pixels_of(header: FileDataset, source: Bounded, size: int, count: int) -> Pixels:
    """Where the values of `count` frames of `size` pixels lie, `source` being before them.

    Raises:
        InputFault: there are fewer (E_TRUNC, E_BOMB), or they are of a kind that is not read
            (E_SYNTAX, E_DTYPE, E_DICOM).
    """
    syntax = str(header.file_meta.get("TransferSyntaxUID") or "") or _guessed_syntax(header)
    length, kind = _pixel_length(source, syntax)
    allocated, stored = whole(header, "BitsAllocated"), whole(header, "BitsStored")
    high = header.get("HighBit", stored - 1)
    if allocated not in (8, 16, 32) or stored > allocated or high != stored - 1:
        raise InputFault(
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}: values of 8, 16 or "
            "32 bits that begin at bit 0 are read.",
            code="E_DTYPE",
        )
    if syntax == BIG_ENDIAN and allocated == 8 and kind == b"OW":
        raise InputFault(
            "its values of 8 bits are stored in words of the other byte order; export it in "
            "another transfer syntax.",
            code="E_SYNTAX",
        )
    sign = header.get("PixelRepresentation")
    if sign not in (0, 1):
        raise InputFault(
            f"PixelRepresentation is {sign}; 0 says that its values have no sign, 1 that they do.",
            code="E_DICOM",
        )
    pixels = Pixels(syntax, source.tell(), length, allocated, stored, sign == 1)
    _refuse_length(pixels, size * count * allocated // 8, source.size)
    return pixels


def _guessed_syntax(header: FileDataset) -> str:
    """What pydicom found where a file without meta information does not say it."""
    implicit, little = header.original_encoding
    if implicit:
        return NATIVE[0]
    return NATIVE[1] if little else BIG_ENDIAN


def _pixel_length(source: Bounded, syntax: str) -> tuple[int | None, bytes]:
    """Bytes of the pixels that begin at `source` (left there), None where packed; and their VR."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    start = source.read(8)
    if len(start) < 8 or Tag(struct.unpack(f"{order}HH", start[:4])) != PIXEL_DATA:
        raise InputFault(
            "it ends before its pixels, or holds none of whole numbers; copy it from the archive "
            "again.",
            code="E_TRUNC",
        )
    if syntax == NATIVE[0]:
        length = struct.unpack("<I", start[4:])[0]
    else:
        length = struct.unpack(f"{order}I", source.read(4))[0]
    compressed = length == UNDEFINED
    if compressed == (syntax in NATIVE):
        raise InputFault(
            f"its pixels are {'packed' if compressed else 'plain'}, but its transfer syntax "
            f"({syntax}) says otherwise; export it again.",
            code="E_SYNTAX",
        )
    return (None if compressed else length), start[4:6]


def _refuse_length(pixels: Pixels, needed: int, file_size: int) -> None:
    left = file_size - pixels.offset
    if pixels.length is None:
        # A frame of one value packs to some hundred bytes; beyond this the header lies.
        if needed > 5000 * left:
            raise InputFault(
                f"its header asks for {needed} bytes of pixels out of {left} packed ones; the "
                "header is damaged.",
                code="E_BOMB",
            )
        return
    if not needed <= pixels.length <= needed + needed % 2 or pixels.length > left:
        raise InputFault(
            f"its header asks for {needed} bytes of pixels, it announces {pixels.length} and "
            f"holds {left}; copy it from the archive again.",
            code="E_TRUNC",
        )
