"""Where windows stand on a volume, and how much each of their voxels weighs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from medseg.inference.settings import WindowRule

# Width of the Gaussian weight, in sides of the patch: nnU-Net's and MONAI's.
SIGMA = 0.125
SMALLEST_WEIGHT = 1e-3
NNUNET_SCALE = 10

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Windows:
    """Windows of `patch_size` over a volume of `shape`, so that every voxel lies in one.

    `starts` are their first voxels along i, j and k. Where the volume is smaller than the patch
    the only start is negative: the window reaches beyond it on both sides.
    """

    shape: Triple
    patch_size: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    rule: WindowRule = "monai"

    @classmethod
    def over(
        cls, shape: Triple, patch_size: Triple, *, overlap: float, rule: WindowRule = "monai"
    ) -> "Windows":
        """Windows of which each covers the share `overlap` of the one before.

        monai: as MONAI's SlidingWindowInferer, in whole steps, the last one moved back to the end.
        nnunet: as nnU-Net's predictor, all of a side equally far apart.
        """
        i, j, k = (
            _starts(side, patch, overlap, rule)
            for side, patch in zip(shape, patch_size, strict=True)
        )
        return cls(shape, patch_size, (i, j, k), rule)

    def __len__(self) -> int:
        """How many there are."""
        return math.prod(len(along) for along in self.starts)

    @property
    def weight(self) -> Float[Tensor, "i j k"]:
        """How much each voxel of a window weighs in the mean, float32."""
        return gaussian_weight(self.patch_size, self.rule)


@lru_cache(maxsize=8)
def gaussian_weight(patch_size: Triple, rule: WindowRule = "monai") -> Float[Tensor, "i j k"]:
    """A Gaussian about the middle of the patch, a standard deviation of an eighth of its sides.

    monai: 1 in the middle, nowhere below 1e-3. nnunet: 10 in its middle voxel, rounded to float16,
    and the smallest positive one where that is 0.
    """
    if rule == "nnunet":
        return _nnunets_weight(patch_size)
    weight = torch.ones(())
    for side in patch_size:
        distance = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (distance / (SIGMA * side)) ** 2)
    return weight.clamp_(min=SMALLEST_WEIGHT)


def _nnunets_weight(patch_size: Triple) -> Float[Tensor, "i j k"]:
    # By scipy as there, so that not a bit of the float16 differs.
    point = np.zeros(patch_size)
    point[tuple(side // 2 for side in patch_size)] = 1
    weight = ndimage.gaussian_filter(point, [side * SIGMA for side in patch_size], mode="constant")
    weight /= weight.max() / NNUNET_SCALE
    rounded = torch.from_numpy(weight).half().float()
    return rounded.clamp_(min=float(rounded[rounded > 0].min()))


def _starts(side: int, patch: int, overlap: float, rule: WindowRule) -> tuple[int, ...]:
    last = side - patch
    if last <= 0:
        return (-(-last // 2),)
    if rule == "monai":
        step = max(int(patch * (1 - overlap)), 1)
        return (*range(0, last, step), last)
    step = max(patch * (1 - overlap), 1)
    count = math.ceil(last / step) + 1
    return tuple(round(last / (count - 1) * n) for n in range(count))


def pieces(start: int, size: int, side: int) -> tuple[slice, slice]:
    """Along one axis: the voxels of the volume that a window covers, and their places in it."""
    low, high = max(start, 0), min(start + size, side)
    return slice(low, high), slice(low - start, high - start)


def window_of(
    image: Float[Tensor, "c i j k"], start: Sequence[int], size: Sequence[int]
) -> Float[Tensor, "c x y z"]:
    """The voxels of one window; zeros where it reaches beyond the image."""
    parts = [
        pieces(first, length, side)
        for first, length, side in zip(start, size, image.shape[1:], strict=True)
    ]
    inside = image[(slice(None), *(part[0] for part in parts))]
    if inside.shape[1:] == tuple(size):
        return inside
    whole = image.new_zeros((image.shape[0], *size))
    whole[(slice(None), *(part[1] for part in parts))] = inside
    return whole
