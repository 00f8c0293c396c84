"""NIfTI files, read so that no damaged or ambiguous file passes for a good one.

Voxels are read slab by slab into their final array, so reading needs little beside the result.
What is written is read back before it gets its name.
"""

import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Shaped

from medseg.fault import InputFault
from medseg.io.atomic import atomic_path
from medseg.io.nifti_header import Header, header_of
from medseg.io.nifti_place import Form
from medseg.io.stream import Sink, Stream, crc32_of, open_stream
from medseg.volume import Grid, LabelTable, LabelVolume, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
# The bytes that are read at a time: enough slices that turning them to C order writes whole cache
# lines, one after the other. Within them the voxels of a tile stay in the processor's cache.
SLAB = 1 << 25
TILE = 1 << 17
ROWS = 4
WRITTEN_SLAB = 1 << 20
Slab = tuple[int, slice, np.ndarray]
QFORM_FITS_MM = 0.01
# Labels that a program scaled: one step of the stored values is this at most, and the factors are
# float32's, rounded once or twice.
FINE_STEP = 0.05
FACTORS_ROUND = 4 * float(np.finfo(np.float32).eps)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI; hidden files (unfinished ones, macOS' doubles) do not."""
    return path.name.lower().endswith(NIFTI_SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    name = path.name
    for suffix in reversed(NIFTI_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def read_header(path: Path, *, form: Form | None = None) -> Header:
    """Grid, channels and stored type of a NIfTI file.

    Where its sform and qform disagree, `form` is the one to take.

    Raises:
        InputFault: not a file, not NIfTI, or a header that must not be trusted.
    """
    with open_stream(path) as stream:
        return header_of(stream, form=form)


def read_volume(
    paths: Sequence[Path], channels: Sequence[str], *, form: Form | None = None
) -> Volume:
    """The image of shape (c, i, j, k) in `paths`: a file a channel, or one 4D file of them all.

    Where the sform and the qform of a file disagree, `form` is the one to take.

    Raises:
        InputFault: what `read_header` refuses, a truncated or corrupted body, channels on
            different grids (E_PAIR), another number of channels (E_CHANNELS), a voxel that is
            no number (E_NONFINITE) or too large a one (E_RANGE), one value only (E_CONST).
    """
    headers = [read_header(path, form=form) for path in paths]
    _refuse_other_grids(paths, headers)
    count = sum(header.channels for header in headers)
    if count != len(channels):
        raise InputFault(
            f"{_together(paths)}: {count} channels, but {len(channels)} "
            f"({', '.join(channels)}) are expected.",
            code="E_CHANNELS",
        )
    image = _allocated(paths[0], (count, *headers[0].grid.shape), np.float32)
    place = 0
    for path, header in zip(paths, headers, strict=True):
        with open_stream(path) as stream:
            _refuse_changed(stream, header, header_of(stream, form=form))
            _fill_image(image[place : place + header.channels], stream, header)
        place += header.channels
    try:
        volume = Volume(image, headers[0].grid, tuple(channels))
    except InputFault as fault:
        raise InputFault(f"{_together(paths)}: {fault}", code=fault.code) from fault
    _refuse_constant(paths, volume)
    return volume


def read_labels(path: Path, table: LabelTable, *, form: Form | None = None) -> LabelVolume:
    """The label map in `path`; every value must be whole and in `table`.

    Where its sform and qform disagree, `form` is the one to take.

    Raises:
        InputFault: what `read_header` refuses, a truncated or corrupted body, or a value that
            is no label (E_LABEL).
    """
    with open_stream(path) as stream:
        header = header_of(stream, form=form)
        if header.channels != 1:
            raise InputFault(
                f"{path}: {header.channels} channels; a label map has one. Merge one-hot masks "
                "first.",
                code="E_NDIM",
            )
        labels = _allocated(path, header.grid.shape, _label_type(header))
        _fill_labels(labels, stream, header)
    if labels.dtype == np.uint16 and labels.max() < 256:
        labels = labels.astype(np.uint8)
    try:
        return LabelVolume(labels, header.grid, table)
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}", code=fault.code) from fault


def write_labels(path: Path, labels: LabelVolume) -> None:
    """Write a label map, whole or not at all; it is read back before it gets its name.

    Raises:
        InputFault: a name that is no NIfTI's (E_SUFFIX), a full disk (E_DISKFULL), or a folder
            that cannot be written (E_WRITE).
    """
    # Runs are what label maps are made of: a third of the time and half the size of level 1.
    _write(path, labels.array[None], 1, labels.grid, strategy=zlib.Z_RLE)


def write_volume(path: Path, volume: Volume) -> None:
    """Write an image, 3D for one channel and else 4D, as `write_labels` writes labels."""
    write_channels(path, volume.array, len(volume.array), volume.grid)


def write_channels(
    path: Path, channels: Iterable[Shaped[np.ndarray, "i j k"]], count: int, grid: Grid
) -> None:
    """Write `count` channels of one type as `write_volume` does, each when its turn comes."""
    _write(path, channels, count, grid, strategy=zlib.Z_DEFAULT_STRATEGY)


def _tiles(stream: Stream, header: Header) -> Iterator[tuple[tuple[int, slice, slice], np.ndarray]]:
    """Channel, ranges along j and k, and the values there of shape (i, some j, some k)."""
    i, j, _ = header.grid.shape
    for channel, along_k, stored in _slabs(stream, header):
        rows = max(ROWS, TILE // (i * stored.shape[2]))
        for low in range(0, j, rows):
            along_j = slice(low, low + rows)
            yield (channel, along_j, along_k), _scaled(stored[:, along_j], header)


def _slabs(stream: Stream, header: Header) -> Iterator[Slab]:
    """Channel, range along k, and stored values of shape (i, j, some k), in the file's order."""
    i, j, k = header.grid.shape
    stream.skip_to(header.offset)
    thickness = max(1, SLAB // (i * j * header.dtype.itemsize))
    for channel in range(header.channels):
        for low in range(0, k, thickness):
            high = min(low + thickness, k)
            stored = np.empty(i * j * (high - low), dtype=header.dtype)
            stream.fill(stored.view(np.uint8))
            yield channel, slice(low, high), stored.reshape((i, j, high - low), order="F")
    stream.finish()


def _fill_image(image: np.ndarray, stream: Stream, header: Header) -> None:
    for (channel, along_j, along_k), values in _tiles(stream, header):
        if values.dtype.kind == "f" and values.dtype.itemsize > 4:
            _refuse_beyond_float32(values, stream.path)
        image[channel, :, along_j, along_k] = values


def _refuse_changed(stream: Stream, before: Header, now: Header) -> None:
    if before != now:
        raise InputFault(
            f"{stream.path}: it was changed while it was read; wait until it is written, and read "
            "it again.",
            code="E_CHANGED",
        )


def _scaled(stored: np.ndarray, header: Header) -> np.ndarray:
    """Float64 where the header scales, else as stored."""
    if not header.is_scaled:
        return stored
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float64) * header.slope + header.intercept


def _refuse_beyond_float32(values: np.ndarray, path: Path) -> None:
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > np.finfo(np.float32).max:
        raise InputFault(
            f"{path}: a voxel of {finite.max():g} is beyond what medseg computes with (3.4e38); "
            "repair the image.",
            code="E_RANGE",
        )


def _label_type(header: Header) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if header.dtype == np.uint8 and not header.is_scaled else np.uint16


def _fill_labels(labels: np.ndarray, stream: Stream, header: Header) -> None:
    largest = np.iinfo(labels.dtype).max
    for (_, along_j, along_k), found in _tiles(stream, header):
        values = _whole(found, header, stream.path) if found.dtype.kind == "f" else found
        low, high = values.min(), values.max()
        if low < 0 or high > largest:
            raise InputFault(
                f"{stream.path}: label values run from {low:g} to {high:g}; labels are 0 to "
                f"{largest}.",
                code="E_LABEL",
            )
        labels[:, along_j, along_k] = values


def _whole(values: np.ndarray, header: Header, path: Path) -> np.ndarray:
    """The whole numbers that values are, or that the header's scaling rounded.

    Writers store floating labels as integers and two factors. A label then lies beside the whole
    number by the rounding of the factors, and by half a step where no step falls on it.
    """
    whole = np.rint(values)
    with np.errstate(invalid="ignore"):
        off = np.abs(values - whole)
    if header.is_scaled:
        step = abs(header.slope) if header.dtype.kind != "f" else 0.0
        allowed = FACTORS_ROUND * (np.abs(values) + 2 * abs(header.intercept))
        off -= np.maximum(allowed, step / 2 if step <= FINE_STEP else 0.0)
    if not (off <= 0).all():
        scaled = f" (stored values x {header.slope:g} + {header.intercept:g})"
        raise InputFault(
            f"{path}: it holds values that are no whole numbers"
            f"{scaled if header.is_scaled else ''}; a label map that was resampled with "
            "interpolation cannot be used.",
            code="E_LABEL",
        )
    return whole


def _allocated(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    # The system promises more than it has, and ends the process when that is used.
    if size > _memory():
        raise _too_large(path, size)
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError as error:
        raise _too_large(path, size) from error


def _too_large(path: Path, size: int) -> InputFault:
    return InputFault(
        f"{path}: {size / 2**30:.1f} GiB of voxels do not fit into memory; crop the volume, or use "
        "a larger machine.",
        code="E_TOOBIG",
    )


def _memory() -> int:
    """The bytes that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _refuse_other_grids(paths: Sequence[Path], headers: Sequence[Header]) -> None:
    for path, header in zip(paths, headers, strict=True):
        difference = headers[0].apart(header)
        if difference:
            raise InputFault(
                f"{path}: it lies on another grid than {paths[0].name} ({difference}); "
                "the channels of a case must be registered and resampled onto one grid.",
                code="E_PAIR",
            )


def _refuse_constant(paths: Sequence[Path], volume: Volume) -> None:
    for name, channel in zip(volume.channels, volume.array, strict=True):
        value = float(channel.flat[0])
        # Most images show it in their first planes, and are not looked at any further.
        if all((plane == value).all() for plane in channel):
            raise InputFault(
                f"{_together(paths)}: every voxel of channel {name} is {value:g}; there is "
                "nothing to see. Export it again.",
                code="E_CONST",
            )


def _write(
    path: Path, channels: Iterable[np.ndarray], count: int, grid: Grid, *, strategy: int
) -> None:
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise InputFault(f"{path}: a NIfTI file is named .nii.gz or .nii.", code="E_SUFFIX")
    packed = path.name.lower().endswith(".gz")
    with atomic_path(path) as temporary:
        with temporary.open("wb") as target:
            sink = Sink(target, packed=packed, strategy=strategy)
            written = 0
            for channel in channels:
                if not written:
                    sink.write(_header_bytes(channel.dtype, count, grid))
                for part in _file_order(channel):
                    sink.write(part)
                written += 1
            assert written == count, (written, count)
            sink.finish()
        _verify(temporary, sink.crc32, grid)


def _header_bytes(dtype: np.dtype, count: int, grid: Grid) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((*grid.shape, count) if count > 1 else grid.shape)
    header.set_xyzt_units("mm")
    header.set_qform(grid.affine, grid.space)
    header.set_sform(grid.affine, grid.space)
    # A quaternion has no room for shear. Where it would mislead it is not given at all.
    rotated = Grid(grid.shape, np.asarray(header.get_qform()))
    if grid.difference(rotated, tolerance_mm=QFORM_FITS_MM):
        header["qform_code"] = 0
    header["descrip"] = b"medseg"
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)


def _file_order(channel: np.ndarray) -> Iterator[bytes]:
    i, j, k = channel.shape
    thickness = max(1, WRITTEN_SLAB // (i * j))
    for low in range(0, k, thickness):
        slab = channel[:, :, low : low + thickness]
        yield slab.astype(slab.dtype.newbyteorder("<"), copy=False).tobytes(order="F")


def _verify(temporary: Path, crc32: int, grid: Grid) -> None:
    """The header is parsed as any other, and every byte is read once more."""
    try:
        same = not read_header(temporary).grid.difference(grid) and crc32_of(temporary) == crc32
    except (InputFault, EOFError, zlib.error) as error:
        raise OSError("what was written cannot be read back") from error
    if not same:
        raise OSError("what was read back differs from what was written; the disk fails")


def _together(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
