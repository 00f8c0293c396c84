"""The convolution of a rounded map, written to be read: the truth of the other backend."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.int8_convolution.weight import LARGEST, Int8Weight


def forward(
    x: Tensor,  # (b, c, i, j, k)
    weight: Int8Weight,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """The convolved map (b, o, i, j, k), float32; the sums of integers are exact."""
    x = x.float()
    largest = x.abs().amax((1, 2, 3, 4), keepdim=True)
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    rounded = (x * (1 / scale) + 0.5).floor()
    # An infinite number leaves none of its item.
    rounded = torch.where(largest.isfinite(), rounded, torch.nan)
    sums = functional.conv3d(rounded.double(), weight.values.double(), None, stride, padding)
    made = sums * (scale.double() * weight.scale.double()[:, None, None, None])
    return (made if bias is None else made + bias.double()[:, None, None, None]).float()
