"""The labels of a cascade's first stage as channels of the second, as nnU-Net resamples them.

Each label's mask is interpolated and the largest wins; of equal ones the label of the nearest
voxel if it is among them, else the smallest value (batchgenerators 0.25.5). Equal ones are common
where a side is doubled or halved, and there the last bit decides: so the sums are computed as
scipy's zoom does it, which is what is called there, but only where a cell holds several labels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from medseg.preprocess.operators import nearest_indices
from medseg.preprocess.record import Record

CHUNK = 1 << 16


def stage_channels(
    labels: Integer[np.ndarray, "i j k"],
    record: Record,
    values: Sequence[int],
    *,
    inside: Bool[np.ndarray, "a b c"],
) -> Float[np.ndarray, "labels x y z"]:
    """A channel of 0 and 1 for each of `values`, on the model's grid of `record`.

    `labels` lie on the source grid, `inside` on its oriented crop: there nnU-Net tells background
    within the body from what is outside of it, which is a label like any other here.
    """
    given = record.orient(labels).astype(np.int32)
    given[~inside & (given == 0)] = -1
    moved = _resampled(given, record.model_grid.shape, record.coarse_axis)
    return np.stack([moved == value for value in values]).astype(np.float32)


def _resampled(
    labels: Int[np.ndarray, "i j k"], shape: tuple[int, int, int], coarse_axis: int | None
) -> Int[np.ndarray, "x y z"]:
    if coarse_axis is not None and labels.shape[coarse_axis] != shape[coarse_axis]:
        indices = nearest_indices(labels.shape[coarse_axis], shape[coarse_axis])
        labels = np.take(labels, indices, axis=coarse_axis)
    sides = [_Side(old, new) for old, new in zip(labels.shape, shape, strict=True)]
    result = np.ascontiguousarray(labels[np.ix_(*(side.nearest for side in sides))])
    low, high = result.copy(), result.copy()
    for corner in np.ndindex(2, 2, 2):
        there = labels[np.ix_(*(side.ends[end] for side, end in zip(sides, corner, strict=True)))]
        np.minimum(low, there, out=low)
        np.maximum(high, there, out=high)
    mixed = np.flatnonzero(low != high)
    for first in range(0, len(mixed), CHUNK):
        places = np.unravel_index(mixed[first : first + CHUNK], shape)
        result[places] = _winners(labels, sides, places, result[places])
    return result


class _Side:
    """Where the voxels of one axis lie between those of the source, by scipy's arithmetic."""

    def __init__(self, old: int, new: int) -> None:
        place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        left = np.floor(place)
        share = 1.0 - (place - left)
        self.shares = share, 1.0 - share
        self.ends = left.astype(np.int64), np.minimum(left + 1, old - 1).astype(np.int64)
        self.nearest = np.floor(place + 0.5).astype(np.int64)


def _winners(
    labels: Int[np.ndarray, "i j k"],
    sides: Sequence[_Side],
    places: tuple[Int[np.ndarray, " n"], ...],
    nearest: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """The label of the largest sum of weights about each of `places`."""
    corners, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        at = [side.ends[end][n] for side, end, n in zip(sides, corner, places, strict=True)]
        i, j, k = (side.shares[end][n] for side, end, n in zip(sides, corner, places, strict=True))
        corners.append(labels[tuple(at)])
        weights.append(i * j * k)
    sums = [_sum_of(label, corners, weights) for label in corners]
    best = np.maximum.reduce(sums)
    largest = np.iinfo(nearest.dtype).max
    smallest = np.minimum.reduce(
        [
            np.where(total == best, label, largest)
            for label, total in zip(corners, sums, strict=True)
        ]
    )
    return np.where(_sum_of(nearest, corners, weights) == best, nearest, smallest)


def _sum_of(
    label: np.ndarray, corners: Sequence[np.ndarray], weights: Sequence[np.ndarray]
) -> Float[np.ndarray, " n"]:
    total = np.zeros(len(label))
    for corner, weight in zip(corners, weights, strict=True):
        total += np.where(corner == label, weight, 0.0)
    return total
