"""The spline in C, by recursion along many lines at once: one thread, on a CPU."""

import ctypes
from functools import lru_cache
from pathlib import Path

import numpy as np

from medseg_kernels.native import library, missing

SOURCE = Path(__file__).with_name("spline.c")


def refuses() -> str | None:
    """Why this form cannot serve; None where it can."""
    return missing(SOURCE)


def spline_along(
    array: np.ndarray,  # (i, j, k)
    axis: int,
    target: int,
) -> np.ndarray:  # float32
    """The array with `target` voxels along `axis`."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    before, size, after = _around(array.shape, axis)
    left, weights = _taps(size, target)
    result = np.empty((*array.shape[:axis], target, *array.shape[axis + 1 :]), dtype=np.float32)
    failed = library(SOURCE).spline_along(
        _address(array),
        *map(ctypes.c_int64, (before, size, after)),
        _address(result),
        ctypes.c_int64(target),
        _address(left),
        _address(weights),
    )
    if failed:
        raise MemoryError(f"no memory for lines of {size} voxels")
    return result


def bounds(
    array: np.ndarray,  # (i, j, k)
    axis: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value of each slice across `axis`; of all where it is None."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    before, slices, after = _around(array.shape, axis)
    low, high = np.empty((2, slices), dtype=np.float32)
    library(SOURCE).bounds(
        _address(array),
        *map(ctypes.c_int64, (before, slices, after)),
        _address(low),
        _address(high),
    )
    return low, high


def clamp(
    array: np.ndarray,  # (i, j, k) float32, C order; written to
    axis: int | None,
    low: np.ndarray,  # (slices,)
    high: np.ndarray,  # (slices,)
) -> None:
    """Keep each slice across `axis` within `low` and `high`, in place."""
    assert array.flags.c_contiguous
    assert array.dtype == low.dtype == high.dtype == np.float32
    before, slices, after = _around(array.shape, axis)
    assert len(low) == len(high) == slices
    library(SOURCE).clamp(
        _address(array),
        *map(ctypes.c_int64, (before, slices, after)),
        _address(low),
        _address(high),
    )


def _around(shape: tuple[int, ...], axis: int | None) -> tuple[int, int, int]:
    if axis is None:
        return 1, 1, int(np.prod(shape))
    return int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))


@lru_cache(maxsize=32)
def _taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """For each target voxel the source voxel before it (from -1), and four weights (target, 4)."""
    place = (np.arange(target) + 0.5) * size / target - 0.5
    left = np.floor(place).astype(np.int64)
    t = place - left
    weights = np.stack(
        [(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3], axis=1
    )
    return left, weights.astype(np.float32)


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
