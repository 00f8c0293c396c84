"""The fast backends as one operator with autograd: a single node of an exported graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.window_attention import grouped
from medseg_kernels.window_attention.request import Request


def forward(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, *, request: Request, backend: str
) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    r = request
    asked = (r.heads, r.window, r.shift, r.dilation, r.prefix, backend)
    return _attend(qkv, table, padding, *asked)[0]


@torch.library.custom_op("medseg::window_attention", mutates_args=())
def _attend(
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    dilation: Sequence[int],
    prefix: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The attended tokens, and the logarithm of each softmax's sum where the backend keeps it."""
    request = _request(heads, window, shift, dilation, prefix=prefix)
    if qkv.numel() == 0:
        return _empty(qkv, request, backend)
    if backend == "triton":
        from medseg_kernels.window_attention import triton  # noqa: PLC0415

        return triton.forward(qkv, table, padding, request=request)
    out = grouped.forward(qkv, table, padding, request=request)
    return out, qkv.new_empty(0, dtype=torch.float32)


@_attend.register_fake
def _attend_fake(
    qkv: Tensor,
    table: Tensor | None,  # noqa: ARG001
    padding: Tensor | None,  # noqa: ARG001
    heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    dilation: Sequence[int],
    prefix: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _empty(qkv, _request(heads, window, shift, dilation, prefix=prefix), backend)


def _empty(qkv: Tensor, request: Request, backend: str) -> tuple[Tensor, Tensor]:
    b, i, j, k, channels = qkv.shape
    sums = (b, request.groups((i, j, k)), request.heads, request.tokens)
    out = qkv.new_empty((b, i, j, k, channels // 3))
    return out, qkv.new_empty(sums if backend == "triton" else 0, dtype=torch.float32)


@torch.library.custom_op("medseg::window_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    out: Tensor,
    sums: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    dilation: Sequence[int],
    prefix: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, table and padding; empty where there is no such tensor."""
    request = _request(heads, window, shift, dilation, prefix=prefix)
    if qkv.numel() == 0:
        of_qkv, of_table, of_padding = _gradients_like(qkv, table, padding)
        return of_qkv, of_table.zero_(), of_padding.zero_()
    if backend == "triton":
        from medseg_kernels.window_attention import triton  # noqa: PLC0415

        return triton.backward(grad, out, sums, qkv, table, padding, request=request)
    return grouped.backward(grad, qkv, table, padding, request=request)


@_attend_backward.register_fake
def _attend_backward_fake(
    grad: Tensor,  # noqa: ARG001
    out: Tensor,  # noqa: ARG001
    sums: Tensor,  # noqa: ARG001
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    *_request: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(qkv, table, padding)


def _gradients_like(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    exact = torch.promote_types(qkv.dtype, torch.float32)
    return (
        qkv.new_empty(qkv.shape),
        qkv.new_empty(0 if table is None else table.shape, dtype=exact),
        qkv.new_empty(0 if padding is None else padding.shape, dtype=exact),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, table, padding, *ctx.request = inputs
    out, sums = output
    ctx.mark_non_differentiable(sums)
    ctx.save_for_backward(out, sums, qkv, table, padding)


def _gradients(ctx: Any, grad: Tensor, _of_sums: Tensor) -> tuple[Any, ...]:
    out, sums, qkv, table, padding = ctx.saved_tensors
    grads = _attend_backward(grad, out, sums, qkv, table, padding, *ctx.request)
    given = zip(grads, (qkv, table, padding), strict=True)
    return (*(None if x is None else g.to(x.dtype) for g, x in given), *[None] * 6)


_attend.register_autograd(_gradients, setup_context=_keep)


def _request(
    heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    dilation: Sequence[int],
    *,
    prefix: bool,
) -> Request:
    """The request as the operator's schema carries it."""
    (p, q, r), (s, t, u), (v, w, x) = window, shift, dilation
    return Request(heads, (p, q, r), (s, t, u), (v, w, x), prefix=prefix)
