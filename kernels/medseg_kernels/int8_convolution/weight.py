"""A convolution's weight in eight bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """`values` (o, c, a, b, d) int8 times `scale` (o,) float32, a scale for each output channel."""

    values: Tensor
    scale: Tensor


def int8_weight(weight: Tensor) -> Int8Weight:  # (o, c, a, b, d)
    """The weight rounded: the largest number of each output channel becomes 127 or -127."""
    exact = weight.detach().float()
    scale = exact.abs().amax((1, 2, 3, 4)) / LARGEST
    # A channel of zeros has any scale.
    scale = torch.where(scale > 0, scale, 1.0)
    return Int8Weight((exact / scale[:, None, None, None, None]).round().to(torch.int8), scale)
