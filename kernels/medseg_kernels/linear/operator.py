"""The product in C as one operator with autograd: a single node of an exported graph."""

from typing import Any

import torch
from torch import Tensor

from medseg_kernels.linear import product
from medseg_kernels.linear.step import Norm, Step


@torch.library.custom_op("medseg::linear", mutates_args=())
def _multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    gelu: bool,
) -> Tensor:
    """Rows (..., o)."""
    return product.multiply(x, weight, bias, _step(gain, shift, eps, gelu))


@_multiply.register_fake
def _multiply_fake(x: Tensor, weight: Tensor, *_others: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("medseg::linear_backward", mutates_args=())
def _multiply_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    gelu: bool,
    of_rows: bool,
    of_weight: bool,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, gain and shift, weight, and bias; empty where they are not asked for."""
    step = _step(gain, shift, eps, gelu)
    return product.gradients(
        gradient, x, weight, step, of_rows=of_rows, of_matrix=of_weight, of_bias=of_bias
    )


@_multiply_backward.register_fake
def _multiply_backward_fake(
    gradient: Tensor,  # noqa: ARG001
    x: Tensor,
    weight: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    of_rows, of_weight, of_bias = others[-3:]
    asked = (of_rows, of_rows, of_rows, of_weight, of_bias)
    shapes = (x.shape, x.shape[-1:], x.shape[-1:], weight.shape, weight.shape[:1])
    slopes = (x.new_empty(shape if it else 0) for shape, it in zip(shapes, asked, strict=True))
    of_x, of_gain, of_shift, slope, of_rest = slopes
    return of_x, of_gain, of_shift, slope, of_rest


def _keep(
    ctx: Any,
    inputs: tuple[Any, ...],
    output: Tensor,  # noqa: ARG001
) -> None:
    x, weight, _bias, gain, shift, *ctx.settings = inputs
    ctx.save_for_backward(x, weight, gain, shift)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias, of_gain, of_shift = ctx.needs_input_grad[:5]
    of_rows = of_x or of_gain or of_shift
    rows, gain, shift, weight, bias = _multiply_backward(
        gradient, *ctx.saved_tensors, *ctx.settings, of_rows, of_weight, of_bias
    )
    return (
        rows if of_x else None,
        weight if of_weight else None,
        bias if of_bias else None,
        gain if of_gain else None,
        shift if of_shift else None,
        None,
        None,
    )


_multiply.register_autograd(_gradients, setup_context=_keep)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, step: Step) -> Tensor:
    """Rows (..., o) of rows (..., c) that took a step."""
    gain, shift, eps = (None, None, 0.0) if step.norm is None else step.norm
    return _multiply(x, weight, bias, gain, shift, eps, step.gelu)


def _step(gain: Tensor | None, shift: Tensor | None, eps: float, gelu: bool) -> Step:
    if gain is None or shift is None:
        return Step(gelu=gelu)
    return Step(Norm(gain.detach().contiguous(), shift.detach().contiguous(), eps), gelu)
