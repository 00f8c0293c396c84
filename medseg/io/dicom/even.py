"""Slices of a tilted gantry or of uneven gaps, resampled onto one rectangular grid.

Planes stay parallel, so a voxel is interpolated linearly between its two neighboring planes, in
each of them bilinearly at the same point of the patient: along the true shear.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medseg.io.dicom.stack import Stack

Plane = Float[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class EvenGrid:
    """A rectangular grid around a stack: its shape (i, j, k), LPS affine, and planes along k."""

    shape: tuple[int, int, int]
    affine_lps: np.ndarray
    places_mm: np.ndarray
    # Pixels (along a row, along a column) from the grid's first pixel to that of each slice.
    offsets: np.ndarray


def even_grid(stack: Stack) -> EvenGrid:
    """The smallest grid of the stack's pixel size that holds it; its finest usual gap along k."""
    places = np.array([one.place_mm for one in stack.slices])
    count = round((places[-1] - places[0]) / _finest_gap_mm(stack)) + 1
    new_places = np.linspace(places[0], places[-1], count)
    positions = stack.positions_lps_mm
    offsets = (positions - positions[0]) @ stack.cosines.T / np.array(stack.spacing_mm)
    low = np.floor(offsets.min(axis=0) + 1e-6)
    size = np.ceil(offsets.max(axis=0) - 1e-6) - low
    columns, rows, _ = stack.shape
    axes = stack.cosines * np.array(stack.spacing_mm)[:, None]
    normal = np.cross(stack.cosines[0], stack.cosines[1])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = axes
    affine[:3, 2] = normal * (new_places[1] - new_places[0])
    affine[:3, 3] = positions[0] + low @ axes
    shape = (columns + int(size[0]), rows + int(size[1]), count)
    return EvenGrid(shape, affine, new_places, offsets - low)


def even_planes(
    stack: Stack, grid: EvenGrid, planes: Sequence[Plane] | Iterator[Plane]
) -> Iterator[Plane]:
    """The planes of `grid` in order, from the values of the stack's slices in order.

    Where no slice reaches, the lowest value of the nearest slice stands.
    """
    places = [one.place_mm for one in stack.slices]
    source = iter(planes)
    before = after = _placed(next(source), grid, 0)
    upper = 0
    for place in grid.places_mm:
        while upper < len(places) - 1 and places[upper] < place - 1e-6:
            upper += 1
            before, after = after, _placed(next(source), grid, upper)
        if upper == 0:
            yield after
            continue
        share = (place - places[upper - 1]) / (places[upper] - places[upper - 1])
        yield before + np.float32(np.clip(share, 0, 1)) * (after - before)


def _finest_gap_mm(stack: Stack) -> float:
    """The finest gap that at least a tenth of the slices keep."""
    gaps = np.sort(stack.gaps_mm)
    usual = [gap for gap in gaps if np.mean(np.abs(gaps - gap) < 0.05 * gap) >= 0.1]
    return float(usual[0] if usual else np.median(gaps))


def _placed(plane: Plane, grid: EvenGrid, slice_number: int) -> Plane:
    """A slice at its place in the plane of the grid, shifted by its fraction of a pixel."""
    columns, rows, _ = grid.shape
    across, down = grid.offsets[slice_number]
    whole_across, whole_down = int(np.floor(across + 1e-6)), int(np.floor(down + 1e-6))
    canvas = np.full((rows, columns), plane.min(), dtype=np.float32)
    canvas[
        whole_down : whole_down + plane.shape[0], whole_across : whole_across + plane.shape[1]
    ] = plane
    canvas = _shifted(canvas, down - whole_down, axis=0)
    return _shifted(canvas, across - whole_across, axis=1)


def _shifted(canvas: Plane, fraction: float, *, axis: int) -> Plane:
    """The canvas moved up by a fraction of a pixel, bilinearly; its first line stays."""
    if fraction < 1e-6:
        return canvas
    before = np.concatenate(
        [
            np.take(canvas, [0], axis=axis),
            np.take(canvas, range(canvas.shape[axis] - 1), axis=axis),
        ],
        axis=axis,
    )
    return canvas + np.float32(fraction) * (before - canvas)
