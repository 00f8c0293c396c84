"""Smooth noise, smooth deformation and irregular bodies: what phantoms are made of."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from medseg.preprocess.resample import resample_image

Shape = tuple[int, int, int]
Field = Float[np.ndarray, "i j k"]


def smooth_noise(generator: np.random.Generator, shape: Shape, *, width: float) -> Field:
    """Noise of mean 0 and standard deviation 1 that varies over about `width` voxels."""
    coarse = tuple(max(round(side / width), 1) + 3 for side in shape)
    small = generator.standard_normal(coarse).astype(np.float32)
    stretched = [round(n * side / (n - 3)) for n, side in zip(coarse, shape, strict=True)]
    large = resample_image(small, stretched)
    starts = [(n - side) // 2 for n, side in zip(stretched, shape, strict=True)]
    part = large[tuple(slice(s, s + side) for s, side in zip(starts, shape, strict=True))]
    return (part - part.mean()) / max(float(part.std()), 1e-6)


def deformed_places(
    generator: np.random.Generator, shape: Shape, *, width: float, reach: float
) -> Float[np.ndarray, "3 i j k"]:
    """Where each voxel is read from: itself, moved smoothly by about `reach` voxels."""
    places = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"))
    moves = np.stack([smooth_noise(generator, shape, width=width) for _ in range(3)])
    return (places + reach * moves).astype(np.float32)


def read_at(array: np.ndarray, places: Float[np.ndarray, "3 i j k"]) -> Field:
    """The array at fractional places, linear, 0 outside."""
    return ndimage.map_coordinates(array, places, order=1, output=np.float32)


def irregular_distance(
    generator: np.random.Generator,
    shape: Shape,
    *,
    center: np.ndarray,
    radii: np.ndarray,
    roughness: float,
) -> Field:
    """About 1 on the surface of an ellipsoid, below 1 inside; `roughness` dents the surface."""
    axes = [
        ((np.arange(side, dtype=np.float32) - c) / r) ** 2
        for side, c, r in zip(shape, center, radii, strict=True)
    ]
    distance = np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])
    dents = smooth_noise(generator, shape, width=max(float(np.mean(radii)) * 0.8, 2.0))
    return distance * (1 + roughness * dents)
