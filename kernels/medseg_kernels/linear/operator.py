"""The product in C as one operator with autograd: a single node of an exported graph."""

from typing import Any

import torch
from torch import Tensor

from medseg_kernels.linear import product


@torch.library.custom_op("medseg::linear", mutates_args=())
def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (..., o)."""
    return product.multiply(x, weight, bias)


@multiply.register_fake
def _multiply_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("medseg::linear_backward", mutates_args=())
def _multiply_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight; empty where they are not asked for."""
    return (
        product.multiply(gradient, weight.t(), None) if of_x else x.new_empty(0),
        product.weight_gradient(x, gradient) if of_weight else x.new_empty(0),
    )


@_multiply_backward.register_fake
def _multiply_backward_fake(
    gradient: Tensor,  # noqa: ARG001
    x: Tensor,
    weight: Tensor,
    of_x: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(x.shape) if of_x else x.new_empty(0),
        weight.new_empty(weight.shape) if of_weight else x.new_empty(0),
    )


def _keep(
    ctx: Any,
    inputs: tuple[Tensor, Tensor, Tensor | None],
    output: Tensor,  # noqa: ARG001
) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias = ctx.needs_input_grad
    slope_x, slope_weight = _multiply_backward(gradient, *ctx.saved_tensors, of_x, of_weight)
    return (
        slope_x if of_x else None,
        slope_weight if of_weight else None,
        gradient.reshape(-1, gradient.shape[-1]).sum(0) if of_bias else None,
    )


multiply.register_autograd(_gradients, setup_context=_keep)
