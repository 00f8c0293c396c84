"""Distances from one set of lattice points to another, measured only where they decide a score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.spatial import KDTree

# Two sums of the same spacings differ by rounding; a distance this close to a tolerance is within.
ROUNDING_MM = 1e-6
MARGIN = 2
BLOCKS = (6, 3, 1)
LEAF = 64

Places = Int[np.ndarray, " n"]
Points = Float[np.ndarray, "n 3"]


def with_margin(array: Shaped[np.ndarray, "i j k"]) -> Shaped[np.ndarray, "x y z"]:
    """The array in a frame of zeros: from a place inside, steps of the lattice stay in it."""
    return np.pad(array, MARGIN)


def strides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """How far a step along i, j or k moves in the flat array, in the margin across its edge."""
    return shape[1] * shape[2], shape[2], 1


class Lattice:
    """Where flat positions in an array with a margin (`with_margin`) lie.

    It lends itself to one search at a time, for the marks that a search makes are kept here.
    """

    def __init__(self, shape: tuple[int, ...], spacing_mm: Sequence[float]) -> None:
        self.shape, self.spacing_mm = shape, spacing_mm
        self.near_mm = MARGIN * min(spacing_mm) + 2 * ROUNDING_MM
        """Up to here distances are looked up. A longer step may be no longer than a missing one."""

    @cached_property
    def steps(self) -> list[tuple[float, Int[np.ndarray, " m"]]]:
        """The lengths in mm of steps up to `near_mm`, rising; how far those of each move."""
        steps = np.array(list(product(range(-MARGIN, MARGIN + 1), repeat=3)))
        away = np.linalg.norm(steps * np.asarray(self.spacing_mm), axis=1)
        moves = steps @ strides(self.shape)
        return [
            (float(length), moves[away == length])
            for length in np.unique(away[away < self.near_mm])
        ]

    def sides(self, side: int) -> list[int]:
        """Sides in voxels of a block about as long in mm as `side` voxels of the finest axis."""
        length_mm = side * min(self.spacing_mm)
        return [max(1, round(length_mm / spacing)) for spacing in self.spacing_mm]

    @cached_property
    def marks(self) -> Bool[np.ndarray, " n"]:
        """A mark for each place of the array, none of them set."""
        return np.zeros(math.prod(self.shape), dtype=bool)


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
    def points_mm(self) -> Points:
        """Where they lie, in mm."""
        return np.stack(self.index, axis=1) * np.asarray(self.lattice.spacing_mm)


class Distances:
    """Distances of `sites` to the nearest of `others`; neither is empty.

    Neighbors are looked up, the nearest first, which is all where a prediction is good. For the
    rest, the distance of a point differs from that of another by no more than the two lie apart:
    those of one point a block tell between what bounds the others lie. The blocks become smaller,
    and only what is still open is asked for again.
    """

    def __init__(self, sites: Sites, others: Sites, *, look_mm: float = math.inf) -> None:
        """Beyond `look_mm` nothing is looked up: for one who asks only what is within it."""
        self._sites, self._others, self._lattice = sites, others, sites.lattice
        self._low, far = _near(sites, others, min(look_mm, self._lattice.near_mm))
        self._high = self._low.copy()
        self._high[far] = np.inf

    def within(self, reach_mm: float) -> Bool[np.ndarray, " n"]:
        """Which are no longer than `reach_mm`."""
        for block in BLOCKS:
            self._tighten((self._low <= reach_mm) & (self._high > reach_mm), block)
        return self._high <= reach_mm

    def percentile(self, share: float, at_least: float = 0.0) -> float:
        """The distance that a `share` of them does not exceed, linear between two of them.

        `at_least` is returned as soon as it is certain that the percentile is no larger.
        """
        rank = share * (len(self._high) - 1)
        ranks = int(rank), math.ceil(rank)
        for block in BLOCKS:
            least = np.partition(self._low, ranks[0])[ranks[0]]
            most = np.partition(self._high, ranks[1])[ranks[1]]
            if most <= at_least:
                return at_least
            self._tighten((self._high >= least) & (self._low <= most), block)
        low, high = np.partition(self._high, ranks)[list(ranks)]
        return max(at_least, float(low + (rank - ranks[0]) * (high - low)))

    @cached_property
    def _tree(self) -> KDTree:
        points = self._others.points_mm
        return KDTree(points, leafsize=LEAF, balanced_tree=False, compact_nodes=False)

    def _tighten(self, wanted: Bool[np.ndarray, " n"], block: int) -> None:
        """Bounds of those wanted that are not known yet, from one measured point a block."""
        open_ = np.flatnonzero(wanted & (self._low < self._high))
        if not open_.size:
            return
        points = self._sites.points_mm.take(open_, axis=0)
        if block == 1:
            self._low[open_] = self._high[open_] = self._tree.query(points)[0]
            return
        one_of = _one_of(
            [axis.take(open_) for axis in self._sites.index], self._lattice.sides(block)
        )
        chosen = np.flatnonzero(one_of == np.arange(len(one_of)))
        measured = np.zeros(len(one_of))
        measured[chosen] = self._tree.query(points[chosen])[0]
        step = points - points.take(one_of, axis=0)
        away = np.sqrt(np.einsum("nd,nd->n", step, step)) * (1 + ROUNDING_MM)
        of_one = measured.take(one_of)
        self._low[open_] = np.maximum(self._low.take(open_), of_one - away)
        self._high[open_] = np.minimum(self._high.take(open_), of_one + away)


def _one_of(index: Sequence[Places], sides: Sequence[int]) -> Int[np.ndarray, " n"]:
    """For each point the number of one that is not far: all of a block share it.

    It lies near the middle of the block if one does.
    """
    block = np.zeros(len(index[0]), dtype=np.intp)
    off = np.zeros(len(block), dtype=np.intp)
    for axis, side in zip(index, sides, strict=True):
        along = axis // side
        off += np.abs(axis - along * side - side // 2)
        first = along.min()
        block = block * (along.max() - first + 1) + along - first
    one_of = np.empty(block.max() + 1, dtype=np.intp)
    for of_these in (slice(None), off <= sum(sides) // 6):
        one_of[block[of_these]] = np.arange(len(block))[of_these]
    return one_of[block]


def _near(
    sites: Sites, others: Sites, look_mm: float
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Distances up to `look_mm`, for others just more; and the numbers of those others."""
    distances = np.full(len(sites.places), look_mm * (1 + ROUNDING_MM))
    left, places = np.arange(len(distances)), sites.places
    marks = sites.lattice.marks
    marks[others.places] = True
    for length, moves in sites.lattice.steps:
        if length > look_mm:
            break
        hit = marks.take(places + moves[0])
        for move in moves[1:]:
            hit |= marks.take(places + move)
        distances[left.compress(hit)] = length
        missed = np.flatnonzero(~hit)
        left, places = left.take(missed), places.take(missed)
    marks[others.places] = False
    return distances, left
