"""NIfTI files packed field by field, after the layouts in nifti1.h and nifti2.h."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tests.io.catalogue.phantom import Place

FIELDS = {
    1: {
        "sizeof_hdr": ("i", 0),
        "dim_info": ("b", 39),
        "dim": ("8h", 40),
        "intent_code": ("h", 68),
        "datatype": ("h", 70),
        "bitpix": ("h", 72),
        "slice_start": ("h", 74),
        "pixdim": ("8f", 76),
        "vox_offset": ("f", 108),
        "scl_slope": ("f", 112),
        "scl_inter": ("f", 116),
        "slice_end": ("h", 120),
        "slice_code": ("b", 122),
        "xyzt_units": ("b", 123),
        "cal_max": ("f", 124),
        "cal_min": ("f", 128),
        "slice_duration": ("f", 132),
        "toffset": ("f", 136),
        "descrip": ("80s", 148),
        "aux_file": ("24s", 228),
        "qform_code": ("h", 252),
        "sform_code": ("h", 254),
        "quatern": ("3f", 256),
        "qoffset": ("3f", 268),
        "srow": ("12f", 280),
        "intent_name": ("16s", 328),
        "magic": ("4s", 344),
    },
    2: {
        "sizeof_hdr": ("i", 0),
        "magic": ("8s", 4),
        "datatype": ("h", 12),
        "bitpix": ("h", 14),
        "dim": ("8q", 16),
        "pixdim": ("8d", 104),
        "vox_offset": ("q", 168),
        "scl_slope": ("d", 176),
        "scl_inter": ("d", 184),
        "cal_max": ("d", 192),
        "cal_min": ("d", 200),
        "descrip": ("80s", 240),
        "aux_file": ("24s", 320),
        "qform_code": ("i", 344),
        "sform_code": ("i", 348),
        "quatern": ("3d", 352),
        "qoffset": ("3d", 376),
        "srow": ("12d", 400),
        "xyzt_units": ("i", 500),
        "intent_code": ("i", 504),
        "intent_name": ("16s", 508),
    },
}
SIZES = {1: 348, 2: 540}
MAGICS = {1: b"n+1\0", 2: b"n+2\0\r\n\x1a\n"}
CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
}
MILLIMETER = 2
Order = Literal["<", ">"]


def packed_nifti(
    voxels: np.ndarray,
    place: Place,
    *,
    version: int = 1,
    order: Order = "<",
    extension: bytes = bytes(4),
    **fields: Any,
) -> bytes:
    """The bytes of a sound .nii file, unless `fields` (by their names in nifti1.h) damage it.

    `extension` is what stands between the header and the voxels, the four flag bytes included.
    """
    header = bytearray(SIZES[version])
    values = _sound(voxels, place, version=version, offset=SIZES[version] + len(extension))
    for name, value in {**values, **fields}.items():
        form, at = FIELDS[version][name]
        parts = value if isinstance(value, Sequence | np.ndarray) else [value]
        parts = [value] if isinstance(value, bytes) else parts
        struct.pack_into(order + form, header, at, *parts)
    body = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")
    return bytes(header) + extension + body


def member(data: bytes, *, level: int = 1, flags: int = 0, fields: bytes = b"") -> bytes:
    """One gzip member (RFC 1952), with the optional header `fields` that `flags` announce."""
    deflating = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = deflating.compress(data) + deflating.flush()
    start = struct.pack("<4BI2B", 0x1F, 0x8B, 8, flags, 0, 0, 255) + fields
    return start + packed + struct.pack("<2I", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def members(data: bytes, *, size: int) -> bytes:
    """A gzip file of many members, each of `size` unpacked bytes."""
    return b"".join(member(data[at : at + size]) for at in range(0, len(data), size))


def bgzipped(data: bytes) -> bytes:
    """A file as bgzip writes it: blocks whose packed size stands in an extra field, and an end."""
    made = []
    for block in [*(data[at : at + 700] for at in range(0, len(data), 700)), b""]:
        length = len(member(block)) + 8
        extra = struct.pack("<H2BHH", 6, 66, 67, 2, length - 1)
        made.append(member(block, flags=4, fields=extra))
        assert len(made[-1]) == length
    return b"".join(made)


def _sound(voxels: np.ndarray, place: Place, *, version: int, offset: int) -> dict[str, Any]:
    kind = voxels.dtype.str[1:]
    return {
        "sizeof_hdr": SIZES[version],
        "dim": [voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim)],
        "datatype": CODES[kind],
        "bitpix": 8 * voxels.dtype.itemsize,
        "pixdim": [place.handedness, *place.spacing_mm, 0, 0, 0, 0],
        "vox_offset": offset,
        "scl_slope": 1,
        "xyzt_units": MILLIMETER,
        "qform_code": 1,
        "sform_code": 1,
        "quatern": place.quaternion,
        "qoffset": place.origin_ras_mm,
        "srow": place.affine[:3].ravel(),
        "magic": MAGICS[version],
    }
