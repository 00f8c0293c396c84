"""A NIfTI file taken apart, so that a field or a voxel can be changed and all else stays.

The stored type, the byte order and the scaling of the voxels are kept.
"""

import math
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.fault import InputFault
from medseg.io.nifti_header import HEADERS, TYPES
from medseg.io.nifti_place import FORMS, LARGEST_CODE, UNIT_MM, place_of
from medseg.io.stream import Sink, Stream, crc32_of, open_stream
from medseg.volume import Grid
from medseg.volume.grid import SCANNER

# Where voxels begin when vox_offset says nothing that can be: behind the header and four flags.
FLAGS = 4
QFORM_FITS_MM = 0.01


class NotCertain(Exception):
    """Why a fault cannot be mended without someone who knows."""


class Draft:
    """The header of a file, what stands between it and the voxels, and the voxels as stored."""

    def __init__(self, raw: nib.Nifti1Header, between: bytes, voxels: np.ndarray) -> None:
        self.raw = raw
        self.between = between
        self.voxels = voxels

    @property
    def shape(self) -> tuple[int, int, int]:
        """The three sides."""
        i, j, k = (int(side) for side in self.raw["dim"][1:4])
        return i, j, k

    @property
    def grid(self) -> Grid:
        """Where the strict reader places it."""
        return Grid(self.shape, place_of(self.raw, self.shape).affine)

    def values(self) -> np.ndarray:
        """The values of shape (voxels in file order,), float64 where the header scales."""
        slope, intercept = float(self.raw["scl_slope"]), float(self.raw["scl_inter"])
        if slope in (0.0, 1.0) and (intercept == 0 or slope == 0):
            return self.voxels
        return self.voxels.astype(np.float64) * slope + intercept

    def store(self, values: np.ndarray) -> None:
        """Take whole values (in file order) as the voxels, unscaled, of the type they have."""
        code = {name: code for code, name in TYPES.items()}[values.dtype.str[1:]]
        order = self.raw.endianness
        self.voxels = values.astype(values.dtype.newbyteorder(order))
        self.raw["datatype"], self.raw["bitpix"] = code, 8 * values.dtype.itemsize
        self.raw["scl_slope"], self.raw["scl_inter"] = 1, 0

    def lay(self, affine: np.ndarray, shape: tuple[int, int, int] | None = None) -> None:
        """Write one place into both forms, pixdim and the unit (mm); and another shape."""
        raw = self.raw
        if shape is not None:
            raw["dim"][1:4] = shape
        raw["xyzt_units"] = (int(raw["xyzt_units"]) & 0xF8) | 2
        codes = [int(raw[f"{form}_code"]) for form in FORMS]
        code = next((known for known in codes if 0 < known <= LARGEST_CODE), SCANNER)
        raw["pixdim"][0] = 1
        raw.set_qform(affine, code)
        raw.set_sform(affine, code)
        # A quaternion has no room for shear: where it would mislead it is not given at all.
        turned = Grid(self.shape, np.asarray(raw.get_qform()))
        if Grid(self.shape, affine).difference(turned, tolerance_mm=QFORM_FITS_MM):
            raw["qform_code"] = 0

    def write(self, path: Path, *, packed: bool) -> None:
        """Write it to `path` and read its bytes back.

        Raises:
            OSError: what was read back differs.
        """
        with path.open("wb") as target:
            sink = Sink(target, packed=packed, strategy=zlib.Z_DEFAULT_STRATEGY)
            sink.write(self.raw.binaryblock + self.between)
            sink.write(self.voxels.tobytes())
            sink.finish()
        if crc32_of(path) != sink.crc32:
            raise OSError("what was read back differs from what was written; the disk fails")


def read_draft(path: Path) -> Draft:
    """The parts of a file whose header names its voxels, to the end of its stream.

    Raises:
        InputFault: it is cut short, damaged, or no NIfTI.
        NotCertain: the header does not say how many voxels there are, or of what type.
    """
    with open_stream(path) as stream:
        raw = raw_header(stream)
        dtype, count = _stored(raw)
        size = int(raw["sizeof_hdr"])
        offset = float(raw["vox_offset"])
        given = offset == offset and size + FLAGS <= offset < 1 << 30 and offset == int(offset)
        start = int(offset) if given else size + FLAGS
        stream.refuse_size(start + count * dtype.itemsize)
        stream.skip_to(size)
        between = np.empty(start - size, np.uint8)
        stream.fill(between)
        voxels = np.empty(count, dtype)
        stream.fill(voxels.view(np.uint8))
        stream.finish()
    return Draft(raw, between.tobytes(), voxels)


def raw_header(stream: Stream) -> nib.Nifti1Header:
    """The header's fields as they stand."""
    start = stream.peek(HEADERS[1][1])
    for kind, size, magic, place in HEADERS:
        for sign in "<>":
            is_size = start[:4] == struct.pack(f"{sign}i", size)
            if is_size and start[place : place + len(magic)] == magic:
                return kind(start[:size], endianness=sign, check=False)
    raise NotCertain("its first bytes are not those of a NIfTI header")


def unit_mm(raw: nib.Nifti1Header) -> float | None:
    """Millimeters in the header's unit of length; None where its code is none."""
    return UNIT_MM.get(int(raw["xyzt_units"]) & 7)


def _stored(raw: nib.Nifti1Header) -> tuple[np.dtype, int]:
    dim = [int(side) for side in raw["dim"]]
    if not 3 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise NotCertain("its header does not say how many voxels there are")
    if int(raw["datatype"]) not in TYPES:
        raise NotCertain("its voxels are of a type that holds no gray values")
    dtype = np.dtype(TYPES[int(raw["datatype"])]).newbyteorder(raw.endianness)
    count = math.prod(dim[1 : dim[0] + 1])
    if count * dtype.itemsize > 1 << 36:
        raise InputFault(f"{count} voxels are more than any machine holds.", code="E_TOOBIG")
    return dtype, count
