"""Smooth noise, smooth deformation and irregular bodies: what phantoms are made of."""

import numpy as np
from jaxtyping import Float

Shape = tuple[int, int, int]
Field = Float[np.ndarray, "i j k"]
Places = Float[np.ndarray, "3 i j k"]


def smooth_noise(generator: np.random.Generator, shape: Shape, *, width: float) -> Field:
    """Noise of mean 0 and standard deviation 1 that varies over about `width` voxels."""
    first, second, third = (_spline(side, max(width, 1.0)) for side in shape)
    i, j, k = first.shape[1], second.shape[1], third.shape[1]
    noise = second @ (generator.standard_normal((i, j, k), dtype=np.float32) @ third.T)
    noise = (first @ noise.reshape(i, -1)).reshape(shape)
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def deformed_places(
    generator: np.random.Generator, shape: Shape, *, width: float, reach: float
) -> Places:
    """Where each voxel is read from: itself, moved smoothly by about `reach` voxels."""
    places = np.indices(shape, dtype=np.float32)
    for axis in range(3):
        places[axis] += reach * smooth_noise(generator, shape, width=width)
    return places


def irregular_distance(
    generator: np.random.Generator,
    places: Places,
    *,
    center: np.ndarray,
    radii: np.ndarray,
    roughness: float,
    turn: np.ndarray | None = None,
) -> Field:
    """About 1 on the surface of an ellipsoid, below 1 inside; `roughness` dents the surface.

    `turn` is a rotation of the ellipsoid's axes, as a 3x3 matrix.
    """
    away = places - center.astype(np.float32)[:, None, None, None]
    if turn is not None:
        away = np.tensordot(turn.astype(np.float32), away, axes=1)
    away /= radii.astype(np.float32)[:, None, None, None]
    distance = np.sqrt(np.square(away).sum(axis=0))
    i, j, k = distance.shape
    width = max(float(np.median(radii)) * 0.8, 2.0)
    return distance * (1 + roughness * smooth_noise(generator, (i, j, k), width=width))


def random_turn(generator: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A rotation, all as likely (the unit quaternion of four normal numbers)."""
    w, x, y, z = (q := generator.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _spline(side: int, width: float) -> Float[np.ndarray, "side n"]:
    """Cubic B-splines `width` voxels apart, as columns."""
    knots = int(np.ceil(side / width)) + 3
    steps = np.abs(np.arange(side)[:, None] / width + 1 - np.arange(knots))
    inner = 2 / 3 - steps**2 + steps**3 / 2
    outer = np.maximum(2 - steps, 0) ** 3 / 6
    return np.where(steps < 1, inner, outer).astype(np.float32)
