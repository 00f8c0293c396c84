"""Resampling between grids of the same field of view, axis by axis.

Voxel n of a side of N lies at (n + 0.5) / N of the field of view, as in nnU-Net and scikit-image.
Images take a cubic B-spline, whose separable form costs four products an axis and voxel instead of
64 a voxel; labels take the linear interpolation of each label's mask and the largest of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

COARSE = 3.0


@dataclass(frozen=True)
class Taps:
    """For each output position of an axis: source indices (n, t) and their weights (n, t)."""

    indices: np.ndarray
    weights: np.ndarray


def resample_image(
    array: np.ndarray, shape: Sequence[int], *, coarse_axis: int | None = None
) -> np.ndarray:
    """One channel (i, j, k) on `shape` voxels of the same field of view, float32.

    Cubic B-spline; along `coarse_axis` the nearest voxel, as nnU-Net does where slices are thick.
    """
    result = np.asarray(array, dtype=np.float32)
    for axis, size in enumerate(shape):
        if result.shape[axis] == size:
            continue
        if axis == coarse_axis:
            result = np.take(result, _nearest(result.shape[axis], size), axis=axis)
        else:
            result = _weighted(
                _prefiltered(result, axis), cubic_taps(result.shape[axis], size), axis
            )
    return result


def resample_linear(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One channel (i, j, k) on `shape` voxels of the same field of view, trilinear, float32."""
    result = np.asarray(array, dtype=np.float32)
    for axis, size in enumerate(shape):
        if result.shape[axis] != size:
            result = _weighted(result, linear_taps(result.shape[axis], size), axis)
    return result


def resample_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Label values on `shape` voxels: at each voxel the label whose linear mask is largest.

    At equal weights the smaller value wins. No mask of every label is held at once.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    best = np.full(tuple(shape), -1.0, dtype=np.float32)
    result = np.zeros(tuple(shape), dtype=labels.dtype)
    for value in np.flatnonzero(np.bincount(labels.ravel())):
        weight = resample_linear((labels == value).astype(np.float32), shape)
        wins = weight > best + 1e-6
        np.copyto(best, weight, where=wins)
        result[wins] = value
    return result


def coarse_axis(spacing_mm: Sequence[float], other_mm: Sequence[float]) -> int | None:
    """The axis along which either grid is more than three times coarser than its finest axis."""
    for spacing in (spacing_mm, other_mm):
        if max(spacing) / min(spacing) > COARSE:
            return int(np.argmax(spacing))
    return None


def cubic_taps(source: int, target: int) -> Taps:
    """Cubic B-spline weights; beyond the ends the source is mirrored about its end voxels."""
    place = _places(source, target)
    left = np.floor(place).astype(np.int64)
    t = place - left
    weights = np.stack(
        [
            (1 - t) ** 3 / 6,
            (4 - 6 * t**2 + 3 * t**3) / 6,
            (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6,
            t**3 / 6,
        ],
        axis=1,
    )
    return Taps(_mirrored(left[:, None] + np.arange(-1, 3), source), weights)


def linear_taps(source: int, target: int) -> Taps:
    """Linear weights; beyond the centers of the end voxels the source is constant."""
    place = _places(source, target)
    left = np.minimum(np.floor(place).astype(np.int64), max(source - 2, 0))
    t = place - left
    indices = np.minimum(left[:, None] + np.arange(2), source - 1)
    return Taps(indices, np.stack([1 - t, t], axis=1))


def _places(source: int, target: int) -> np.ndarray:
    place = (np.arange(target) + 0.5) * source / target - 0.5
    return np.clip(place, 0, source - 1)


def _nearest(source: int, target: int) -> np.ndarray:
    return np.minimum(np.rint(_places(source, target)).astype(np.int64), source - 1)


def _mirrored(indices: np.ndarray, size: int) -> np.ndarray:
    if size == 1:
        return np.zeros_like(indices)
    period = 2 * (size - 1)
    folded = np.abs(indices) % period
    return np.where(folded >= size, period - folded, folded)


def _prefiltered(array: np.ndarray, axis: int) -> np.ndarray:
    if array.shape[axis] == 1:
        return array
    output = np.empty(array.shape, dtype=np.float32)
    ndimage.spline_filter1d(array, 3, axis=axis, output=output, mode="mirror")
    return output


def _weighted(array: np.ndarray, taps: Taps, axis: int) -> np.ndarray:
    along = [1, 1, 1]
    along[axis] = -1
    result = None
    for tap in range(taps.indices.shape[1]):
        part = np.take(array, taps.indices[:, tap], axis=axis)
        part *= taps.weights[:, tap].astype(np.float32).reshape(along)
        result = part if result is None else np.add(result, part, out=result)
    assert result is not None
    return result
