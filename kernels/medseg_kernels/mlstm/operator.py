"""The fast backends as one operator with autograd: a single node of an exported graph."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.mlstm import chunkwise, compiled
from medseg_kernels.mlstm.given import Given, Lanes


def forward(given: Given, lanes: Lanes, *, chunk: int, backend: str) -> Tensor:
    """What the lanes read, (b, lane, n, d), in the query's type."""
    return _read(*given, *lanes, chunk, backend)[0]


def _form(backend: str) -> ModuleType:
    if backend == "triton":
        from medseg_kernels.mlstm import triton  # noqa: PLC0415

        return triton
    return {"chunkwise": chunkwise, "compiled": compiled}[backend]


@torch.library.custom_op("medseg::mlstm", mutates_args=())
def _read(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    ahead: int,
    back: int,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What the lanes read, and each token's sum of weights (b, lane, n)."""
    given = Given(query, key, value, input_gate, forget_gate)
    if query.numel() == 0:
        return _read_fake(*given, ahead, back, chunk, backend)
    with torch.autocast(query.device.type, enabled=False):
        return _form(backend).forward(given, Lanes(ahead, back), chunk=chunk)


@_read.register_fake
def _read_fake(
    query: Tensor,
    key: Tensor,  # noqa: ARG001
    value: Tensor,  # noqa: ARG001
    input_gate: Tensor,  # noqa: ARG001
    forget_gate: Tensor,  # noqa: ARG001
    ahead: int,
    back: int,
    chunk: int,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    b, _, n, d = query.shape
    exact = torch.promote_types(query.dtype, torch.float32)
    # Heads lie beside each other in a token, as the layers around them want it.
    read = query.new_empty((b, n, ahead + back, d)).transpose(1, 2)
    return read, query.new_empty((b, ahead + back, n), dtype=exact)


@torch.library.custom_op("medseg::mlstm_backward", mutates_args=())
def _read_backward(
    grad: Tensor,
    read: Tensor,
    whole: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    ahead: int,
    back: int,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of query, key, value and gates."""
    given = Given(query, key, value, input_gate, forget_gate)
    if query.numel() == 0:
        found = tuple(map(torch.zeros_like, given))
    else:
        with torch.autocast(query.device.type, enabled=False):
            found = _form(backend).backward(
                grad, read, whole, given, Lanes(ahead, back), chunk=chunk
            )
    return found[0], found[1], found[2], found[3], found[4]


@_read_backward.register_fake
def _read_backward_fake(
    grad: Tensor,  # noqa: ARG001
    read: Tensor,  # noqa: ARG001
    whole: Tensor,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    *_asked: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (query, key, value, input_gate, forget_gate)
    query, key, value, input_gate, forget_gate = map(torch.empty_like, given)
    return query, key, value, input_gate, forget_gate


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, ahead, back, chunk, backend = inputs
    read, whole = output
    ctx.asked = (ahead, back, chunk, backend)
    ctx.mark_non_differentiable(whole)
    ctx.save_for_backward(read, whole, *given)


def _gradients(ctx: Any, grad: Tensor, _of_whole: Tensor) -> tuple[Tensor | None, ...]:
    return *_read_backward(grad, *ctx.saved_tensors, *ctx.asked), None, None, None, None


_read.register_autograd(_gradients, setup_context=_keep)
