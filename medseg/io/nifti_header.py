"""What the header of a NIfTI file says, or why it must not be trusted.

The place of a volume is decided by one rule: the sform where its code is set, else the qform;
where both are set they must agree within half a millimeter at every corner. Units are honored.
The fields are those of nifti1.h and nifti2.h; the quaternion's formulas stand in nifti1.h.
"""

import math
import struct
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from medseg.fault import InputFault
from medseg.io.stream import Stream
from medseg.volume import Grid, shown

# Code 0 says nothing of the unit; every reader takes it for millimeters.
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
FORMS_AGREE_MM = 0.5
SPACING_AGREES = 0.01
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
    (nib.Nifti2Header, 540, b"n+2\0", 4),
)
PAIR_MAGIC = b"ni1\0"


@dataclass(frozen=True)
class Header:
    """What a file holds, known without reading its voxels: grid, channels, stored type.

    A voxel's value is `slope` x stored + `intercept`; `offset` is the place of the first voxel.
    """

    grid: Grid
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


def header_of(stream: Stream) -> Header:
    """The header at the start of `stream`.

    Raises:
        InputFault: it is no NIfTI, or its numbers cannot be; the code names the field.
    """
    start = stream.peek(HEADERS[1][1])
    try:
        raw = _raw_header(start)
        shape, channels = _shape(raw)
        slope, intercept = _scaling(raw)
        header = Header(
            grid=Grid(shape, _affine(raw, shape)),
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
            if start[:4] == struct.pack(f"{sign}i", size) and len(start) >= size:
                found = start[place : place + 4]
                if found == magic:
                    return kind(start[:size], endianness=sign, check=False)
                if found == PAIR_MAGIC:
                    raise InputFault(
                        "it is the header of an .hdr and .img pair; convert the pair to one .nii.",
                        code="E_MAGIC",
                    )
    raise InputFault(
        f"it is no NIfTI file (its first bytes are {start[:4]!r}); convert it, or leave it out.",
        code="E_MAGIC",
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
    smallest = int(raw["sizeof_hdr"]) + 4
    if offset == 0:
        return smallest
    if not np.isfinite(offset) or offset < smallest or offset != int(offset):
        raise InputFault(
            f"vox_offset {offset:g} is not a place behind the header ({smallest} or more); "
            "the header is damaged.",
            code="E_VOXOFF",
        )
    return int(offset)


def _scaling(raw: nib.Nifti1Header) -> tuple[float, float]:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if np.isnan(intercept):
        intercept = 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise InputFault(
            f"scl_slope {slope} and scl_inter {intercept} are no scaling; the header is damaged.",
            code="E_SCALE",
        )
    return slope, intercept


def _affine(raw: nib.Nifti1Header, shape: tuple[int, int, int]) -> np.ndarray:
    unit_mm = _unit_mm(raw)
    spacing = np.asarray(raw["pixdim"][1:4], dtype=np.float64) * unit_mm
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputFault(
            f"pixdim gives voxels of {spacing.tolist()} mm; each size is above 0. Export it again.",
            code="E_PIXDIM",
        )
    qform = _qform(raw, spacing, unit_mm) if int(raw["qform_code"]) > 0 else None
    sform = _sform(raw, spacing, unit_mm) if int(raw["sform_code"]) > 0 else None
    if sform is not None and qform is not None:
        _refuse_disagreement(sform, qform, shape)
    affine = sform if sform is not None else qform
    if affine is None:
        raise InputFault(
            "qform and sform codes are 0, so the file does not say where the patient is; "
            "readers invent different places. Export it again with its orientation.",
            code="E_NOFORM",
        )
    return affine


def _unit_mm(raw: nib.Nifti1Header) -> float:
    code = int(raw["xyzt_units"]) & 7
    if code not in UNIT_MM:
        raise InputFault(
            f"xyzt_units {code} is no unit of length; the header is damaged.", code="E_PIXDIM"
        )
    return UNIT_MM[code]


def _qform(raw: nib.Nifti1Header, spacing_mm: np.ndarray, unit_mm: float) -> np.ndarray:
    b, c, d = (float(raw[f"quatern_{axis}"]) for axis in "bcd")
    length = b * b + c * c + d * d
    offset = np.array([float(raw[f"qoffset_{axis}"]) for axis in "xyz"]) * unit_mm
    if not np.isfinite(length) or length > 1 + 1e-5 or not np.isfinite(offset).all():
        raise InputFault(
            f"qform quaternion {[b, c, d]} with offset {offset.tolist()} is no rotation (its "
            "squares sum to 1 at most); the header is damaged.",
            code="E_QFORM",
        )
    a = math.sqrt(max(0.0, 1 - length))
    b, c, d = (part / math.sqrt(a * a + length) for part in (b, c, d))
    rotation = np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
    )
    handedness = -1.0 if float(raw["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing_mm * [1, 1, handedness]
    affine[:3, 3] = offset
    return affine


def _sform(raw: nib.Nifti1Header, spacing_mm: np.ndarray, unit_mm: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.array([raw[f"srow_{axis}"] for axis in "xyz"], dtype=np.float64) * unit_mm
    of_sform = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (of_sform == 0).any():
        raise InputFault(
            f"sform {affine[:3].tolist()} is no map to the patient; the header is damaged.",
            code="E_AFFINE",
        )
    if (np.abs(of_sform / spacing_mm - 1) > SPACING_AGREES).any():
        raise InputFault(
            f"pixdim says {spacing_mm.tolist()} and the sform {of_sform.tolist()} mm; "
            "readers choose differently, so decide which is right and write both.",
            code="E_PIXDIM",
        )
    return affine


def _refuse_disagreement(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, int, int]) -> None:
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.asarray(shape) - 1
    apart = (corners @ (sform - qform).T)[:, :3]
    farthest_mm = float(np.linalg.norm(apart, axis=1).max())
    if farthest_mm > FORMS_AGREE_MM:
        raise InputFault(
            f"qform and sform place the volume {farthest_mm:.1f} mm apart; readers choose "
            "differently, so decide which is right and write both.",
            code="E_QSFORM",
        )
