"""Surfaces of masks on a voxel grid, and the distances between two of them.

The surface of a mask is its border voxels: those with a face neighbor outside the mask, or on the
end of the volume. MONAI measures HD95 and (by default) NSD on the same voxels. DeepMind's
surface-distance puts weighted surface elements between voxels instead (`elements`), which gives
other NSDs.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Integer

from medseg.evaluation.distances import ROUNDING_MM, Distances, Lattice, Places, Sites, strides

PERCENTILE = 0.95


@dataclass(frozen=True)
class SurfaceScores:
    """What the distances between two borders come to."""

    hd95_mm: float
    """The larger of the two directed 95th percentiles of the distances."""
    nsd: float
    """Share of all border voxels that lie within the tolerance of the other border."""


def border_voxels(indices: Integer[np.ndarray, "x y z"], count: int) -> list[Places]:
    """Border voxels of masks 1..count, as rising flat positions in `indices` (x, y, z).

    `indices` holds for each voxel the mask it belongs to, 0 for none: all masks in one pass. It has
    a margin (`distances.with_margin`), so that what is beyond the volume is outside.
    """
    flat = indices.reshape(-1)
    border = np.zeros(flat.shape, dtype=bool)
    for stride in strides(indices.shape):
        differs = flat[stride:] != flat[:-stride]
        border[stride:] |= differs
        border[:-stride] |= differs
    border &= flat != 0
    places = np.flatnonzero(border)
    owners = flat[places]
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, count + 2))
    return [places[order[a:b]] for a, b in pairwise(ends)]


def surface_scores(
    prediction: Places, truth: Places, lattice: Lattice, tolerance_mm: float
) -> SurfaceScores:
    """Scores of two borders that are not empty, given as flat positions in a lattice."""
    one, other = Sites(prediction, lattice), Sites(truth, lattice)
    both = Distances(one, other), Distances(other, one)
    reach_mm = tolerance_mm + ROUNDING_MM
    within = sum(int(np.count_nonzero(distances.within(reach_mm))) for distances in both)
    hd95_mm = 0.0
    for distances in both:
        hd95_mm = distances.percentile(PERCENTILE, at_least=hd95_mm)
    return SurfaceScores(hd95_mm, within / (len(prediction) + len(truth)))
