"""Images and label maps resampled onto the grid of another, mapped by their affines.

For channels of one case that a scanner stored on different grids, and for mending label maps. What
a model needs is resampled by `Preprocessing`, never here.
"""

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from medseg.volume import Grid

# Planes of the target grid at once: their coordinates are all that is needed beside the result.
AT_ONCE = 8


def image_onto(
    image: Float[np.ndarray, "i j k"], source: Grid, target: Grid
) -> Float[np.ndarray, "a b c"]:
    """One channel on the grid `target`, trilinear; its lowest value stands outside of it."""
    return _onto(image, source, target, order=1, outside=float(image.min()))


def labels_onto(
    labels: Integer[np.ndarray, "i j k"], source: Grid, target: Grid
) -> Integer[np.ndarray, "a b c"]:
    """A label map on the grid `target`, the nearest voxel's label; background outside of it."""
    return _onto(labels, source, target, order=0, outside=0)


def covered_share(source: Grid, target: Grid) -> float:
    """The share of `target`'s field of view that `source` covers, by a lattice of points."""
    steps = [np.linspace(0, side - 1, min(side, 12)) for side in target.shape]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = source.world_to_voxel(target.voxel_to_world(points))
    limit = np.asarray(source.shape) - 0.5
    return float(((inside >= -0.5) & (inside <= limit)).all(axis=1).mean())


def _onto(
    array: np.ndarray, source: Grid, target: Grid, *, order: int, outside: float
) -> np.ndarray:
    to_source = np.linalg.inv(source.affine) @ target.affine
    result = np.empty(target.shape, dtype=array.dtype)
    for low in range(0, target.shape[2], AT_ONCE):
        part = result[:, :, low : low + AT_ONCE]
        shifted = to_source[:3].copy()
        shifted[:, 3] += to_source[:3, 2] * low
        ndimage.affine_transform(
            array,
            shifted,
            output=part,
            output_shape=part.shape,
            order=order,
            # A voxel reaches half a step around its center, so rounding takes no plane at the edge.
            mode="grid-constant",
            cval=outside,
        )
    return result
