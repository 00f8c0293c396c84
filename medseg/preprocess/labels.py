"""Label values on another grid of the same field of view.

At each voxel wins the label whose mask, linearly interpolated, is largest. Interpolation makes a
convex sum of the corners of a cell, so where they are equal the label is known without computing;
the rest, voxels at the borders of labels, costs the same for two labels as for a hundred.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from medseg.preprocess.operators import linear_places, nearest_indices

TIE = 1e-6
CHUNK = 1 << 14

Labels = Integer[np.ndarray, "i j k"]


def resample_labels(
    labels: Labels, shape: Sequence[int], *, coarse_axis: int | None = None
) -> Labels:
    """Label values on `shape` voxels: at each the label of the largest interpolated mask.

    At equal weights the label of the nearer voxel wins, and of equally near ones the smaller value.
    Along `coarse_axis` the nearest voxel is taken. Labels of this very shape come back as given.
    """
    if coarse_axis is not None and labels.shape[coarse_axis] != shape[coarse_axis]:
        indices = nearest_indices(labels.shape[coarse_axis], shape[coarse_axis])
        labels = np.take(labels, indices, axis=coarse_axis)
    moving = [axis for axis in range(3) if labels.shape[axis] != shape[axis]]
    if not moving:
        return labels
    result, mixed = _by_cells(labels, shape, moving)
    _decide(labels, result, np.flatnonzero(mixed), moving)
    return result


def _by_cells(
    labels: Labels, shape: Sequence[int], moving: Sequence[int]
) -> tuple[Labels, Bool[np.ndarray, "i j k"]]:
    """The smallest label of the cell around each target voxel, and whether there are others."""
    low, high = labels, labels
    for axis in moving:
        following = np.minimum(np.arange(labels.shape[axis]) + 1, labels.shape[axis] - 1)
        low = np.minimum(low, np.take(low, following, axis=axis))
        high = np.maximum(high, np.take(high, following, axis=axis))
    mixed = low != high
    for axis in sorted(moving, key=lambda axis: shape[axis] / labels.shape[axis]):
        left, _ = linear_places(labels.shape[axis], shape[axis])
        low, mixed = np.take(low, left, axis=axis), np.take(mixed, left, axis=axis)
    return np.ascontiguousarray(low), np.ascontiguousarray(mixed)


def _decide(
    labels: Labels, result: Labels, places: Int[np.ndarray, " n"], moving: Sequence[int]
) -> None:
    """Set `result` at flat `places` to the label of the largest weight there."""
    flat, source = result.reshape(-1), np.ascontiguousarray(labels).reshape(-1)
    for start in range(0, len(places), CHUNK):
        chunk = places[start : start + CHUNK]
        offsets, weights = _corners(labels.shape, result.shape, chunk, moving)
        flat[chunk] = _heaviest(np.take(source, offsets), weights)


def _corners(
    source: Sequence[int], target: tuple[int, ...], places: np.ndarray, moving: Sequence[int]
) -> tuple[Int[np.ndarray, "corner n"], Float[np.ndarray, "corner n"]]:
    """Flat source indices and linear weights of the corners of the cells around flat `places`."""
    offsets = np.zeros((1, len(places)), dtype=np.int64)
    weights = np.ones((1, len(places)), dtype=np.float32)
    strides = (source[1] * source[2], source[2], 1)
    for axis, index in enumerate(np.unravel_index(places, target)):
        if axis not in moving:
            offsets += index * strides[axis]
            continue
        left, beyond = linear_places(source[axis], target[axis])
        sides = np.stack([left, np.minimum(left + 1, source[axis] - 1)]) * strides[axis]
        shares = np.stack([1 - beyond, beyond]).astype(np.float32)
        offsets = (offsets + np.take(sides, index, axis=1)[:, None]).reshape(-1, len(places))
        weights = (weights * np.take(shares, index, axis=1)[:, None]).reshape(-1, len(places))
    return offsets, weights


def _heaviest(
    corners: Integer[np.ndarray, "corner n"], weights: Float[np.ndarray, "corner n"]
) -> Integer[np.ndarray, " n"]:
    """The label with the largest sum of weights in each column."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    is_low, is_high = corners == low, corners == high
    of_low = np.einsum("cn,cn->n", weights, is_low, dtype=np.float32)
    of_high = np.einsum("cn,cn->n", weights, is_high, dtype=np.float32)
    winner = np.where(of_high > of_low, high, low)
    # Most cells hold two labels, one of them heavier. The others take a longer way.
    open_ = ~(is_low | is_high).all(axis=0) | (np.abs(of_high - of_low) <= TIE)
    more = np.flatnonzero(open_)
    if more.size:
        winner[more] = _heaviest_of_many(corners[:, more], weights[:, more])
    return winner


def _heaviest_of_many(
    corners: Integer[np.ndarray, "corner n"], weights: Float[np.ndarray, "corner n"]
) -> Integer[np.ndarray, " n"]:
    """Of equal sums the label of the nearest corner, of equally near ones the smaller value.

    A flipped volume so has the same labels, flipped.
    """
    sums = weights.copy()
    for one, other in combinations(range(len(corners)), 2):
        same = corners[one] == corners[other]
        sums[one] += weights[other] * same
        sums[other] += weights[one] * same
    near = np.where(sums > sums.max(axis=0) - TIE, weights, np.float32(-1))
    wins = near > near.max(axis=0) - TIE
    return np.where(wins, corners, np.iinfo(corners.dtype).max).min(axis=0)
