"""The engines in C as one operator with autograd: a single node of an exported graph."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.convolution import split, winograd
from medseg_kernels.maps import map_like

# A module has refuses(x, weight), why it cannot serve a call, or None; convolve(x, weight, bias,
# turned=), a map as `map_like` makes it, turned: by the weight from its outputs to its inputs; and
# weight_gradient(x, gradient, weight).
ENGINES: dict[str, ModuleType] = {"split": split, "winograd": winograd}


@torch.library.custom_op("medseg::convolution", mutates_args=())
def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, engine: str) -> Tensor:
    """The convolved map (b, o, i, j, k), lying channels last."""
    return ENGINES[engine].convolve(x, weight, bias, turned=False)


@convolve.register_fake
def _convolve_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,  # noqa: ARG001
    engine: str,  # noqa: ARG001
) -> Tensor:
    return map_like(x, weight.shape[0])


@torch.library.custom_op("medseg::convolution_backward", mutates_args=())
def _convolve_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, engine: str, of_x: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight; empty where they are not asked for."""
    chosen = ENGINES[engine]
    return (
        chosen.convolve(gradient, weight, None, turned=True) if of_x else x.new_empty(0),
        chosen.weight_gradient(x, gradient, weight) if of_weight else x.new_empty(0),
    )


@_convolve_backward.register_fake
def _convolve_backward_fake(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    engine: str,  # noqa: ARG001
    of_x: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        map_like(gradient, x.shape[1]) if of_x else x.new_empty(0),
        weight.new_empty(weight.shape) if of_weight else x.new_empty(0),
    )


def _keep(
    ctx: Any,
    inputs: tuple[Tensor, Tensor, Tensor | None, str],
    output: Tensor,  # noqa: ARG001
) -> None:
    x, weight, _, ctx.engine = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias, _ = ctx.needs_input_grad
    slope_x, slope_weight = _convolve_backward(
        gradient, *ctx.saved_tensors, ctx.engine, of_x, of_weight
    )
    return (
        slope_x if of_x else None,
        slope_weight if of_weight else None,
        gradient.sum((0, 2, 3, 4)) if of_bias else None,
        None,
    )


convolve.register_autograd(_gradients, setup_context=_keep)
