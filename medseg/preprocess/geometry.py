"""Where voxels lie after they were oriented, cropped and resampled."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from medseg.fault import InputFault
from medseg.volume import Grid, shown
from medseg.volume.grid import SCANNER

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Axes = tuple[int, int, int]
Flips = tuple[bool, bool, bool]
Orientation = Literal["RAS", "stored"]

# 2 GiB a channel in float32: more than any scanner gives, and a spacing that nobody meant.
MOST_VOXELS = 1 << 31
# How far the length of a direction in float32 may be off, and the fractions that spacings are.
BLUR = 2e-7
BINARY = 1024
DIGITS = 5


def orientation(grid: Grid) -> tuple[Axes, Flips]:
    """For each of R, A, S: the array axis nearest to it and whether it runs the other way."""
    worlds, signs = grid.nearest_axes()
    a, b, c = (worlds.index(world) for world in range(3))
    return (a, b, c), (signs[a] < 0, signs[b] < 0, signs[c] < 0)


def oriented_axes(grid: Grid, wanted: Orientation, order: Axes) -> tuple[Axes, Flips]:
    """For each axis of the model the array axis it is, and whether it runs the other way.

    The array is turned to RAS or left as it is stored; `order` names its axes from the first of
    the model to the last.
    """
    axes, flips = orientation(grid) if wanted == "RAS" else ((0, 1, 2), (False, False, False))
    a, b, c = order
    return (axes[a], axes[b], axes[c]), (flips[a], flips[b], flips[c])


def reversal(flips: Flips) -> tuple[slice, slice, slice]:
    """The index that reverses the flipped axes: a view, no copy."""
    i, j, k = (slice(None, None, -1) if flip else slice(None) for flip in flips)
    return i, j, k


def whole_box(shape: tuple[int, int, int]) -> Box:
    """The box of all voxels."""
    return (0, shape[0]), (0, shape[1]), (0, shape[2])


def nonzero_box(image: Float[np.ndarray, "c i j k"]) -> Box:
    """The smallest box of all voxels that are not 0 in some channel.

    Raises:
        InputFault: there is none (E_CONST).
    """
    inside = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        inside |= channel != 0
    sides = []
    for axis in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if hit.size == 0:
            raise InputFault(
                "every voxel of the image is 0; there is nothing to segment.", code="E_CONST"
            )
        sides.append((int(hit[0]), int(hit[-1]) + 1))
    return sides[0], sides[1], sides[2]


def filled_nonzero(
    channels: Sequence[Float[np.ndarray, "i j k"]],
) -> Bool[np.ndarray, "i j k"]:
    """The voxels that are not 0 in some channel, and the holes that they enclose (nnU-Net)."""
    inside = np.zeros(channels[0].shape, dtype=bool)
    for channel in channels:
        inside |= channel != 0
    filled = ndimage.binary_fill_holes(inside)
    assert filled is not None
    return filled


def cropped_grid(grid: Grid, axes: Axes, flips: Flips, box: Box) -> Grid:
    """The grid of the oriented crop: each of its voxels is where a source voxel is, exactly."""
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1
    for target, (axis, flip, (low, _)) in enumerate(zip(axes, flips, box, strict=True)):
        to_source[axis, target] = -1 if flip else 1
        to_source[axis, 3] = grid.shape[axis] - 1 - low if flip else low
    i, j, k = (high - low for low, high in box)
    return Grid((i, j, k), grid.affine @ to_source, grid.space)


def stated_spacing(grid: Grid) -> tuple[float, float, float]:
    """The voxel size that a file stated, where oblique directions blur it in its affine.

    NIfTI keeps directions in float32, so the length of an oblique one is off by up to 1e-7. Where
    a side is to be rounded, 33 x 1.5 mm to voxels of 1 mm say, that would decide.
    """
    oblique = np.count_nonzero(grid.affine[:3, :3], axis=0) > 1
    i, j, k = (
        _unblurred(mm) if blurred else mm
        for mm, blurred in zip(grid.spacing_mm, oblique, strict=True)
    )
    return i, j, k


def _unblurred(mm: float) -> float:
    """The binary or decimal fraction that `mm` is off by no more than float32 rounds, if any."""
    for near in (round(mm * BINARY) / BINARY, float(np.float32(f"{mm:.{DIGITS}g}"))):
        if abs(near - mm) <= BLUR * mm:
            return near
    return float(np.float32(mm))


def respaced(grid: Grid, spacing_mm: tuple[float, float, float] | None) -> Grid:
    """The grid over the same field of view with (nearly) another spacing.

    Each side is rounded to whole voxels (nnU-Net's rule), so the true spacing is field of view /
    side. The first voxel's center moves, for it is half a voxel within the field of view.

    Raises:
        InputFault: the grid would have more voxels than can be computed with (E_SPACING).
    """
    if spacing_mm is None:
        return grid
    old = np.asarray(grid.shape)
    # In this order, as nnU-Net, for a half is rounded by the last bit.
    sides = np.maximum(np.rint(np.array(stated_spacing(grid)) / np.array(spacing_mm) * old), 1)
    if np.prod(sides) > MOST_VOXELS:
        raise InputFault(
            f"spacing {spacing_mm} mm would make {shown(tuple(int(side) for side in sides))} "
            f"voxels of {shown(grid.shape)}; choose a coarser one.",
            code="E_SPACING",
        )
    new = sides.astype(int)
    scale = old / new
    affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, :3] @ (0.5 * scale - 0.5)
    affine[:3, :3] *= scale
    return Grid((int(new[0]), int(new[1]), int(new[2])), affine, grid.space)


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """A grid as plain JSON values; every bit of the affine is kept."""
    return {"shape": list(grid.shape), "affine": grid.affine.tolist(), "space": grid.space}


def grid_from_json(data: Mapping[str, Any]) -> Grid:
    """The grid that `grid_to_json` wrote."""
    i, j, k = data["shape"]
    return Grid((i, j, k), np.asarray(data["affine"]), data.get("space", SCANNER))
