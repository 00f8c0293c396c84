"""Attention on a CPU, a few queries at a time, for the forms that cut theirs into pieces."""

import math
from collections.abc import Sequence

from torch import Tensor

from medseg_kernels.attend import matrices
from medseg_kernels.attend.compiled import close, refuses, run, told_of
from medseg_kernels.attend.rows import Rows, backward_rows, forward_rows

__all__ = ["Rows", "backward", "backward_rows", "forward", "forward_rows", "refuses"]


def forward(
    query: Tensor,  # (g, heads, n, e)
    key: Tensor,  # (g, heads, m, e)
    value: Tensor,  # (g, heads, m, e)
    bias: Tensor | None,  # (g or 1, heads or 1, n, m)
    scale: float | None = None,
    *,
    axes: Sequence[Tensor] = (),  # (g, heads, n, w), m the product of up to three w
) -> Tensor:
    """softmax(scale Q K^T + B) V: (g, heads, n, e), which lies as (g, n, heads, e) in memory.

    In C for float32 on a CPU that has a compiler, by torch's fused attention otherwise. Where
    `scale` is not given it is 1 / sqrt(e). Instead of a bias there may be `axes` of a grid on which
    the keys stand, the last one fastest: a key's bias is the sum of the numbers at its places.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if refuses(query.device, query.dtype) is not None:
        return matrices.forward(query, key, value, bias, scale, axes)
    g, heads, n, e = query.shape
    result = query.new_empty((g, n, heads, e)).transpose(1, 2)
    told, _kept = told_of(query, key, value, bias, scale, axes, result=result)
    run("attend", told, heads)
    return result


def backward(
    query: Tensor,  # (g, heads, n, e)
    key: Tensor,  # (g, heads, m, e)
    value: Tensor,  # (g, heads, m, e)
    bias: Tensor | None,  # (g or 1, heads or 1, n, m)
    slope: Tensor,  # (g, heads, n, e)
    *,
    into: Sequence[Tensor],
    of_bias: Tensor | None = None,
    scale: float | None = None,
    axes: Sequence[Tensor] = (),
    of_axes: Sequence[Tensor] = (),
) -> None:
    """The gradients of `forward`, from that of its result, `slope`.

    Those of query, key and value are written over `into`, three tensors of their shapes in any
    layout whose last axis lies together, and those of `axes` over `of_axes`; that of the bias is
    added to `of_bias` (g or 1, heads, n, m). All are of one type, float32 at least.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if refuses(query.device, query.dtype) is not None:
        if axes:
            matrices.backward_of_axes(query, key, value, slope, into, scale, axes, of_axes)
        else:
            matrices.backward(query, key, value, bias, slope, into, of_bias, scale)
        return
    of_query, of_key, of_value = into
    told, _kept = told_of(
        query, key, value, bias, scale, axes, of_axes, slope=close(slope),
        of_query=of_query, of_key=of_key, of_value=of_value, of_bias=of_bias,
    )  # fmt: skip
    # One thread alone adds to a head's biases, those of one group after those of the other.
    alone = of_bias is not None and len(of_bias) == 1
    run("attend_backward", told, query.shape[1], together=len(query) if alone else 1)
