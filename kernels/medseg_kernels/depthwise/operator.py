"""The form in C as one operator with autograd: a single node of an exported graph."""

from typing import Any

import torch
from torch import Tensor

from medseg_kernels.depthwise import compiled


@torch.library.custom_op("medseg::depthwise", mutates_args=())
def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, transposed: bool
) -> Tensor:
    """The convolved map (b, c, i, j, k), lying channels last."""
    size = _size(x, stride, transposed=transposed)
    steps = {"stride": stride, "dilation": dilation, "transposed": transposed}
    return compiled.convolve(x, weight, bias, size, **steps)


@convolve.register_fake
def _convolve_fake(
    x: Tensor,
    weight: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    stride: int,
    dilation: int,  # noqa: ARG001
    transposed: bool,
) -> Tensor:
    return _empty(x, _size(x, stride, transposed=transposed))


@torch.library.custom_op("medseg::depthwise_backward", mutates_args=())
def _convolve_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    transposed: bool,
    of_x: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight; empty where they are not asked for."""
    slope_x = slope_weight = x.new_empty(0)
    steps = {"stride": stride, "dilation": dilation}
    if of_x:
        size, turned = x.shape[2:], not transposed
        slope_x = compiled.convolve(gradient, weight, None, size, **steps, transposed=turned)
    if of_weight:
        fine, coarse = (gradient, x) if transposed else (x, gradient)
        slope_weight = compiled.weight_gradient(fine, coarse, weight, **steps)
    return slope_x, slope_weight


@_convolve_backward.register_fake
def _convolve_backward_fake(
    gradient: Tensor,  # noqa: ARG001
    x: Tensor,
    weight: Tensor,
    stride: int,  # noqa: ARG001
    dilation: int,  # noqa: ARG001
    transposed: bool,  # noqa: ARG001
    of_x: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        _empty(x, list(x.shape[2:])) if of_x else x.new_empty(0),
        weight.new_empty(weight.shape) if of_weight else x.new_empty(0),
    )


def _keep(
    ctx: Any,
    inputs: tuple[Tensor, Tensor, Tensor | None, int, int, bool],
    output: Tensor,  # noqa: ARG001
) -> None:
    x, weight, _, *ctx.steps = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
    slope_x, slope_weight = _convolve_backward(
        gradient, *ctx.saved_tensors, *ctx.steps, of_x, of_weight
    )
    return (
        slope_x if of_x else None,
        slope_weight if of_weight else None,
        gradient.sum((0, 2, 3, 4)) if of_bias else None,
        None,
        None,
        None,
    )


convolve.register_autograd(_gradients, setup_context=_keep)


def _size(x: Tensor, stride: int, *, transposed: bool) -> list[int]:
    if transposed:
        return [(side - 1) * stride + 1 for side in x.shape[2:]]
    return [(side - 1) // stride + 1 for side in x.shape[2:]]


def _empty(x: Tensor, size: list[int]) -> Tensor:
    return x.new_empty((*x.shape[:2], *size)).to(memory_format=torch.channels_last_3d)
