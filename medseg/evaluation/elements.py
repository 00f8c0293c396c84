"""Surface elements between voxels, and the NSD that they give.

Each corner point of the voxels that has both a mask's voxels and others among its eight neighbors
holds a piece of the mask's surface. Its area is that of marching cubes, as in DeepMind's
surface-distance (Nikolov et al. 2018, arXiv 1809.04430), and of MONAI with `use_subvoxels`.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, permutations, product

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

from medseg.evaluation.distances import ROUNDING_MM, Distances, Lattice, Sites, strides

POINTS_AT_ONCE = 1 << 16
Corner = tuple[int, int, int]
CORNERS: tuple[Corner, ...] = tuple((i, j, k) for i, j, k in product((0, 1), repeat=3))

# The triangles of marching cubes, by which of the eight voxels are inside: the size of each one's
# normal along i, j and k in eighths of a voxel's faces. All 256 kinds are these, turned, mirrored
# or with inside and outside swapped.
TRIANGLES: tuple[tuple[tuple[Corner, ...], tuple[Corner, ...]], ...] = (
    (((1, 1, 1),), ((1, 1, 1),)),
    (((1, 1, 0), (1, 1, 1)), ((2, 2, 0), (2, 2, 0))),
    (((1, 0, 1), (1, 1, 0)), ((1, 1, 1),) * 2),
    (((0, 1, 1), (1, 0, 0)), ((1, 1, 1),) * 2),
    (((1, 0, 1), (1, 1, 0), (1, 1, 1)), ((4, 0, 0), (2, 2, 2), (1, 1, 1))),
    (((0, 1, 1), (1, 0, 1), (1, 1, 0)), ((1, 1, 1),) * 3),
    (((0, 1, 1), (1, 0, 0), (1, 1, 1)), ((0, 2, 2), (0, 2, 2), (1, 1, 1))),
    (((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)), ((4, 0, 0), (4, 0, 0))),
    (((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)), ((1, 1, 1),) * 2 + ((2, 2, 2),) * 2),
    (
        ((0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)),
        ((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)),
    ),
    (((0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)), ((4, 0, 0), (1, 1, 1), (1, 1, 1), (2, 2, 2))),
    (((0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)), ((2, 2, 0),) * 4),
    (((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)), ((1, 1, 1),) * 4),
)


@dataclass(frozen=True)
class Elements:
    """A mask's surface: flat positions of corner points, each once, and the kind at each.

    A corner point has the position of the first of the eight voxels around it.
    """

    places: Int[np.ndarray, " n"]
    kinds: UInt8[np.ndarray, " n"]


def surface_elements(indices: Integer[np.ndarray, "x y z"], count: int) -> list[Elements]:
    """Surface elements of masks 1..count, all in one pass.

    `indices` holds for each voxel the mask it belongs to, 0 for none. It has a margin
    (`distances.with_margin`), so that what is beyond the volume is outside.
    """
    flat = indices.reshape(-1)
    low = high = flat
    for stride in strides(indices.shape):
        low = np.minimum(low[:-stride], low[stride:])
        high = np.maximum(high[:-stride], high[stride:])
    points = np.flatnonzero(low != high)
    steps = np.array(CORNERS) @ strides(indices.shape)
    parts = [
        _elements_at(flat, steps, points[start : start + POINTS_AT_ONCE])
        for start in range(0, len(points), POINTS_AT_ONCE)
    ]
    owners, places, kinds = (
        np.concatenate([part[n] for part in parts]) if parts else np.zeros(0, dtype=np.uint8)
        for n in range(3)
    )
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, count + 2))
    return [Elements(places[order[a:b]], kinds[order[a:b]]) for a, b in pairwise(ends)]


def elements_nsd(
    prediction: Elements, truth: Elements, lattice: Lattice, tolerance_mm: float
) -> float:
    """Share of the area of both surfaces within the tolerance of the other."""
    areas = element_areas_mm2(*lattice.spacing_mm)
    reach_mm = tolerance_mm + ROUNDING_MM
    sites = [Sites(elements.places, lattice) for elements in (prediction, truth)]
    within = whole = 0.0
    for elements, one, other in zip((prediction, truth), sites, reversed(sites), strict=True):
        area = areas[elements.kinds]
        near = Distances(one, other, look_mm=reach_mm).within(reach_mm)
        within += float(area[near].sum())
        whole += float(area.sum())
    return within / whole


@lru_cache(maxsize=8)
def element_areas_mm2(i: float, j: float, k: float) -> Float[np.ndarray, "256"]:
    """The area of each kind of element at a spacing in mm; kind is a bit for each voxel inside."""
    faces_mm2 = np.array([j * k, i * k, i * j]) / 8
    areas = np.zeros(256)
    for corners, normals in TRIANGLES:
        for axes in permutations(range(3)):
            turned = np.array(normals)[:, axes] * faces_mm2
            area = np.sqrt((turned**2).sum(axis=1)).sum()
            for mirror in CORNERS:
                kind = sum(1 << CORNERS.index(_moved(corner, axes, mirror)) for corner in corners)
                areas[[kind, 255 - kind]] = area
    areas.flags.writeable = False
    return areas


def _moved(corner: Corner, axes: tuple[int, ...], mirror: Corner) -> Corner:
    i, j, k = (corner[axis] ^ other for axis, other in zip(axes, mirror, strict=True))
    return i, j, k


def _elements_at(
    flat: Integer[np.ndarray, " size"],
    steps: Int[np.ndarray, "8"],
    points: Int[np.ndarray, " n"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, flat places and kinds of all elements at some corner points."""
    cubes = np.stack([flat.take(points + step) for step in steps])
    highest, lowest = cubes.max(axis=0), cubes.min(axis=0)
    of_highest, of_lowest = _kinds(cubes, highest), _kinds(cubes, lowest)
    held = np.flatnonzero(lowest)
    owners, places, kinds = (
        [highest, lowest[held]],
        [points, points[held]],
        [of_highest, of_lowest[held]],
    )
    # Nearly everywhere two masks meet, or one and none. What else there is goes voxel by voxel.
    many = np.flatnonzero(of_highest | of_lowest != 255)
    cubes, highest, lowest = cubes[:, many], highest[many], lowest[many]
    for number, voxel in enumerate(cubes):
        # A mask with several of the eight voxels is told by its first one.
        is_first = (voxel != highest) & (voxel != lowest)
        for earlier in cubes[:number]:
            is_first &= voxel != earlier
        told = np.flatnonzero(is_first)
        owners.append(voxel[told])
        places.append(points[many[told]])
        kinds.append(_kinds(cubes[:, told], voxel[told]))
    return np.concatenate(owners), np.concatenate(places), np.concatenate(kinds)


def _kinds(
    cubes: Integer[np.ndarray, "8 n"], owner: Integer[np.ndarray, " n"]
) -> UInt8[np.ndarray, " n"]:
    """A bit for each of the eight voxels that is the owner's."""
    kinds = np.zeros(len(owner), dtype=np.uint8)
    for bit, voxel in enumerate(cubes):
        kinds |= (voxel == owner).view(np.uint8) << np.uint8(bit)
    return kinds
