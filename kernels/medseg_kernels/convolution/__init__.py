"""Convolutions in three dimensions of step 1 that keep a map's size."""

import logging
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.convolution import split

__all__ = ["Backend", "convolution", "refuses"]

Backend = Literal["split", "torch"]

log = logging.getLogger(__name__)


def convolution(
    x: Tensor,  # (b, c, i, j, k)
    weight: Tensor,  # (o, c, a, b, d), each of a, b, d odd
    bias: Tensor | None = None,  # (o,)
    *,
    backend: Backend | None = None,
) -> Tensor:  # (b, o, i, j, k)
    """The map convolved with the weight, zeros beyond its borders, and `bias` added.

    "split" multiplies float32 maps on the matrix unit (AMX) of a CPU: each number is taken as a sum
    of two bfloat16 numbers and a product as three of four, summed in float32. What is left out is
    2^-16 of a product, where the TF32 of NVIDIA's GPUs, which torch uses for convolutions, leaves
    out 2^-10. Gradients are made the same way. "torch" is torch's own convolution. `backend` forces
    one; by default split is taken unless it refuses, which is logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    if x.ndim != 5 or weight.ndim != 5 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)}: they are (b, c, i, j, k) and "
            "(o, c, a, b, d)"
        )
    if any(side % 2 == 0 for side in weight.shape[2:]):
        raise ValueError(f"weight {tuple(weight.shape)}: the kernel's sides must be odd")
    refusal = None if backend == "torch" else refuses(x, weight)
    if backend == "split" and refusal is not None:
        raise ValueError(f"convolution: backend 'split' refuses: {refusal}")
    if backend == "torch" or refusal is not None:
        log.debug("convolution: torch, since split refuses: %s", refusal)
        return functional.conv3d(x, weight, bias, padding=[side // 2 for side in weight.shape[2:]])
    return split.forward(x, weight, bias)


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why "split" cannot serve the call, or None."""
    # torch does not tell of autocast for every type of device, meta among them.
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return "under autocast torch multiplies in half precision"
    return split.refuses(x, weight)
