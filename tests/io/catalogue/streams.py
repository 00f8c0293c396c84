"""Inputs to refuse for what is wrong with their bytes: cut, damaged, of another kind, no file."""

import bz2
import lzma
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.io.catalogue.case import Case
from tests.io.catalogue.made import IMAGE, PLACE, dim, other, sound
from tests.io.catalogue.packing import member, members, packed_nifti

DATA = packed_nifti(IMAGE, PLACE)
BODY = IMAGE.nbytes
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(400)


def streams() -> list[Case]:
    """The cases, in the order of their codes."""
    return [*_packed(), *_cut(), *_other_kinds(), *_no_files(), *_too_large()]


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit turned."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def _packed() -> list[Case]:
    stored = member(DATA, level=0)
    last = member(DATA[900:], level=0)
    cases = {
        "gzip cut at 60 %": member(DATA)[: len(member(DATA)) * 6 // 10],
        "gzip cut in the last byte of its data": member(DATA)[:-9],
        "gzip without its trailer": member(DATA)[:-8],
        "gzip with half its trailer": member(DATA)[:-4],
        "gzip with a wrong CRC": flipped(member(DATA), -7),
        "gzip with a wrong length": flipped(member(DATA), -2),
        "gzip with a flipped voxel in a stored block": flipped(stored, len(stored) // 2),
        "gzip with a damaged deflate stream": flipped(member(DATA), len(member(DATA)) // 2),
        "gzip of two members, the second damaged": member(DATA[:900]) + flipped(last, -20),
        "gzip of two members, the second cut": member(DATA[:900]) + last[:-30],
        "gzip of an unknown method": b"\x1f\x8b\x07" + member(DATA)[3:],
        "gzip header alone": member(DATA)[:10],
        "gzip whose first half is zeros": bytes(2) + member(DATA)[2:],
    }
    codes = {"gzip whose first half is zeros": "E_MAGIC"}
    return [_image(name, codes.get(name, "E_GZIP"), data) for name, data in cases.items()]


def _cut() -> list[Case]:
    half = len(DATA) - BODY // 2
    return [
        _image("body cut at half", "E_TRUNC", DATA[:half], file="a.nii"),
        _image("body one byte short", "E_TRUNC", DATA[:-1], file="a.nii"),
        _image("header alone", "E_TRUNC", DATA[:352], file="a.nii"),
        _image("half a header", "E_TRUNC", DATA[:200], file="a.nii"),
        _image("packed body cut at half", "E_TRUNC", member(DATA[:half])),
        _image("gzip members, the last one missing", "E_TRUNC", members(DATA[:-50], size=500)),
        _image("body of zeros one slice short", "E_TRUNC", DATA[: len(DATA) - 286], file="a.nii"),
        other("empty file", "E_TRUNC", b"", file="a.nii"),
        other("empty file named .nii.gz", "E_TRUNC", b""),
        other("gzip of nothing", "E_TRUNC", member(b"")),
        sound("vox_offset beyond the file", "E_TRUNC", vox_offset=1e9),
        sound("vox_offset of 1e30", "E_TRUNC", vox_offset=1e30),
        sound("vox_offset beyond a packed file", "E_TOOBIG", file="a.nii.gz", vox_offset=2e9),
    ]


def _other_kinds() -> list[Case]:
    text = b"subject,label\n1,2\n" * 40
    dicom = bytes(128) + b"DICM" + bytes(400)
    header_of_pair = packed_nifti(IMAGE, PLACE, magic=b"ni1\0")
    analyze = packed_nifti(IMAGE, PLACE, magic=bytes(4), qform_code=0, sform_code=0)
    return [
        other("PNG named .nii.gz", "E_MAGIC", PNG),
        other("PNG named .nii", "E_MAGIC", PNG, file="a.nii"),
        other("text named .nii", "E_MAGIC", text, file="a.nii"),
        other("text named .nii.gz, packed", "E_MAGIC", member(text)),
        other("NRRD named .nii", "E_MAGIC", b"NRRD0004\ntype: short\n" * 30, file="a.nii"),
        other("DICOM named .nii", "E_MAGIC", dicom, file="a.nii"),
        other("zip named .nii.gz", "E_MAGIC", b"PK\x03\x04" + bytes(400)),
        other("bzip2 named .nii.gz", "E_MAGIC", bz2.compress(DATA)),
        other("xz named .nii.gz", "E_MAGIC", lzma.compress(DATA)),
        other("gzip within gzip", "E_MAGIC", member(member(DATA))),
        other("zeros", "E_MAGIC", bytes(5000), file="a.nii"),
        _image("header of a pair", "E_MAGIC", header_of_pair, file="a.nii"),
        _image("Analyze 7.5 header", "E_MAGIC", analyze, file="a.nii"),
        sound("magic of another NIfTI", "E_MAGIC", magic=b"n+2\0"),
        sound("magic without its end", "E_MAGIC", magic=b"n+1x"),
        sound("sizeof_hdr of 349", "E_MAGIC", sizeof_hdr=349),
        sound("NIfTI-2 whose line ends were changed", "E_MAGIC", version=2, magic=b"n+2\0\n\x1a\n"),
    ]


def _no_files() -> list[Case]:
    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def dangling(path: Path) -> None:
        path.symlink_to(path.with_name("gone"))

    def loop(path: Path) -> None:
        path.symlink_to(path)

    def device(path: Path) -> None:
        path.symlink_to("/dev/zero")

    def door(path: Path) -> None:
        # The path of a socket has room for 108 bytes; that of a test's folder may be longer.
        with socket.socket(socket.AF_UNIX) as listening:
            here = os.open(path.parent, os.O_RDONLY)
            listening.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)

    def nothing(_path: Path) -> None: ...

    kinds: dict[str, Callable[[Path], None]] = {
        "FIFO": fifo,
        "folder": Path.mkdir,
        "device": device,
        "dangling link": dangling,
        "link to itself": loop,
        "socket": door,
        "absent": nothing,
    }
    return [_made(name, make) for name, make in kinds.items()]


def _too_large() -> list[Case]:
    huge = dim(32767, 32767, 32767)
    return [
        sound("32767^3 header", "E_TRUNC", dim=huge),
        sound("32767^3 header, packed", "E_TOOBIG", file="a.nii.gz", dim=huge),
        sound("more than the voxels after them, packed", "E_BOMB", change=_padded),
        sound("many members that are a bomb", "E_BOMB", change=_bomb),
        sound("a long axis of NIfTI-2", "E_DIM", version=2, dim=dim(2**40, 11, 9)),
        sound(
            "sizes whose product overflows to a small one",
            "E_DIM",
            version=2,
            dim=dim(2**32 + 13, 2**32 + 11, 9),
        ),
        sound("channels beyond 64 bits", "E_TRUNC", version=2, dim=dim(13, 11, 9, 2**62)),
    ]


def _padded(data: bytes) -> bytes:
    return member(data + bytes(5_000_000))


def _bomb(data: bytes) -> bytes:
    return member(data) + member(bytes(1 << 22), level=9) * 20


def _image(name: str, expected: str, data: bytes, *, file: str = "a.nii.gz") -> Case:
    return sound(name, expected, file=file, change=lambda _: data)


def _made(name: str, make: Callable[[Path], None]) -> Case:
    def build(folder: Path) -> tuple[Path, ...]:
        path = folder / "a.nii"
        make(path)
        return (path,)

    return Case(name, "E_NOTFILE", build)
