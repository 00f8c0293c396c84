"""What the header of a NIfTI file says, or why it must not be trusted.

The fields are those of nifti1.h and nifti2.h. Where the volume lies is decided in nifti_place.
"""

import math
import struct
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from medseg.fault import InputFault
from medseg.io.nifti_place import Form, place_of
from medseg.io.stream import Stream
from medseg.volume import Grid, shown

TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
HEADERS = (
    (nib.Nifti1Header, 348, b"n+1\0", 344),
    (nib.Nifti2Header, 540, b"n+2\0\r\n\x1a\n", 4),
)
PAIR_MAGICS = (b"ni1\0", b"ni2\0")
OTHER_KINDS = (
    (b"DICM", 128, "DICOM"),
    (b"\x89PNG", 0, "a PNG picture"),
    (b"\xff\xd8\xff", 0, "a JPEG picture"),
    (b"NRRD", 0, "an NRRD volume"),
    (b"ObjectType", 0, "a MetaImage header"),
    (b"PK", 0, "a zip archive"),
    (b"\x1f\x8b", 0, "gzip within gzip"),
    (b"BZh", 0, "packed by bzip2"),
    (b"\xfd7zXZ", 0, "packed by xz"),
    (b"\x28\xb5\x2f\xfd", 0, "packed by zstd"),
    (b"\x89HDF", 0, "an HDF5 file"),
    (b"version https://git-lfs", 0, "a pointer of git-lfs to one (`git lfs pull` fetches it)"),
    (struct.pack("<i", 348), 0, "an Analyze 7.5 header"),
    (struct.pack(">i", 348), 0, "an Analyze 7.5 header"),
)


@dataclass(frozen=True)
class Header:
    """What a file holds, known without reading its voxels: grid, channels, stored type.

    A voxel's value is `slope` x stored + `intercept`; `offset` is the place of the first voxel.
    `form` is what the grid's affine was taken from; `other` is the grid by the other form, where
    the file has both.
    """

    grid: Grid
    form: Form
    other: Grid | None
    channels: int
    dtype: np.dtype
    slope: float
    intercept: float
    offset: int

    @property
    def size(self) -> int:
        """Bytes from the start of the (unpacked) file to the end of the voxels."""
        return self.offset + math.prod(self.grid.shape) * self.channels * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored values are not the values themselves."""
        return self.slope != 1.0 or self.intercept != 0.0

    def apart(self, other: "Header") -> str | None:
        """What keeps the grids of two files apart, as part of a sentence; None where they agree.

        Forms of a file may differ by what `place_of` allows, and a program that copies it keeps
        the one that it prefers. So the files agree as well where the place of one is the other
        form of the other one.
        """
        difference = self.grid.difference(other.grid)
        crossed = ((self.grid, other.other), (self.other, other.grid))
        if any(a and b and a.difference(b) is None for a, b in crossed):
            return None
        return difference


def header_of(stream: Stream, *, form: Form | None = None) -> Header:
    """The header at the start of `stream`; `form` decides where the file's two disagree.

    Raises:
        InputFault: it is no NIfTI, or its numbers cannot be; the code names the field.
    """
    start = stream.peek(HEADERS[1][1])
    try:
        raw = _raw_header(start)
        shape, channels = _shape(raw)
        slope, intercept = _scaling(raw)
        place = place_of(raw, shape, form=form)
        header = Header(
            grid=Grid(shape, place.affine, place.code),
            form=place.form,
            other=None if place.other is None else Grid(shape, place.other, place.code),
            channels=channels,
            dtype=_dtype(raw),
            slope=slope,
            intercept=intercept,
            offset=_offset(raw),
        )
    except InputFault as fault:
        raise InputFault(f"{stream.path}: {fault}", code=fault.code) from fault
    stream.refuse_size(header.size)
    return header


def _raw_header(start: bytes) -> nib.Nifti1Header:
    for kind, size, magic, place in HEADERS:
        for sign in "<>":
            if start[:4] != struct.pack(f"{sign}i", size):
                continue
            if len(start) < size:
                raise _cut(len(start))
            found = start[place : place + len(magic)]
            if found == magic:
                return kind(start[:size], endianness=sign, check=False)
            if found[:4] in PAIR_MAGICS:
                raise InputFault(
                    "it is the header of an .hdr and .img pair; convert the pair to one .nii.",
                    code="E_MAGIC",
                )
    if not start:
        raise _cut(0)
    raise InputFault(
        f"it is no NIfTI file but {_kind(start)}; convert it, or leave it out.", code="E_MAGIC"
    )


def _kind(start: bytes) -> str:
    """What a file is by its first bytes, which are not shown: they may be a patient's name."""
    for magic, place, kind in OTHER_KINDS:
        if start[place : place + len(magic)] == magic:
            return kind
    return "of a kind that is not known"


def _cut(length: int) -> InputFault:
    return InputFault(
        f"it ends after {length} bytes, within its header; it was cut short. Copy it again.",
        code="E_TRUNC",
    )


def _shape(raw: nib.Nifti1Header) -> tuple[tuple[int, int, int], int]:
    dim = [int(side) for side in raw["dim"]]
    if not 1 <= dim[0] <= 7 or any(side < 1 for side in dim[1 : dim[0] + 1]):
        raise InputFault(
            f"dim = {dim} cannot be; the header is damaged. Export the file again.", code="E_DIM"
        )
    sides = dim[1 : dim[0] + 1]
    if len(sides) < 3 or any(side != 1 for side in sides[4:]):
        raise InputFault(
            f"{shown(tuple(sides))} voxels in {len(sides)} axes; a volume has three, and a "
            "fourth only for its channels.",
            code="E_NDIM",
        )
    if 1 in sides[:3]:
        raise InputFault(
            f"{shown(tuple(sides[:3]))} voxels are a single slice; a volume has at least two "
            "along each axis.",
            code="E_SINGLE",
        )
    return (sides[0], sides[1], sides[2]), sides[3] if len(sides) > 3 else 1


def _dtype(raw: nib.Nifti1Header) -> np.dtype:
    code = int(raw["datatype"])
    if code not in TYPES:
        raise InputFault(
            f"data type {code} holds no gray values; a volume is of whole or floating numbers "
            "of at most 64 bits. Convert it first.",
            code="E_DTYPE",
        )
    dtype = np.dtype(TYPES[code])
    if int(raw["bitpix"]) != 8 * dtype.itemsize:
        raise InputFault(
            f"bitpix {int(raw['bitpix'])} does not belong to data type {dtype}; the header is "
            "damaged.",
            code="E_DTYPE",
        )
    return dtype.newbyteorder(raw.endianness)


def _offset(raw: nib.Nifti1Header) -> int:
    offset = float(raw["vox_offset"])
    # Readers that take a smaller one start at byte 0, 348 or 352: two voxels aside, unnoticed.
    smallest = int(raw["sizeof_hdr"]) + 4
    if not np.isfinite(offset) or offset < smallest or offset != int(offset):
        raise InputFault(
            f"vox_offset {offset:g} is not a place behind the header ({smallest} or more); "
            "readers begin at different bytes. Export it again.",
            code="E_VOXOFF",
        )
    return int(offset)


def _scaling(raw: nib.Nifti1Header) -> tuple[float, float]:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise InputFault(
            f"scl_slope {slope} and scl_inter {intercept} are no scaling; the header is damaged.",
            code="E_SCALE",
        )
    return slope, intercept
