"""Resampling between grids of the same field of view, axis by axis.

Images take a cubic B-spline, logits go back by linear interpolation. Along an axis of thick slices
both take the nearest slice, as labels do and as in nnU-Net, so that an image and its labels always
come from the same one.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from medseg.preprocess.operators import (
    Operator,
    applied,
    cubic_operator,
    linear_operator,
    nearest_indices,
)

COARSE = 3.0
SAME_SPACING = 1e-3

Image = Float[np.ndarray, "i j k"]


def resample_image(array: Image, shape: Sequence[int], *, coarse_axis: int | None = None) -> Image:
    """One channel on `shape` voxels of the same field of view, cubic, float32.

    A spline swings beyond its samples at an edge; the result is kept within the range of the array
    (of each slice where slices are thick), as by scikit-image and so by nnU-Net.
    """
    array = _nearest_along(np.asarray(array, dtype=np.float32), shape, coarse_axis)
    result = _resampled(array, shape, cubic_operator)
    if result is array:
        return result
    across = tuple(axis for axis in range(3) if axis != coarse_axis)
    low, high = array.min(axis=across, keepdims=True), array.max(axis=across, keepdims=True)
    return np.clip(result, low, high, out=result)


def resample_linear(array: Image, shape: Sequence[int], *, coarse_axis: int | None = None) -> Image:
    """One channel on `shape` voxels of the same field of view, trilinear, float32."""
    array = _nearest_along(np.asarray(array, dtype=np.float32), shape, coarse_axis)
    return _resampled(array, shape, linear_operator)


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


def _resampled(
    array: Image, shape: Sequence[int], operator_of: Callable[[int, int], Operator]
) -> Image:
    result = array
    # Axes that shrink come first and leave less to do for those that grow.
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis]):
        if result.shape[axis] != shape[axis]:
            result = applied(operator_of(result.shape[axis], shape[axis]), result, axis)
    return result


def _nearest_along(array: Image, shape: Sequence[int], axis: int | None) -> Image:
    if axis is None or array.shape[axis] == shape[axis]:
        return array
    return np.take(array, nearest_indices(array.shape[axis], shape[axis]), axis=axis)
