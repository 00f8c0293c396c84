"""Convolutions of each channel by itself, centered on their voxel, and their transposes."""

from functools import partial
from typing import Literal

from torch import Tensor

from medseg_kernels import choice
from medseg_kernels.depthwise import compiled, lattices, operator, reference

__all__ = ["Backend", "chosen", "depthwise", "refuses"]

Backend = Literal["compiled", "lattices", "reference"]

_BACKENDS: tuple[Backend, ...] = ("compiled", "lattices", "reference")


def depthwise(
    x: Tensor,  # (b, c, i, j, k)
    weight: Tensor,  # (c, 1, p, q, r), each of p, q, r odd
    bias: Tensor | None = None,  # (c,)
    *,
    stride: int = 1,
    dilation: int = 1,
    transposed: bool = False,
    backend: Backend | None = None,
) -> Tensor:  # (b, c, i2, j2, k2)
    """Each channel convolved with its own kernel, zeros beyond the borders, and `bias` added.

    The taps of a kernel lie `dilation` voxels apart, the first tap's and the last one's reach
    beyond the map alike. A side of n voxels becomes (n - 1) // stride + 1, with `transposed`
    (n - 1) stride + 1. "compiled" is for float32 on a CPU; its result lies channels last, and so
    does what it is given or a copy. "lattices" is for cubic kernels of step 1, by torch's
    operations; "reference" is torch's convolution. `backend` forces one; by default the first that
    does not refuse is taken, and refusals are logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    if x.ndim != 5 or weight.ndim != 5 or weight.shape[:2] != (x.shape[1], 1):
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)}: they are (b, c, i, j, k) and "
            "(c, 1, p, q, r)"
        )
    if any(side % 2 == 0 for side in weight.shape[2:]) or min(stride, dilation) < 1:
        raise ValueError(
            f"weight {tuple(weight.shape)}, stride {stride}, dilation {dilation}: a kernel's sides "
            "are odd, and steps are 1 or more"
        )
    name = chosen(x, weight, stride=stride, transposed=transposed, backend=backend)
    if name == "compiled":
        return operator.convolve(x, weight, bias, stride, dilation, transposed)
    if name == "lattices":
        return lattices.forward(x, weight, bias, dilation=dilation)
    return reference.forward(
        x, weight, bias, stride=stride, dilation=dilation, transposed=transposed
    )


def chosen(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int = 1,
    transposed: bool = False,
    backend: Backend | None = None,
) -> Backend:
    """`backend`, or by default the first that does not refuse.

    Raises:
        ValueError: `backend` refuses, or there is none of that name.
    """
    told = partial(refuses, x=x, weight=weight, stride=stride, transposed=transposed)
    return choice.chosen("depthwise", _BACKENDS, backend, told)


def refuses(
    backend: Backend, x: Tensor, weight: Tensor, *, stride: int = 1, transposed: bool = False
) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "compiled":
        return compiled.refuses(x, weight)
    if backend == "lattices":
        return lattices.refuses(weight, stride=stride, transposed=transposed)
    return None
