"""Surfaces of masks on a voxel grid, and the distances between two of them.

The surface of a mask is its border voxels: those with a face neighbor outside the mask, or on the
end of the volume. MONAI measures HD95 and (by default) NSD on the same voxels. DeepMind's
surface-distance puts weighted surface elements between voxels instead (`elements`), which gives
other NSDs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Integer

from medseg.evaluation.distances import ROUNDING_MM, Distances, Lattice, Places, Sites

PERCENTILE = 0.95


@dataclass(frozen=True)
class SurfaceScores:
    """What the distances between two borders come to."""

    hd95_mm: float
    """The larger of the two directed 95th percentiles of the distances."""
    nsd: float
    """Share of all border voxels that lie within the tolerance of the other border."""


def border_voxels(indices: Integer[np.ndarray, "i j k"], count: int) -> list[Places]:
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


def surface_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> SurfaceScores:
    """Scores of two borders that are not empty, given as flat positions in a volume of `shape`."""
    lattice = Lattice(shape, spacing_mm)
    one, other = Sites(prediction, lattice), Sites(truth, lattice)
    both = Distances(one, other), Distances(other, one)
    reach_mm = tolerance_mm + ROUNDING_MM
    within = sum(int(np.count_nonzero(distances.within(reach_mm))) for distances in both)
    longer, shorter = sorted(both, key=lambda distances: -distances.most(PERCENTILE))
    hd95_mm = longer.percentile(PERCENTILE)
    # Often it is certain that the other direction's is no longer.
    if shorter.most(PERCENTILE) > hd95_mm:
        hd95_mm = max(hd95_mm, shorter.percentile(PERCENTILE))
    return SurfaceScores(hd95_mm, within / (len(prediction) + len(truth)))
