"""A linear layer, and what stands before it: every row normed or by GELU, and times a matrix."""

import logging
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.linear import operator, product
from medseg_kernels.linear.step import Norm, Step

__all__ = ["Backend", "Norm", "linear", "refuses"]

Backend = Literal["product", "torch"]

log = logging.getLogger(__name__)


def linear(
    x: Tensor,  # (..., c)
    weight: Tensor,  # (o, c)
    bias: Tensor | None = None,  # (o,)
    *,
    norm: Norm | None = None,
    gelu: bool = False,
    backend: Backend | None = None,
) -> Tensor:  # (..., o)
    """The rows f(x) weight^T + bias; f norms each row, then takes GELU of each number.

    Either is done where it is asked for.

    torch leaves the product to MKL, which runs at half of an AMD processor's speed and below, more
    so where rows are short. "product" is for float32 there: rows and matrix are multiplied eight
    rows by three vectors at a time, and the gradients too. Rows take their step in a cache, just
    before they are multiplied, and again on the way back: f(x) is never held. "torch" is torch's
    own, one after the other. `backend` forces one; by default product is taken unless it refuses,
    which is logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)}: they are (..., c) and (o, c)"
        )
    if norm is not None and any(part.shape != x.shape[-1:] for part in norm[:2]):
        raise ValueError("linear: gain and shift of a norm have the (c,) numbers of a row of x")
    if backend not in (None, "product", "torch"):
        raise ValueError(f"linear: there is no backend {backend!r}")
    step = Step(norm, gelu)
    refusal = None if backend == "torch" else refuses(x, weight)
    if backend == "product" and refusal is not None:
        raise ValueError(f"linear: backend 'product' refuses: {refusal}")
    if backend == "torch" or refusal is not None:
        if not torch.compiler.is_compiling():  # a graph has no place for it
            log.debug("linear: torch, since product refuses: %s", refusal)
        return functional.linear(step.taken(x), weight, bias)
    return operator.multiply(x, weight, bias, step)


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why "product" cannot serve the call, or None."""
    # torch does not tell of autocast for every type of device, meta among them.
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return "under autocast torch multiplies in half precision"
    return product.refuses(x, weight)
