"""Convolutions in three dimensions in eight bits, for prediction."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.int8_convolution import onednn, reference
from medseg_kernels.int8_convolution.weight import Int8Weight, int8_weight

__all__ = ["Backend", "Int8Weight", "int8_convolution", "int8_weight", "refuses"]

Backend = Literal["onednn", "reference"]
Triple = tuple[int, int, int]

log = logging.getLogger(__name__)


def int8_convolution(
    x: Tensor,  # (b, c, i, j, k)
    weight: Int8Weight,  # (o, c, a, b, d)
    bias: Tensor | None = None,  # (o,)
    *,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    backend: Backend | None = None,
) -> Tensor:  # (b, o, i2, j2, k2)
    """The map convolved in integers, zeros beyond its borders, and `bias` added; float32.

    Each item of `x` is rounded to 255 steps: with s = max |x| / 127, q = floor(x / s + 1/2). The
    sums of q times `weight.values` are exact and multiplied by s and `weight.scale`. An item with
    a number that is not finite comes out as no numbers. There is no gradient.

    "onednn" is for CPUs, four times as fast as float32 where these multiply bytes (VNNI), and more
    where they have AMX. `backend` forces one; by default it is taken unless it refuses, which is
    logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    if x.ndim != 5 or weight.values.ndim != 5 or x.shape[1] != weight.values.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.values.shape)}: they are (b, c, i, j, k) "
            "and (o, c, a, b, d)"
        )
    refusal = refuses(x) if backend != "reference" else None
    if backend == "onednn" and refusal is not None:
        raise ValueError(f"int8_convolution: backend 'onednn' refuses: {refusal}")
    if backend not in (None, "onednn", "reference"):
        raise ValueError(f"int8_convolution: there is no backend {backend!r}")
    if refusal is not None:
        log.debug("int8_convolution: backend 'onednn' refuses: %s", refusal)
    fast = backend != "reference" and refusal is None
    return _convolve(x, weight.values, weight.scale, bias, stride, padding, fast)


def refuses(x: Tensor) -> str | None:
    """Why "onednn" cannot serve the call, or None."""
    return onednn.refuses(x)


@torch.library.custom_op("medseg::int8_convolution", mutates_args=())
def _convolve(
    x: Tensor,
    values: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    fast: bool,
) -> Tensor:
    form = onednn if fast else reference
    with torch.no_grad():
        return form.forward(x, Int8Weight(values, scale), bias, stride=stride, padding=padding)


@_convolve.register_fake
def _convolve_fake(
    x: Tensor,
    values: Tensor,
    scale: Tensor,  # noqa: ARG001
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    fast: bool,
) -> Tensor:
    made = functional.conv3d(x.float(), values.float(), bias, tuple(stride), tuple(padding))
    layout = torch.channels_last_3d if fast else torch.contiguous_format
    return torch.empty_like(made, memory_format=layout)
