"""The fast backends as one operator with autograd: a single node of an exported graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.neighborhood_attention import tiled
from medseg_kernels.neighborhood_attention.request import Request


def forward(qkv: Tensor, table: Tensor | None, *, request: Request, backend: str) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    r = request
    return _attend(qkv, table, r.heads, r.window, r.dilation, r.scale, backend)[0]


@torch.library.custom_op("medseg::neighborhood_attention", mutates_args=())
def _attend(
    qkv: Tensor,
    table: Tensor | None,
    heads: int,
    window: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The attended tokens, and the logarithm of each softmax's sum where the backend keeps it."""
    if qkv.numel() == 0:
        return _attend_fake(qkv, table, heads, window, dilation, scale, backend)
    request = _request(heads, window, dilation, scale)
    if backend == "triton":
        from medseg_kernels.neighborhood_attention import triton  # noqa: PLC0415

        return triton.forward(qkv, table, request=request)
    return tiled.forward(qkv, table, request=request), qkv.new_empty(0, dtype=torch.float32)


@_attend.register_fake
def _attend_fake(
    qkv: Tensor,
    table: Tensor | None,  # noqa: ARG001
    heads: int,
    window: Sequence[int],  # noqa: ARG001
    dilation: Sequence[int],  # noqa: ARG001
    scale: float,  # noqa: ARG001
    backend: str,
) -> tuple[Tensor, Tensor]:
    b, i, j, k, channels = qkv.shape
    sums = (b, heads, i * j * k) if backend == "triton" else (0,)
    out = qkv.new_empty((b, i, j, k, channels // 3))
    return out, qkv.new_empty(sums, dtype=torch.float32)


@torch.library.custom_op("medseg::neighborhood_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    out: Tensor | None,  # the triton backend's
    sums: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    heads: int,
    window: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and table, the latter empty where there is no table."""
    request = _request(heads, window, dilation, scale)
    if qkv.numel() == 0:
        none = 0 if table is None else table.shape
        exact = torch.promote_types(qkv.dtype, torch.float32)
        return qkv.new_empty(qkv.shape), qkv.new_zeros(none, dtype=exact)
    if backend == "triton":
        from medseg_kernels.neighborhood_attention import triton  # noqa: PLC0415

        assert out is not None
        return triton.backward(grad, out, sums, qkv, table, request=request)
    return tiled.backward(grad, qkv, table, request=request)


@_attend_backward.register_fake
def _attend_backward_fake(
    grad: Tensor,  # noqa: ARG001
    out: Tensor | None,  # noqa: ARG001
    sums: Tensor,  # noqa: ARG001
    qkv: Tensor,
    table: Tensor | None,
    *_request: object,
) -> tuple[Tensor, Tensor]:
    exact = torch.promote_types(qkv.dtype, torch.float32)
    none = 0 if table is None else table.shape
    return qkv.new_empty(qkv.shape), qkv.new_empty(none, dtype=exact)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, table, *ctx.request = inputs
    out, sums = output
    ctx.mark_non_differentiable(sums)
    kept = out if ctx.request[-1] == "triton" else None
    ctx.save_for_backward(kept, sums, qkv, table)


def _gradients(ctx: Any, grad: Tensor, _of_sums: Tensor) -> tuple[Any, ...]:
    out, sums, qkv, table = ctx.saved_tensors
    d_qkv, d_table = _attend_backward(grad, out, sums, qkv, table, *ctx.request)
    return d_qkv, None if table is None else d_table.to(table.dtype), *[None] * 5


_attend.register_autograd(_gradients, setup_context=_keep)


def _request(heads: int, window: Sequence[int], dilation: Sequence[int], scale: float) -> Request:
    """The request as the operator's schema carries it."""
    (p, q, r), (u, v, w) = window, dilation
    return Request(heads, (p, q, r), (u, v, w), scale)
