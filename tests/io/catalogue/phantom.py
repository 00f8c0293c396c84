"""A patient given by a formula in RAS millimeters, so that any grid knows its true voxels."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CENTER_RAS_MM = np.array([3.0, -4.0, 6.0])
RADII_MM = np.array([9.0, 6.5, 8.0])
LESION = 900
SHAPE = (13, 11, 9)


@dataclass(frozen=True)
class Place:
    """Where voxel indices lie: a turn about `axis`, voxel sizes, a handedness, and an origin."""

    axis: tuple[float, float, float] = (0.3, -0.5, 0.8)
    angle: float = 0.4
    spacing_mm: tuple[float, float, float] = (2.0, 2.5, 3.0)
    handedness: int = 1
    origin_ras_mm: tuple[float, float, float] = (-9.0, -17.0, -4.0)

    @cached_property
    def unit(self) -> np.ndarray:
        """The axis, of length 1."""
        axis = np.asarray(self.axis)
        return axis / np.linalg.norm(axis)

    @property
    def quaternion(self) -> np.ndarray:
        """b, c and d of the turn; its a is above 0 up to half a turn."""
        return self.unit * math.sin(self.angle / 2)

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to RAS millimeters, by the formula of Rodrigues."""
        x, y, z = self.unit
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) + math.sin(self.angle) * cross
        turn += (1 - math.cos(self.angle)) * cross @ cross
        affine = np.eye(4)
        affine[:3, :3] = turn * np.asarray(self.spacing_mm) * [1, 1, self.handedness]
        affine[:3, 3] = self.origin_ras_mm
        return affine


@dataclass(frozen=True)
class Truth:
    """What a reader must find: values of shape (c, i, j, k), and the map to RAS millimeters."""

    array: np.ndarray
    affine: np.ndarray


def lesion_on(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Labels of shape (i, j, k): 2 in the core of an ellipsoid, 1 in its rim, 0 elsewhere."""
    points = _points(affine, shape)
    radius = np.linalg.norm((points - CENTER_RAS_MM) / RADII_MM, axis=-1)
    return (radius < 1).astype(np.uint8) + (radius < 0.6)


def image_on(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Whole gray values of shape (i, j, k), int16: slopes along the axes, and the lesion."""
    slopes = _points(affine, shape) @ [3.0, -2.0, 5.0]
    return (np.rint(slopes) + LESION * (lesion_on(affine, shape) > 0)).astype(np.int16)


def _points(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    indices = np.stack(np.indices(shape), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]
