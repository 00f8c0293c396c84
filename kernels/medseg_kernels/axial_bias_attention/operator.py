"""The fast backends as one operator with autograd: a single node of an exported graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.axial_bias_attention import blocked
from medseg_kernels.axial_bias_attention.request import Request


def forward(
    qkv: Tensor, tables: Tensor, padding: Tensor | None, *, request: Request, backend: str
) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    r = request
    return _attend(qkv, tables, padding, r.heads, r.window, r.shift, backend)[0]


@torch.library.custom_op("medseg::axial_bias_attention", mutates_args=())
def _attend(
    qkv: Tensor,
    tables: Tensor,
    padding: Tensor | None,
    heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The attended tokens, and the logarithm of each softmax's sum where the backend keeps it."""
    if qkv.numel() == 0:
        return _attend_fake(qkv, tables, padding, heads, window, shift, backend)
    request = _request(heads, window, shift)
    with torch.autocast(qkv.device.type, enabled=False):
        if backend == "triton":
            from medseg_kernels.axial_bias_attention import triton  # noqa: PLC0415

            return triton.forward(qkv, tables, padding, request=request)
        out = blocked.forward(qkv, tables, padding, request=request)
        return out, qkv.new_empty(0, dtype=torch.float32)


@_attend.register_fake
def _attend_fake(
    qkv: Tensor,
    tables: Tensor,  # noqa: ARG001
    padding: Tensor | None,  # noqa: ARG001
    heads: int,
    window: Sequence[int],  # noqa: ARG001
    shift: Sequence[int],  # noqa: ARG001
    backend: str,
) -> tuple[Tensor, Tensor]:
    b, i, j, k, channels = qkv.shape
    sums = (b, heads, i * j * k) if backend == "triton" else (0,)
    out = qkv.new_empty((b, i, j, k, channels // 3))
    return out, qkv.new_empty(sums, dtype=torch.float32)


@torch.library.custom_op("medseg::axial_bias_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    out: Tensor | None,  # the triton backend's
    sums: Tensor,
    qkv: Tensor,
    tables: Tensor,
    padding: Tensor | None,
    heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, tables and padding, the latter empty where there is none."""
    request = _request(heads, window, shift)
    if qkv.numel() == 0:
        exact = torch.promote_types(qkv.dtype, torch.float32)
        of_tables = tables.new_zeros(tables.shape, dtype=exact)
        of_padding = 0 if padding is None else padding.shape
        return qkv.new_empty(qkv.shape), of_tables, qkv.new_zeros(of_padding, dtype=exact)
    with torch.autocast(qkv.device.type, enabled=False):
        if backend == "triton":
            from medseg_kernels.axial_bias_attention import triton  # noqa: PLC0415

            assert out is not None
            return triton.backward(grad, out, sums, qkv, tables, padding, request=request)
        return blocked.backward(grad, qkv, tables, padding, request=request)


@_attend_backward.register_fake
def _attend_backward_fake(
    grad: Tensor,  # noqa: ARG001
    out: Tensor | None,  # noqa: ARG001
    sums: Tensor,  # noqa: ARG001
    qkv: Tensor,
    tables: Tensor,
    padding: Tensor | None,
    *_request: object,
) -> tuple[Tensor, Tensor, Tensor]:
    exact = torch.promote_types(qkv.dtype, torch.float32)
    of_padding = 0 if padding is None else padding.shape
    return (
        qkv.new_empty(qkv.shape),
        tables.new_empty(tables.shape, dtype=exact),
        qkv.new_empty(of_padding, dtype=exact),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, tables, padding, *ctx.request = inputs
    out, sums = output
    ctx.mark_non_differentiable(sums)
    kept = out if ctx.request[-1] == "triton" else None
    ctx.save_for_backward(kept, sums, qkv, tables, padding)


def _gradients(ctx: Any, grad: Tensor, _of_sums: Tensor) -> tuple[Any, ...]:
    out, sums, *given = ctx.saved_tensors
    grads = _attend_backward(grad, out, sums, *given, *ctx.request)
    wanted = zip(grads, given, strict=True)
    return *(None if x is None else g.to(x.dtype) for g, x in wanted), *[None] * 4


_attend.register_autograd(_gradients, setup_context=_keep)


def _request(heads: int, window: Sequence[int], shift: Sequence[int]) -> Request:
    """The request as the operator's schema carries it."""
    (p, q, r), (s, t, u) = window, shift
    return Request(heads, (p, q, r), (s, t, u))
