"""Text of a patient written wherever a NIfTI file has room for it."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

WORD = b"CANARY"
NAME, IDENTIFIER, UID = b"CANARY^JANE", b"MRN-CANARY-7", b"1.2.840.99999.CANARY.1"
TEXTS = {4: (10, NAME), 14: (18, IDENTIFIER), 148: (80, b" ".join([NAME, IDENTIFIER, UID]))}
TEXTS |= {228: (24, UID), 328: (16, NAME)}
COMMENT, DICOM = 6, 2
VOX_OFFSET = 108


def marked(plain: bytes) -> bytes:
    """A little-endian NIfTI-1 file without extensions, with the texts in fields and extensions."""
    header = bytearray(plain[:348])
    for place, (length, text) in TEXTS.items():
        header[place : place + length] = text[:length].ljust(length, b"\0")
    # An explicit little-endian PatientName, as dcm2niix and Slicer leave it in such an extension.
    dicom = struct.pack("<2H2sH", 0x10, 0x10, b"PN", 12) + NAME + b" "
    blocks = b"".join(_extension(code, text) for code, text in ((COMMENT, UID), (DICOM, dicom)))
    struct.pack_into("<f", header, VOX_OFFSET, 352 + len(blocks))
    return bytes(header) + b"\1\0\0\0" + blocks + plain[352:]


def mark(path: Path) -> None:
    """The same for a packed file on disk."""
    path.write_bytes(gzip.compress(marked(gzip.decompress(path.read_bytes())), 1))


def holders(folder: Path) -> list[Path]:
    """The files below `folder` that hold the word in some spelling, plain, packed or archived."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [
        path
        for path in files
        if WORD in str(path.relative_to(folder)).encode().upper()
        or any(has_word(part) for part in _parts(path.read_bytes()))
    ]


def has_word(data: bytes) -> bool:
    """Whether the word stands in `data`, in one byte a letter or two."""
    upper = data.upper()
    return WORD in upper or WORD.decode().encode("utf-16-le") in upper


def _parts(data: bytes) -> Iterator[bytes]:
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield zlib.decompressobj(31).decompress(data)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)


def _extension(code: int, text: bytes) -> bytes:
    size = (8 + len(text) + 15) // 16 * 16
    return struct.pack("<2i", size, code) + text.ljust(size - 8, b"\0")
