"""Distances from one set of lattice points to another, measured only where they decide a score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

# Two sums of the same spacings differ by rounding; a distance this close to a tolerance is within.
ROUNDING_MM = 1e-6
STEPS = 2
BLOCK = 4
LEAF = 64
MOST_LOOKED_UP = 1 << 26

Places = Int[np.ndarray, " n"]
Points = Float[np.ndarray, "n 3"]


@dataclass(frozen=True)
class Lattice:
    """Where flat positions in an array lie."""

    shape: tuple[int, int, int]
    spacing_mm: Sequence[float]

    @property
    def near_mm(self) -> float:
        """Up to here distances are looked up. A longer step may be no longer than a missing one."""
        return STEPS * min(self.spacing_mm) + 2 * ROUNDING_MM

    @cached_property
    def steps(self) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, "m 3"]]:
        """Lengths in mm of all steps up to `near_mm`, the shortest first; the steps in voxels."""
        steps = np.array(list(product(range(-STEPS, STEPS + 1), repeat=3)))
        away = np.linalg.norm(steps * np.asarray(self.spacing_mm), axis=1)
        order = np.argsort(away, kind="stable")[: np.count_nonzero(away < self.near_mm)]
        return away[order], steps[order]


@dataclass(frozen=True, eq=False)
class Sites:
    """Some points of a lattice, by their flat positions in its array."""

    places: Places
    lattice: Lattice

    @cached_property
    def index(self) -> tuple[Places, ...]:
        """Their indices along i, j and k."""
        return np.unravel_index(self.places, self.lattice.shape)

    @cached_property
    def ends(self) -> list[tuple[int, int]]:
        """The least and the largest index along each axis."""
        return [(int(axis.min()), int(axis.max())) for axis in self.index]

    def points_mm(self, chosen: Int[np.ndarray, " m"] | slice = slice(None)) -> Points:
        """The chosen ones in mm."""
        index = np.stack([axis[chosen] for axis in self.index], axis=1)
        return index * np.asarray(self.lattice.spacing_mm)


class Distances:
    """Distances of `sites` to the nearest of `others`; neither is empty.

    Neighbors are looked up, the nearest first, which is all where a prediction is good. For the
    rest, the distance of a point differs from that of another by no more than the two lie apart:
    those of one point a block tell between what bounds the others lie.
    """

    def __init__(self, sites: Sites, others: Sites, *, look_mm: float = math.inf) -> None:
        """Beyond `look_mm` nothing is looked up: for one who asks only what is within it."""
        self._sites, self._others, self._lattice = sites, others, sites.lattice
        self._low, self._far = _near(sites, others, min(look_mm, self._lattice.near_mm))
        self._high = self._low.copy()
        self._high[self._far] = np.inf

    def within(self, reach_mm: float) -> Bool[np.ndarray, " n"]:
        """Which are no longer than `reach_mm`."""
        if self._far.size and reach_mm >= self._low[self._far[0]]:
            self._bound()
        self._measure((self._low <= reach_mm) & (self._high > reach_mm))
        return self._high <= reach_mm

    def most(self, share: float) -> float:
        """A bound on `percentile`."""
        self._bound()
        rank = math.ceil(share * (len(self._high) - 1))
        return float(np.partition(self._high, rank)[rank])

    def percentile(self, share: float) -> float:
        """The distance that a `share` of them does not exceed, linear between two of them."""
        most = self.most(share)
        rank = share * (len(self._high) - 1)
        ranks = int(rank), math.ceil(rank)
        least = np.partition(self._low, ranks[0])[ranks[0]]
        self._measure((self._high >= least) & (self._low <= most))
        low, high = np.partition(self._high, ranks)[list(ranks)]
        return float(low + (rank - ranks[0]) * (high - low))

    @cached_property
    def _points(self) -> Points:
        return self._sites.points_mm(self._far)

    @cached_property
    def _tree(self) -> KDTree:
        points = self._others.points_mm()
        return KDTree(points, leafsize=LEAF, balanced_tree=False, compact_nodes=False)

    def _bound(self) -> None:
        """Bounds of the far ones, once."""
        far = self._far
        if not (far.size and np.isinf(self._high[far[0]])):
            return
        one_of = _one_of(self._points, self._lattice)
        chosen = np.flatnonzero(one_of == np.arange(len(one_of)))
        measured = np.zeros(len(one_of))
        measured[chosen] = self._tree.query(self._points[chosen])[0]
        away = np.linalg.norm(self._points - self._points[one_of], axis=1) * (1 + ROUNDING_MM)
        self._low[far] = np.maximum(self._low[far], measured[one_of] - away)
        self._high[far] = measured[one_of] + away

    def _measure(self, wanted: Bool[np.ndarray, " n"]) -> None:
        open_ = np.flatnonzero(wanted[self._far] & (self._low[self._far] < self._high[self._far]))
        if open_.size:
            places = self._far[open_]
            self._low[places] = self._high[places] = self._tree.query(self._points[open_])[0]


def _one_of(points: Points, lattice: Lattice) -> Int[np.ndarray, " n"]:
    """For each point the number of one that is not far: all of a block share it."""
    sides_mm = np.maximum(BLOCK * min(lattice.spacing_mm), lattice.spacing_mm)
    i, j, k = ((points - points.min(axis=0)) // sides_mm).astype(np.int64).T
    block = (i * (j.max() + 1) + j) * (k.max() + 1) + k
    one_of = np.empty(int(block.max()) + 1, dtype=np.int64)
    one_of[block] = np.arange(len(points))
    return one_of[block]


def _near(
    sites: Sites, others: Sites, look_mm: float
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Distances up to `look_mm`, for others just more; and the numbers of those others."""
    ends = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(sites.ends, others.ends, strict=True)]
    low = [first - STEPS for first, _ in ends]
    sides = np.array([last - first + 2 * STEPS + 1 for first, last in ends])
    left = np.arange(len(sites.places))
    if sides.prod() > MOST_LOOKED_UP:
        return np.zeros(len(left)), left
    strides = np.array([sides[1] * sides[2], sides[2], 1])
    taken = np.zeros(int(sides.prod()), dtype=bool)
    begin = strides @ low
    flat, taken_at = (
        one.index[0] * strides[0] + one.index[1] * strides[1] + one.index[2] - begin
        for one in (sites, others)
    )
    taken[taken_at] = True
    distances = np.full(len(left), look_mm * (1 + ROUNDING_MM))
    lengths, steps = sites.lattice.steps
    looked = np.count_nonzero(lengths <= look_mm)
    for away, step in zip(lengths[:looked], steps[:looked] @ strides, strict=True):
        hit = np.take(taken, flat + step)
        distances[left[hit]] = away
        left, flat = left[~hit], flat[~hit]
    return distances, left
