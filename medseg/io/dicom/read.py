"""A series of slices as a volume on its place in the patient, with notes of what was mended."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.fault import InputFault
from medseg.io.dicom.even import EvenGrid, even_grid, even_planes
from medseg.io.dicom.pixels import stored_values
from medseg.io.dicom.series import Series
from medseg.io.dicom.stack import Slice, Stack, stacked
from medseg.volume import Grid, Volume

# DICOM's axes run to the left and the back, ours to the right and the front.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Slices turned to C order at once: enough that whole cache lines are written.
AT_ONCE = 32
# And rows of each: so few that they stay in the cache (a third of the time of whole slices).
ROWS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Reading:
    """A volume of one channel, the files it is from in the order of k, and what to know of it.

    `repairs` tell what was mended; `notes` are those and what else a user may wonder about. Where
    slices were resampled the files are those of the slices as scanned, not of the planes.
    """

    volume: Volume
    files: tuple[Path, ...]
    repairs: tuple[str, ...]
    notes: tuple[str, ...]


def read_series(series: Series, channel: str, *, repair: bool = True) -> Reading:
    """The volume of a series: i along its rows, j along its columns, k along the normal.

    Values are those after RescaleSlope and RescaleIntercept, of PET in SUV by body weight.

    Raises:
        InputFault: what `stacked` and `stored_values` refuse, voxels that are all the same
            (E_CONST) or no numbers (E_NONFINITE).
    """
    stack = stacked(series, repair=repair)
    grid = None if stack.is_even else even_grid(stack)
    shape = stack.shape if grid is None else grid.shape
    image = _allocated(series, shape)
    _fill(image, _planes(stack, grid))
    try:
        volume = Volume(image[None], _grid_of(stack, grid), (channel,))
    except InputFault as fault:
        raise InputFault(f"{series.folder}: {fault}", code=fault.code) from fault
    if image.min() == image.max():
        raise InputFault(
            f"{series.folder}: every voxel of the series is {image.flat[0]:g}; there is nothing "
            "to see. Export it again.",
            code="E_CONST",
        )
    files = tuple(dict.fromkeys(one.instance.file for one in stack.slices))
    repairs = tuple(f"{series.folder}: {note}" for note in stack.notes)
    remarks = tuple(f"{series.folder}: {remark}" for remark in stack.remarks)
    return Reading(volume, files, repairs, repairs + remarks)


def series_grid(series: Series, *, repair: bool = True) -> Grid:
    """The grid that `read_series` gives, from the headers alone.

    Raises:
        InputFault: what `stacked` refuses.
    """
    stack = stacked(series, repair=repair)
    return _grid_of(stack, None if stack.is_even else even_grid(stack))


def _grid_of(stack: Stack, even: EvenGrid | None) -> Grid:
    if even is None:
        return Grid(stack.shape, LPS_TO_RAS @ _even_affine(stack))
    return Grid(even.shape, LPS_TO_RAS @ even.affine_lps)


def _even_affine(stack: Stack) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :2] = stack.cosines.T * np.array(stack.spacing_mm)
    affine[:3, 2] = stack.step_lps_mm
    affine[:3, 3] = stack.positions_lps_mm[0]
    return affine


def _allocated(series: Series, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        return np.empty(shape, dtype=np.float32)
    except MemoryError as error:
        raise InputFault(
            f"{series.folder}: {np.prod(shape, dtype=float) * 4 / 2**30:.1f} GiB of voxels do not "
            "fit into memory; use a larger machine.",
            code="E_TOOBIG",
        ) from error


def _planes(stack: Stack, grid: EvenGrid | None) -> Iterator[np.ndarray]:
    values = (
        _scaled(stored, one)
        for stored, one in zip(stored_values(stack.slices), stack.slices, strict=True)
    )
    return values if grid is None else even_planes(stack, grid, values)


def _scaled(stored: np.ndarray, one: Slice) -> np.ndarray:
    # What is beyond float32 becomes infinite, which the volume refuses.
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored * np.float64(one.frame.slope) + one.frame.intercept
        return values.astype(np.float32)


def _fill(image: np.ndarray, planes: Iterator[np.ndarray]) -> None:
    """Planes (rows, columns) into (i, j, k), some at a time."""
    columns, rows, count = image.shape
    block = np.empty((min(AT_ONCE, count), rows, columns), dtype=np.float32)
    filled = 0
    for place, plane in enumerate(planes):
        block[place - filled] = plane
        if place + 1 - filled == len(block) or place + 1 == count:
            for row in range(0, rows, ROWS_AT_ONCE):
                some = block[: place + 1 - filled, row : row + ROWS_AT_ONCE]
                image[:, row : row + ROWS_AT_ONCE, filled : place + 1] = some.transpose(2, 1, 0)
            filled = place + 1
