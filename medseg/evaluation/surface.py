"""Surfaces of masks on a voxel grid, and the distances between two of them.

The surface of a mask is its border voxels: those with a face neighbor outside the mask, or on the
end of the volume. MONAI measures HD95 and (by default) NSD on the same voxels. DeepMind's
surface-distance puts weighted surface elements between voxels instead, which gives other NSDs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial import KDTree

# Two sums of the same spacings differ by rounding; a distance this close to a tolerance is within.
ROUNDING_MM = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """For each border voxel of one mask the distance to the border of the other, in mm."""

    from_prediction_mm: np.ndarray
    from_truth_mm: np.ndarray

    def hd95_mm(self) -> float:
        """The larger of the two directed 95th percentiles."""
        both = (self.from_prediction_mm, self.from_truth_mm)
        return max(float(np.percentile(distances, 95)) for distances in both)

    def nsd(self, tolerance_mm: float) -> float:
        """Share of all border voxels that lie within the tolerance of the other border."""
        both = (self.from_prediction_mm, self.from_truth_mm)
        within = sum(int((d <= tolerance_mm + ROUNDING_MM).sum()) for d in both)
        return within / sum(d.size for d in both)


def border_voxels(indices: np.ndarray, count: int) -> list[np.ndarray]:
    """Border voxels of masks 1..count, as rising flat positions in `indices` (i, j, k).

    `indices` holds for each voxel the mask it belongs to, 0 for none: all masks in one pass.
    """
    border = np.zeros(indices.shape, dtype=bool)
    for axis in range(3):
        voxels, edge = np.moveaxis(indices, axis, 0), np.moveaxis(border, axis, 0)
        differs = voxels[1:] != voxels[:-1]
        edge[1:] |= differs
        edge[:-1] |= differs
        edge[0] = True
        edge[-1] = True
    border &= indices != 0
    places = np.flatnonzero(border)
    owners = indices.ravel()[places]
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, count + 2))
    return [places[order[a:b]] for a, b in pairwise(ends)]


def surface_distances(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float],
) -> SurfaceDistances:
    """Distances between two borders, given as flat positions in a volume of `shape`."""
    points = [_points_mm(places, shape, spacing_mm) for places in (prediction, truth)]
    return SurfaceDistances(
        from_prediction_mm=_nearest_mm(prediction, points[0], truth, points[1]),
        from_truth_mm=_nearest_mm(truth, points[1], prediction, points[0]),
    )


def _points_mm(
    places: np.ndarray, shape: tuple[int, int, int], spacing_mm: Sequence[float]
) -> np.ndarray:
    return np.stack(np.unravel_index(places, shape), axis=1) * np.asarray(spacing_mm)


def _nearest_mm(
    places: np.ndarray, points: np.ndarray, others: np.ndarray, other_points: np.ndarray
) -> np.ndarray:
    # Where the borders coincide, the distance is 0: in a good prediction, most of them.
    distances = np.zeros(len(places))
    apart = ~np.isin(places, others, assume_unique=True)
    if apart.any():
        tree = KDTree(other_points, balanced_tree=False, compact_nodes=False)
        distances[apart] = tree.query(points[apart])[0]
    return distances
