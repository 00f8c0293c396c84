"""Linear changes of a patch that work along each axis alone: as matrices, so three products do."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def along_axes(
    array: Float[Tensor, "c i j k"], matrices: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, "c p q r"]:
    """Each axis multiplied by its matrix: (p, i), (q, j), (r, k)."""
    first, second, third = matrices
    channels, i = array.shape[:2]
    result = second @ (array @ third.T)
    flat = first @ result.reshape(channels, i, -1)
    return flat.reshape(channels, len(first), len(second), len(third))


def interpolation(places: Float[np.ndarray, " p"], side: int) -> Float[Tensor, "p side"]:
    """Linear interpolation at `places` of an axis of `side` voxels, 0 outside."""
    distance = np.abs(places[:, None] - np.arange(side))
    return torch.from_numpy(np.maximum(1 - distance, 0).astype(np.float32))


def gaussian(sigma: float, side: int) -> Float[Tensor, "side side"]:
    """A Gaussian of `sigma` voxels, cut at three sigma; the axis is mirrored at its ends."""
    radius = int(np.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    period = max(2 * (side - 1), 1)
    places = np.abs(np.arange(side)[:, None] + offsets) % period
    matrix = np.zeros((side, side), dtype=np.float32)
    rows = np.arange(side)[:, None]
    np.add.at(matrix, (rows, np.minimum(places, period - places)), weights / weights.sum())
    return torch.from_numpy(matrix)


def coarse(zoom: float, side: int) -> Float[Tensor, "side side"]:
    """`side` voxels taken down to `zoom` times as many (nearest) and back up (linear)."""
    fewer = max(round(side * zoom), 1)
    down = functional.interpolate(torch.eye(side)[None], fewer, mode="nearest-exact")
    return functional.interpolate(down, side, mode="linear")[0].T
