"""The linear maps that take one axis of a volume onto another number of voxels.

Interpolation along an axis is a matrix (target, source) with a narrow band of weights. Built once
and applied band by band with a matrix product, it costs 2 to 4 ns a voxel and axis; scipy's spline
of order 3 costs 190 a voxel.

Voxel n of a side of N lies at (n + 0.5) / N of the field of view, as in nnU-Net, scikit-image and
scipy's `grid_mode`; beyond the centers of the end voxels a volume is constant.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import ndimage

ROWS = 48
NEGLIGIBLE = 1e-8
# The influence of a sample on the spline's coefficients falls to 0.268 at each step: 1e-7 here.
SPLINE_MARGIN = 12

Operator = Float[np.ndarray, "target source"]


@lru_cache(maxsize=16)
def cubic_operator(source: int, target: int) -> Operator:
    """Interpolation by a cubic B-spline through the samples (Unser 1999, eq. 13 and 15).

    The samples are continued as constants before the spline's coefficients are found, so that the
    result is that of scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True).
    """
    samples = np.pad(np.eye(source), ((SPLINE_MARGIN, SPLINE_MARGIN), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(samples, 3, axis=0, mode="mirror", output=np.float64)
    place = _places(source, target) + SPLINE_MARGIN
    left = np.floor(place).astype(np.int64)
    t = (place - left)[:, None]
    return _frozen(
        (1 - t) ** 3 / 6 * coefficients[left - 1]
        + (4 - 6 * t**2 + 3 * t**3) / 6 * coefficients[left]
        + (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6 * coefficients[left + 1]
        + t**3 / 6 * coefficients[left + 2]
    )


@lru_cache(maxsize=16)
def linear_operator(source: int, target: int) -> Operator:
    """Linear interpolation; its weights are never negative and sum to 1."""
    left, t = linear_places(source, target)
    operator = np.zeros((target, source))
    rows = np.arange(target)
    operator[rows, left] = 1 - t
    operator[rows, np.minimum(left + 1, source - 1)] += t
    return _frozen(operator)


def linear_places(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """For each target voxel the source voxel before it and how far beyond that it lies (0 to 1)."""
    place = np.clip(_places(source, target), 0, source - 1)
    left = np.floor(place).astype(np.int64)
    return left, place - left


def nearest_indices(source: int, target: int) -> np.ndarray:
    """For each target voxel the source voxel nearest to it; the later one of two as near.

    Which two are as near is a matter of the last bit, so it is computed in nnU-Net's order.
    """
    place = source / target * (np.arange(target) + 0.5) - 0.5
    return np.minimum(np.floor(place + 0.5).astype(np.int64), source - 1)


def applied(
    operator: Operator, array: Float[np.ndarray, "i j k"], axis: int
) -> Float[np.ndarray, "i j k"]:
    """The array with `operator` applied along `axis`, float32 in C order."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    before, size, after = (
        int(np.prod(array.shape[:axis])),
        array.shape[axis],
        int(np.prod(array.shape[axis + 1 :])),
    )
    shape = (*array.shape[:axis], len(operator), *array.shape[axis + 1 :])
    result = np.empty(shape, dtype=np.float32)
    given, wanted = array.reshape(before, size, after), result.reshape(before, -1, after)
    for low in range(0, len(operator), ROWS):
        rows = slice(low, min(low + ROWS, len(operator)))
        used = np.flatnonzero(operator[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
        weights = np.ascontiguousarray(operator[rows, columns])
        if after == 1:
            np.matmul(given[:, columns, 0], weights.T, out=wanted[:, rows, 0])
        else:
            np.matmul(weights, given[:, columns], out=wanted[:, rows])
    return result


def _places(source: int, target: int) -> np.ndarray:
    """Where the target's voxel centers lie, counted in source voxels: -0.5 to source - 0.5."""
    return (np.arange(target) + 0.5) * source / target - 0.5


def _frozen(operator: np.ndarray) -> Operator:
    operator[np.abs(operator) < NEGLIGIBLE] = 0
    narrow = operator.astype(np.float32)
    narrow.flags.writeable = False
    return narrow
