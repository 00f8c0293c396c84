"""Patches of a case: where they lie, and how they are read, turned and scaled in one go."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt
from torch.nn import functional

Triple = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Patch:
    """Where to read: patch voxel o is source voxel `center + matrix @ (o - (size - 1) / 2)`.

    `matrix` None reads voxels as they are, from a whole-numbered start.
    """

    size: Triple
    center: tuple[float, float, float]
    matrix: np.ndarray | None = None

    @property
    def start(self) -> Triple:
        """First voxel of a patch that is read as it is; below 0 where it hangs over."""
        i, j, k = (round(c - (p - 1) / 2) for c, p in zip(self.center, self.size, strict=True))
        return i, j, k


def place_around(voxel: np.ndarray, shape: Triple, size: Triple) -> tuple[float, float, float]:
    """The center of the patch around `voxel` that hangs over the volume as little as it can."""
    starts = []
    for at, side, patch in zip(voxel, shape, size, strict=True):
        low, high = sorted((0, side - patch)) if side >= patch else ((side - patch) // 2,) * 2
        starts.append(min(max(int(at) - patch // 2, low), high))
    i, j, k = (start + (patch - 1) / 2 for start, patch in zip(starts, size, strict=True))
    return i, j, k


def place_anywhere(
    generator: np.random.Generator, shape: Triple, size: Triple
) -> tuple[float, float, float]:
    """The center of a patch anywhere within the volume."""
    voxel = [
        generator.integers(patch // 2, max(side - patch, 0) + patch // 2 + 1)
        for side, patch in zip(shape, size, strict=True)
    ]
    return place_around(np.asarray(voxel), shape, size)


def read_patch(
    image: Float[np.ndarray, "c i j k"], labels: UInt[np.ndarray, "i j k"], patch: Patch
) -> tuple[Float[np.ndarray, "c p q r"], UInt[np.ndarray, "p q r"]]:
    """Image (linear) and labels (nearest) of a patch; outside the volume both are 0."""
    if patch.matrix is None:
        return _read_as_is(image, patch), _read_as_is(labels[None], patch)[0]
    box, corner = _box_around(patch, labels.shape)
    where = _coordinates(patch, corner, box)
    part = tuple(slice(low, high) for low, high in box)
    turned = _sampled(image[(slice(None), *part)], where, "bilinear")
    mask = _sampled(labels[part][None].astype(np.float32), where, "nearest")[0]
    return turned, mask.astype(labels.dtype)


def _read_as_is(array: np.ndarray, patch: Patch) -> np.ndarray:
    result = np.zeros((len(array), *patch.size), dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for start, side, size in zip(patch.start, array.shape[1:], patch.size, strict=True):
        low, high = max(start, 0), min(start + size, side)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - start, max(high, low) - start))
    result[tuple(target)] = array[tuple(source)]
    return result


def _box_around(patch: Patch, shape: tuple[int, ...]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The part of the volume that the patch touches, and its first voxel."""
    assert patch.matrix is not None
    reach = np.abs(patch.matrix) @ ((np.asarray(patch.size) - 1) / 2) + 1
    low = np.clip(np.floor(patch.center - reach), 0, np.asarray(shape) - 1).astype(int)
    high = np.clip(np.ceil(patch.center + reach) + 1, low + 1, shape).astype(int)
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)], low


def _coordinates(
    patch: Patch, corner: np.ndarray, box: list[tuple[int, int]]
) -> Float[torch.Tensor, "1 p q r 3"]:
    """Where each patch voxel lies in the box, in grid_sample's -1..1 and order k, j, i."""
    assert patch.matrix is not None
    sides = np.array([high - low for low, high in box], dtype=np.float64)
    center = (np.asarray(patch.center) - corner + 0.5) / sides * 2 - 1
    scale = np.asarray(patch.size) / sides[:, None] * patch.matrix
    affine = np.concatenate([scale, center[:, None]], axis=1)
    # affine_grid counts its own -1..1 over the patch, and both its axes run k, j, i.
    affine[:, :3] = affine[:, 2::-1]
    theta = torch.from_numpy(np.ascontiguousarray(affine[::-1])).float()[None]
    return functional.affine_grid(theta, [1, 1, *patch.size], align_corners=False)


def _sampled(array: np.ndarray, where: torch.Tensor, mode: str) -> np.ndarray:
    given = torch.from_numpy(np.array(array))[None]
    return functional.grid_sample(given, where, mode=mode, align_corners=False)[0].numpy()
