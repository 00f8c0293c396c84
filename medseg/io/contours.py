"""The outlines of a mask as closed polygons, as planar formats ask for them.

Outlines run halfway between pixel centers (marching squares at 0.5), so that exactly the centers of
the mask lie within. A hole is joined to its outline by a channel of no width, the keyhole of PS3.3
C.8.8.6.3; channels run a quarter pixel off the centers, so that none of them is touched.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import numpy as np
from contourpy import FillType, contour_generator
from jaxtyping import Bool, Float

Ring = Float[np.ndarray, "n 2"]
MIDDLE, ABOVE = 0.5, 1.5
QUARTER = 0.25


def outlines(mask: Bool[np.ndarray, "rows columns"]) -> Iterator[Ring]:
    """Polygons (column, row) around what is set, one a connected piece, holes joined in.

    Pieces that touch at a corner only may be one or two; the first point is not repeated.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = np.pad(box, 1).astype(np.float64)
    corner = np.array([columns[0] - 1.0, rows[0] - 1.0])
    filled = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(MIDDLE, ABOVE)
    pieces, offsets = cast(tuple[list[np.ndarray], list[np.ndarray]], filled)
    for points, ends in zip(pieces, offsets, strict=True):
        # The last point of each ring is its first one.
        rings = [points[low : high - 1] for low, high in pairwise(ends)]
        yield _joined([_without_straight(ring) for ring in rings]) + corner


def _without_straight(ring: Ring) -> Ring:
    """The ring without points on a straight line between their neighbors."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring[turns != 0]


def _joined(rings: list[Ring]) -> Ring:
    """The outline (first) and its holes as one polygon."""
    while len(rings) > 1:
        hole = rings.pop()
        level = hole[:, 1].min() + QUARTER
        out_of, start = max(_crossings(hole, level), key=lambda crossing: crossing[1])
        # The outline is around every hole, so something lies to the right.
        place, (into, end) = min(
            (
                (place, crossing)
                for place, ring in enumerate(rings)
                for crossing in _crossings(ring, level)
                if crossing[1] > start
            ),
            key=lambda found: found[1][1],
        )
        other = rings[place]
        rings[place] = np.concatenate(
            [
                other[: into + 1],
                [(end, level), (start, level)],
                hole[out_of + 1 :],
                hole[: out_of + 1],
                [(start, level), (end, level)],
                other[into + 1 :],
            ]
        )
    return rings[0]


def _crossings(ring: Ring, level: float) -> list[tuple[int, float]]:
    """Where the ring crosses the row `level`: the number of the edge, and the column."""
    first, second = ring, np.roll(ring, -1, axis=0)
    edges = np.flatnonzero((first[:, 1] <= level) != (second[:, 1] <= level))
    share = (level - first[edges, 1]) / (second[edges, 1] - first[edges, 1])
    columns = first[edges, 0] + share * (second[edges, 0] - first[edges, 0])
    return [(int(edge), float(column)) for edge, column in zip(edges, columns, strict=True)]
