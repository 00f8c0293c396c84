"""The fast backends as one operator with autograd: a single node of an exported graph."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.selective_scan import chunked, compiled
from medseg_kernels.selective_scan.chunked import Given


def forward(given: Given, *, block: int, backend: str) -> Tensor:
    """The result (b, d, n), in x's type."""
    return _scan(*given, block, backend)[0]


def _form(backend: str) -> ModuleType:
    if backend == "triton":
        from medseg_kernels.selective_scan import triton  # noqa: PLC0415

        return triton
    return {"chunked": chunked, "compiled": compiled}[backend]


@torch.library.custom_op("medseg::selective_scan", mutates_args=())
def _scan(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Tensor,
    block: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The result, and the state (b, blocks, d, s) before each block of tokens."""
    given = Given(x, step, decay, write, read, skip)
    if x.numel() == 0:
        return _scan_fake(*given, block, backend)
    with torch.autocast(x.device.type, enabled=False):
        return _form(backend).forward(given, block=block)


@_scan.register_fake
def _scan_fake(
    x: Tensor,
    step: Tensor,  # noqa: ARG001
    decay: Tensor,
    write: Tensor,  # noqa: ARG001
    read: Tensor,  # noqa: ARG001
    skip: Tensor,  # noqa: ARG001
    block: int,
    backend: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    b, d, n = x.shape
    exact = torch.promote_types(x.dtype, torch.float32)
    states = x.new_empty((b, (n + block - 1) // block, d, decay.shape[1]), dtype=exact)
    return torch.empty_like(x), states


@torch.library.custom_op("medseg::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad: Tensor,
    states: Tensor,
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Tensor,
    block: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, step, decay, write, read and skip."""
    given = Given(x, step, decay, write, read, skip)
    if x.numel() == 0:
        found = tuple(map(torch.zeros_like, given))
    else:
        with torch.autocast(x.device.type, enabled=False):
            found = _form(backend).backward(grad, states, given, block=block)
    return found[0], found[1], found[2], found[3], found[4], found[5]


@_scan_backward.register_fake
def _scan_backward_fake(
    grad: Tensor,  # noqa: ARG001
    states: Tensor,  # noqa: ARG001
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Tensor,
    block: int,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, step, decay, write, read, skip = map(torch.empty_like, (x, step, decay, write, read, skip))
    return x, step, decay, write, read, skip


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, ctx.block, ctx.backend = inputs
    _, states = output
    ctx.mark_non_differentiable(states)
    ctx.save_for_backward(states, *given)


def _gradients(ctx: Any, grad: Tensor, _of_states: Tensor) -> tuple[Tensor | None, ...]:
    states, *given = ctx.saved_tensors
    return *_scan_backward(grad, states, *given, ctx.block, ctx.backend), None, None


_scan.register_autograd(_gradients, setup_context=_keep)
