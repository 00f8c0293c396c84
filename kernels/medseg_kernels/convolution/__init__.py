"""Convolutions in three dimensions of step 1 that keep a map's size."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels import choice
from medseg_kernels.convolution import operator

__all__ = ["Backend", "chosen", "convolution", "refuses"]

Backend = Literal["split", "winograd", "torch"]

_BACKENDS: tuple[Backend, ...] = ("split", "winograd", "torch")


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
    out 2^-10. "winograd" needs up to 8 times fewer multiplications by minimal filtering (Winograd
    1980; arXiv 1509.09308), in float32 on any CPU, for kernels with sides of 1 and 3. Gradients
    are made the same way. "torch" is torch's own convolution. `backend` forces one; by default the
    first that does not refuse is taken, and refusals are logged at debug level.

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
    name = chosen(x, weight, backend)
    if name == "torch":
        return functional.conv3d(x, weight, bias, padding=[side // 2 for side in weight.shape[2:]])
    return operator.convolve(x, weight, bias, name)


def chosen(x: Tensor, weight: Tensor, backend: Backend | None = None) -> Backend:
    """`backend`, or by default the first that does not refuse.

    Raises:
        ValueError: `backend` refuses, or there is none of that name.
    """
    return choice.chosen("convolution", _BACKENDS, backend, partial(refuses, x=x, weight=weight))


def refuses(backend: Backend, x: Tensor, weight: Tensor) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "torch":
        return None
    # torch does not tell of autocast for every type of device, meta among them.
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return "under autocast torch multiplies in half precision"
    return operator.ENGINES[backend].refuses(x, weight)
