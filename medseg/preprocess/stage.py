"""The labels of a cascade's first stage as channels of the second, as nnU-Net resamples them.

Each label's mask is interpolated by itself and is there where it is at least one half. Halves are
common where a side is doubled, and whether one is reached is a matter of the last bit: so it is
scipy's zoom here, which scikit-image and so nnU-Net call, in float64.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from medseg.preprocess.operators import nearest_indices
from medseg.preprocess.record import Record


def stage_channels(
    labels: Integer[np.ndarray, "i j k"], record: Record, values: Sequence[int]
) -> Float[np.ndarray, "labels a b c"]:
    """A channel of 0 and 1 for each of `values`, on the model's grid of `record`.

    Where two labels reach one half the larger value stands, as in nnU-Net.
    """
    shape, coarse = record.model_grid.shape, record.coarse_axis
    given = np.ascontiguousarray(record.orient(labels))
    if coarse is not None and given.shape[coarse] != shape[coarse]:
        given = np.take(given, nearest_indices(given.shape[coarse], shape[coarse]), axis=coarse)
    channels = np.zeros((len(values), *shape), dtype=np.float32)
    for place, value in enumerate(values):
        mask = given == value
        if not mask.any():
            continue
        inside = _at_least_half(mask, shape)
        channels[:place, inside] = 0
        channels[place, inside] = 1
    return channels


def _at_least_half(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if mask.shape == shape:
        return mask
    factors = [1 / (old / new) for old, new in zip(mask.shape, shape, strict=True)]
    share = np.empty(shape)
    ndimage.zoom(
        mask.astype(float), factors, output=share, order=1, mode="nearest", grid_mode=True
    )
    return share >= 0.5
