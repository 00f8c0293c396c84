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
    """The outline (first) and its holes as one polygon.

    The rings are lists linked in one array of points, so that a bridge is four new links however
    many rings there are.
    """
    if len(rings) == 1:
        return rings[0]
    sizes = [len(ring) for ring in rings]
    count, bridges = sum(sizes), len(rings) - 1
    points = np.concatenate([*rings, np.zeros((4 * bridges, 2))])
    follower = np.arange(1, len(points) + 1)
    follower[np.cumsum(sizes) - 1] = np.cumsum([0, *sizes[:-1]])
    owner = np.repeat(np.arange(len(rings)), sizes)
    owner = np.concatenate([owner, np.full(4 * bridges, -1)])
    for start in np.cumsum(sizes[:-1]):
        mine = owner[:count] == owner[start]
        if not mine[0]:
            count = _bridge(points, follower, owner, mine, count)
    return points[_walk(follower)]


def _bridge(
    points: Ring, follower: np.ndarray, owner: np.ndarray, mine: np.ndarray, count: int
) -> int:
    """Join the ring of the points `mine` to what lies on its right; the new number of points."""
    first, second = points[:count], points[follower[:count]]
    level = first[mine, 1].min() + QUARTER
    edges = np.flatnonzero((first[:, 1] <= level) != (second[:, 1] <= level))
    low, high = first[edges], second[edges]
    share = (level - low[:, 1]) / (high[:, 1] - low[:, 1])
    columns = low[:, 0] + share * (high[:, 0] - low[:, 0])
    out_of = int(np.argmax(np.where(mine[edges], columns, -np.inf)))
    # The outline is around every hole, so something lies to the right.
    right = ~mine[edges] & (columns > columns[out_of])
    into = int(np.argmin(np.where(right, columns, np.inf)))
    here, there = edges[out_of], edges[into]
    # On the way out and on the way back, a point on either ring.
    new = np.arange(count, count + 4)
    points[new] = [
        (columns[into], level),
        (columns[out_of], level),
        (columns[out_of], level),
        (columns[into], level),
    ]
    follower[new] = [new[1], follower[here], new[3], follower[there]]
    follower[there], follower[here] = new[0], new[2]
    owner[:count][mine] = owner[there]
    owner[new] = owner[there]
    return count + 4


def _walk(follower: np.ndarray) -> list[int]:
    followers = follower.tolist()
    order = [0]
    while (after := followers[order[-1]]) != 0:
        order.append(after)
    return order
