"""NIfTI files, read so that no damaged or ambiguous file passes for a good one.

The place of a volume is decided by one rule: the sform where its code is set, else the qform;
where both are set they must agree within half a millimetre at every corner. Units are honored.
A compressed file is read to its end, so that its checksum is verified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.fault import InputFault
from medseg.io.atomic import atomic_path
from medseg.io.stream import Stream, deflated, open_stream
from medseg.volume import Grid, LabelTable, LabelVolume, Volume, shown

NIFTI_SUFFIXES = (".nii", ".nii.gz")
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
FORMS_AGREE_MM = 0.5
SPACING_AGREES = 0.01
READABLE_KINDS = "iuf"
SCANNER = 1


@dataclass(frozen=True)
class Header:
    """What a file holds, known without reading its voxels: grid, channels, stored type."""

    grid: Grid
    channels: int
    dtype: np.dtype
    slope: float
    intercept: float
    offset: int

    @property
    def size(self) -> int:
        """Bytes from the start of the (unpacked) file to the end of the voxels."""
        voxels = int(np.prod(self.grid.shape, dtype=np.int64)) * self.channels
        return self.offset + voxels * self.dtype.itemsize


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def stem(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    name = path.name
    for suffix in reversed(NIFTI_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def read_header(path: Path) -> Header:
    """Grid, channels and stored type of a NIfTI file.

    Raises:
        InputFault: not a file, not NIfTI, or a header that must not be trusted.
    """
    with open_stream(path) as stream:
        return _header_of(stream)


def read_volume(paths: Sequence[Path], channels: Sequence[str]) -> Volume:
    """The image of shape (c, i, j, k) in `paths`: a file a channel, or one 4D file of them all.

    Raises:
        InputFault: what `read_header` refuses, a truncated or corrupted body, channels on
            different grids (E_PAIR), another number of channels (E_CHANNELS), or a voxel that is
            no number (E_NONFINITE).
    """
    parts, grids = [], []
    for path in paths:
        array, header = _read(path)
        parts.append(array)
        grids.append(header.grid)
        difference = grids[0].difference(header.grid)
        if difference:
            raise InputFault(
                f"{path}: it lies on another grid than {paths[0].name} ({difference}); "
                "the channels of a case must be registered and resampled onto one grid.",
                code="E_PAIR",
            )
    stack = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if len(stack) != len(channels):
        raise InputFault(
            f"{_together(paths)}: {len(stack)} channels, but {len(channels)} "
            f"({', '.join(channels)}) are expected.",
            code="E_CHANNELS",
        )
    try:
        return Volume(stack, grids[0], tuple(channels))
    except InputFault as fault:
        raise InputFault(f"{_together(paths)}: {fault}", code=fault.code) from fault


def read_labels(path: Path, table: LabelTable) -> LabelVolume:
    """The label map in `path`; every value must be whole and in `table`.

    Raises:
        InputFault: what `read_volume` refuses, or a value that is no label (E_LABEL).
    """
    array, header = _read(path, as_labels=True)
    if len(array) != 1:
        raise InputFault(
            f"{path}: {len(array)} channels; a label map has one. Merge one-hot masks first.",
            code="E_NDIM",
        )
    try:
        return LabelVolume(_as_labels(array[0]), header.grid, table)
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}", code=fault.code) from fault


def write_labels(path: Path, labels: LabelVolume) -> None:
    """Write a label map; it is read back and compared before its name appears."""
    with atomic_path(path) as temporary:
        _write(temporary, labels.array, labels.grid, packed=path.name.lower().endswith(".gz"))
        again = read_labels(temporary, labels.table)
        _refuse_difference(path, labels.grid, again.grid, labels.array, again.array)


def write_volume(path: Path, volume: Volume) -> None:
    """Write an image, 3D for one channel and else 4D; read back and compared as labels are."""
    array = np.moveaxis(volume.array, 0, -1) if len(volume.array) > 1 else volume.array[0]
    with atomic_path(path) as temporary:
        _write(temporary, array, volume.grid, packed=path.name.lower().endswith(".gz"))
        again = read_volume([temporary], volume.channels)
        _refuse_difference(path, volume.grid, again.grid, volume.array, again.array)


def _read(path: Path, *, as_labels: bool = False) -> tuple[np.ndarray, Header]:
    """Voxels (c, i, j, k): float32, or for labels the stored type where nothing scales it."""
    with open_stream(path) as stream:
        header = _header_of(stream)
        body = stream.rest(header.offset, header.size)
    shape = (*header.grid.shape, header.channels)
    array = np.frombuffer(body, dtype=header.dtype).reshape(shape, order="F")
    array = np.moveaxis(array, -1, 0)
    if header.slope != 1.0 or header.intercept != 0.0:
        return (array * header.slope + header.intercept).astype(np.float32), header
    if as_labels:
        return array, header
    return np.ascontiguousarray(array, dtype=np.float32), header


def _as_labels(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise InputFault(
            "it holds values that are no whole numbers; a label map that was resampled "
            "with interpolation cannot be used.",
            code="E_LABEL",
        )
    low, high = array.min(), array.max()
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputFault(
            f"label values run from {low:g} to {high:g}; labels are 0 to 65535.", code="E_LABEL"
        )
    return np.ascontiguousarray(array, dtype=np.uint8 if high < 256 else np.uint16)


def _header_of(stream: Stream) -> Header:
    raw = _raw_header(stream)
    shape, channels = _shape(raw, stream.path)
    affine = _affine(raw, shape, stream.path)
    slope, intercept = _scaling(raw, stream.path)
    try:
        grid = Grid(shape, affine)
    except InputFault as fault:
        raise InputFault(f"{stream.path}: {fault}", code=fault.code) from fault
    header = Header(
        grid, channels, _dtype(raw, stream.path), slope, intercept, _offset(raw, stream.path)
    )
    stream.refuse_size(header.size)
    return header


def _raw_header(stream: Stream) -> nib.Nifti1Header:
    start = stream.peek(540)
    for kind, size, magic, place in (
        (nib.Nifti1Header, 348, (b"n+1\0",), 344),
        (nib.Nifti2Header, 540, (b"n+2\0",), 4),
    ):
        declared = {int.from_bytes(start[:4], order) for order in ("little", "big")}
        if size not in declared or len(start) < size:
            continue
        if start[place : place + 4] in magic:
            order = "<" if int.from_bytes(start[:4], "little") == size else ">"
            return kind(start[:size], endianness=order, check=False)
    raise InputFault(
        f"{stream.path}: it is no NIfTI file (its first bytes are {start[:4]!r}); "
        "convert it, or leave it out.",
        code="E_MAGIC",
    )


def _shape(raw: nib.Nifti1Header, path: Path) -> tuple[tuple[int, int, int], int]:
    dim = [int(side) for side in raw["dim"]]
    if not 1 <= dim[0] <= 7 or any(side < 1 for side in dim[1 : dim[0] + 1]):
        raise InputFault(
            f"{path}: dim = {dim} cannot be; the header is damaged. Export the file again.",
            code="E_DIM",
        )
    sides = dim[1 : dim[0] + 1]
    if len(sides) < 3 or any(side != 1 for side in sides[4:]):
        raise InputFault(
            f"{path}: {shown(tuple(sides))} voxels in {len(sides)} axes; a volume has three, "
            "and a fourth only for its channels.",
            code="E_NDIM",
        )
    channels = sides[3] if len(sides) > 3 else 1
    return (sides[0], sides[1], sides[2]), channels


def _dtype(raw: nib.Nifti1Header, path: Path) -> np.dtype:
    try:
        dtype = raw.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        dtype = None
    if dtype is None or dtype.names or dtype.kind not in READABLE_KINDS or dtype.itemsize > 8:
        raise InputFault(
            f"{path}: data type {dtype or int(raw['datatype'])} holds no gray values; "
            "a volume is of whole or floating numbers. Convert it first.",
            code="E_DTYPE",
        )
    return dtype


def _offset(raw: nib.Nifti1Header, path: Path) -> int:
    offset = float(raw["vox_offset"])
    smallest = 352 if raw["sizeof_hdr"] == 348 else 544
    if offset == 0:
        return smallest
    if not np.isfinite(offset) or offset < smallest or offset != int(offset):
        raise InputFault(
            f"{path}: vox_offset {offset:g} is not a place behind the header "
            f"({smallest} or more); the header is damaged.",
            code="E_VOXOFF",
        )
    return int(offset)


def _scaling(raw: nib.Nifti1Header, path: Path) -> tuple[float, float]:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if np.isnan(intercept):
        intercept = 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise InputFault(
            f"{path}: scl_slope {slope}, scl_inter {intercept} are no scaling; header damaged.",
            code="E_SCALE",
        )
    return slope, intercept


def _affine(raw: nib.Nifti1Header, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    spacing = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputFault(
            f"{path}: pixdim {spacing.tolist()}; each voxel size is above 0. Export it again.",
            code="E_PIXDIM",
        )
    qform = _qform(raw, path) if raw["qform_code"] > 0 else None
    sform = np.asarray(raw.get_sform(), dtype=np.float64) if raw["sform_code"] > 0 else None
    if sform is None and qform is None:
        raise InputFault(
            f"{path}: qform and sform codes are 0, so the file does not say where the patient "
            "is; readers invent different places. Export it again with its orientation.",
            code="E_NOFORM",
        )
    if sform is not None:
        _refuse_spacing(sform, spacing, path)
    if sform is not None and qform is not None:
        _refuse_disagreement(sform, qform, shape, path)
    affine = sform if sform is not None else qform
    assert affine is not None
    return np.diag([*[UNIT_MM.get(int(raw["xyzt_units"]) & 7, 1.0)] * 3, 1.0]) @ affine


def _qform(raw: nib.Nifti1Header, path: Path) -> np.ndarray:
    quaternion = [float(raw[f"quatern_{axis}"]) for axis in "bcd"]
    length = float(np.sum(np.square(quaternion)))
    if not np.isfinite(length) or length > 1 + 1e-5:
        raise InputFault(
            f"{path}: qform quaternion {quaternion} is longer than 1 and no rotation; "
            "the header is damaged.",
            code="E_QFORM",
        )
    return np.asarray(raw.get_qform(), dtype=np.float64)


def _refuse_spacing(sform: np.ndarray, spacing: np.ndarray, path: Path) -> None:
    of_sform = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(of_sform).all() or (np.abs(of_sform / spacing - 1) > SPACING_AGREES).any():
        raise InputFault(
            f"{path}: pixdim says {spacing.tolist()} and the sform {of_sform.tolist()} mm; "
            "readers choose differently, so decide which is right and write both.",
            code="E_PIXDIM",
        )


def _refuse_disagreement(
    sform: np.ndarray, qform: np.ndarray, shape: tuple[int, int, int], path: Path
) -> None:
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.asarray(shape) - 1
    farthest = float(np.abs(corners @ (sform - qform).T).max())
    if farthest > FORMS_AGREE_MM:
        raise InputFault(
            f"{path}: qform and sform place the volume {farthest:.1f} mm apart; readers choose "
            "differently, so decide which is right and write both.",
            code="E_QSFORM",
        )


def _write(path: Path, array: np.ndarray, grid: Grid, *, packed: bool) -> None:
    image = nib.Nifti1Image(array, grid.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"medseg"
    image.set_qform(grid.affine, SCANNER)
    image.set_sform(grid.affine, SCANNER)
    data = image.to_bytes()
    path.write_bytes(deflated(data) if packed else data)


def _refuse_difference(
    path: Path, grid: Grid, grid_again: Grid, array: np.ndarray, array_again: np.ndarray
) -> None:
    if grid.difference(grid_again) or not np.array_equal(array, array_again):
        raise OSError(f"{path}: what was read back differs from what was written")


def _together(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
