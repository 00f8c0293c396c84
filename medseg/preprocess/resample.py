"""Resampling between grids of the same field of view, axis by axis.

Images take a cubic B-spline, logits go back by linear interpolation. Along an axis of thick slices
both take the nearest slice, as labels do and as in nnU-Net, so that an image and its labels always
come from the same one.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from jaxtyping import Float

from medseg.preprocess.operators import (
    applied,
    cubic_operator,
    linear_operator,
    nearest_indices,
)
from medseg_kernels import cubic_spline

log = logging.getLogger(__name__)

COARSE = 3.0
SAME_SPACING = 1e-3
VOXELS_AT_ONCE = 1 << 18

Image = Float[np.ndarray, "i j k"]
Along = Callable[[Image, int, int], Image]


def resample_image(array: Image, shape: Sequence[int], *, coarse_axis: int | None = None) -> Image:
    """One channel on `shape` voxels of the same field of view, cubic, float32.

    A spline swings beyond its samples at an edge; the result is kept within the range of the array
    (of each slice where slices are thick), as by scikit-image and so by nnU-Net.
    """
    array = np.asarray(array, dtype=np.float32)
    shrinks = coarse_axis is not None and shape[coarse_axis] < array.shape[coarse_axis]
    if shrinks:
        array = _nearest_along(array, shape, coarse_axis)
    # Where slices become more, each is interpolated once and then repeated.
    around = tuple(array.shape[n] if n == coarse_axis else side for n, side in enumerate(shape))
    result = _resampled(array, around, _cubic)
    if result is not array:
        _clamp(result, array, coarse_axis)
    return _nearest_along(result, shape, coarse_axis)


def resample_linear(array: Image, shape: Sequence[int], *, coarse_axis: int | None = None) -> Image:
    """One channel on `shape` voxels of the same field of view, trilinear, float32."""
    array = _nearest_along(np.asarray(array, dtype=np.float32), shape, coarse_axis)
    return _resampled(array, shape, _linear)


def coarse_axis(spacing_mm: Sequence[float], other_mm: Sequence[float]) -> int | None:
    """The axis of thick slices, if any: more than three times the finest spacing, and alone so.

    The first of the two spacings that is this uneven decides (nnU-Net's rule).
    """
    for spacing in (spacing_mm, other_mm):
        coarsest = max(spacing)
        if coarsest / min(spacing) > COARSE:
            thick = [n for n, side in enumerate(spacing) if side > coarsest * (1 - SAME_SPACING)]
            return thick[0] if len(thick) == 1 else None
    return None


def _resampled(array: Image, shape: Sequence[int], along: Along) -> Image:
    i, j, k = array.shape
    # What lies between the two steps is kept small.
    if shape[0] * j * k <= i * shape[1] * shape[2]:
        return _planes(_along(array, shape, along, (0,)), shape, along)
    return _along(_planes(array, shape, along), shape, along, (0,))


def _planes(array: Image, shape: Sequence[int], along: Along) -> Image:
    """Each plane (j, k) resampled, some at a time, so that they stay in the cache."""
    sides = shape[1], shape[2]
    if array.shape[1:] == sides:
        return array
    result = np.empty((len(array), *sides), dtype=np.float32)
    step = max(1, VOXELS_AT_ONCE // max(array[0].size, result[0].size))
    for low in range(0, len(array), step):
        planes = slice(low, low + step)
        result[planes] = _along(array[planes], shape, along, (1, 2))
    return result


def _along(array: Image, shape: Sequence[int], along: Along, axes: tuple[int, ...]) -> Image:
    # Axes that shrink come first and leave less to do for those that grow.
    for axis in sorted(axes, key=lambda axis: shape[axis] / array.shape[axis]):
        if array.shape[axis] != shape[axis]:
            array = along(array, axis, shape[axis])
    return array


def _linear(array: Image, axis: int, size: int) -> Image:
    return applied(linear_operator(array.shape[axis], size), array, axis)


def _cubic(array: Image, axis: int, size: int) -> Image:
    if _is_compiled():
        return cubic_spline.spline_along(array, axis, size)
    return applied(cubic_operator(array.shape[axis], size), array, axis)


def _clamp(result: Image, array: Image, across: int | None) -> None:
    """Keep `result` within the range of `array`, each slice across an axis within its own."""
    if across == 2 and _is_compiled():
        cubic_spline.clamp(result, across, *cubic_spline.bounds(array, across))
        return
    axes = tuple(axis for axis in range(3) if axis != across)
    low, high = array.min(axis=axes, keepdims=True), array.max(axis=axes, keepdims=True)
    np.clip(result, low, high, out=result)


@cache
def _is_compiled() -> bool:
    refusal = cubic_spline.refuses()
    if refusal:
        log.info("images are resampled at half the speed, without C: %s", refusal)
    return refusal is None


def _nearest_along(array: Image, shape: Sequence[int], axis: int | None) -> Image:
    if axis is None or array.shape[axis] == shape[axis]:
        return array
    return np.take(array, nearest_indices(array.shape[axis], shape[axis]), axis=axis)
