"""Attention on a CPU, a few queries at a time, for the forms that cut theirs into pieces."""

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.constant import constant
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("attend.c")
_Number = ctypes.c_longlong
_GIVEN = ("query", "key", "value", "bias")
_ARRAYS = (*_GIVEN, "result", "slope", "of_query", "of_key", "of_value", "of_bias")


class _Array(ctypes.Structure):
    _fields_ = (("first", ctypes.c_void_p), ("apart", _Number * 3))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _Array) for name in _ARRAYS),
        *((name, _Number) for name in ("groups", "queries", "keys", "channels")),
        ("scale", ctypes.c_float),
    )


def forward(
    query: Tensor,  # (g, heads, n, e)
    key: Tensor,  # (g, heads, m, e)
    value: Tensor,  # (g, heads, m, e)
    bias: Tensor | None,  # (g or 1, heads or 1, n, m)
    scale: float | None = None,
) -> Tensor:
    """softmax(scale Q K^T + B) V: (g, heads, n, e), which lies as (g, n, heads, e) in memory.

    In C for float32 on a CPU that has a compiler, by torch's fused attention otherwise. Where
    `scale` is not given it is 1 / sqrt(e).
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if refuses(query.device, query.dtype) is not None:
        with torch.autocast(query.device.type, enabled=False):
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, scale=scale
            )
    g, heads, n, e = query.shape
    result = query.new_empty((g, n, heads, e)).transpose(1, 2)
    given = _told(query, key, value, bias, scale, result=result)
    _run("attend", given, g * heads)
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
) -> None:
    """The gradients of `forward`, from that of its result, `slope`.

    Those of query, key and value are written over `into`, three tensors of their shapes in any
    layout whose last axis lies together; that of the bias is added to `of_bias` (g or 1, heads,
    n, m). All are of one type, float32 at least.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if refuses(query.device, query.dtype) is not None:
        _in_torch(query, key, value, bias, slope, into, of_bias, scale)
        return
    g, heads = query.shape[:2]
    of_query, of_key, of_value = into
    given = _told(
        query, key, value, bias, scale, slope=_rows(slope),
        of_query=of_query, of_key=of_key, of_value=of_value, of_bias=of_bias,
    )  # fmt: skip
    # One thread alone adds to a head's biases, those of one group after those of the other.
    together = g if of_bias is not None and len(of_bias) == 1 else 1
    _run("attend_backward", given, g * heads, together)


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the C source cannot serve a call, or None."""
    if device.type != "cpu" or dtype != torch.float32:
        return f"it is for float32 on a CPU, not {dtype} on {device}"
    return _unready()


@constant
def _unready() -> str | None:
    return missing(SOURCE)


def _in_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    slope: Tensor,
    into: Sequence[Tensor],
    of_bias: Tensor | None,
    scale: float,
) -> None:
    # With P = softmax(S), S = scale Q K^T + B, and G the gradient of P V: dV = P^T G,
    # dS = P dP - P sum(P dP) with dP = G V^T, dQ = scale dS K, dK = scale dS^T Q, dB = dS.
    (g, heads, n, _), m = query.shape, key.shape[2]
    query, key, value, slope = (x.flatten(0, 1) for x in (query, key, value, slope))
    start = query.new_zeros(1) if bias is None else bias.expand(g, heads, -1, -1).flatten(0, 1)
    with torch.autocast(query.device.type, enabled=False):
        weights = torch.baddbmm(start, query, key.mT, alpha=scale).softmax(-1)
        d_scores = torch.bmm(slope, value.mT).mul_(weights)
        d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1)
        if of_bias is not None:
            of_bias.add_(d_scores.view(g, heads, n, m).sum_to_size(of_bias.shape))
        d_rows = (
            torch.bmm(d_scores, key).mul_(scale),
            torch.bmm(d_scores.mT, query).mul_(scale),
            torch.bmm(weights.mT, slope),
        )
    for target, rows in zip(into, d_rows, strict=True):
        target.copy_(rows.unflatten(0, (g, heads)))


def _told(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    **others: Tensor | None,
) -> tuple[_Attention, dict[str, Tensor]]:
    """What the source is told, and the tensors that have to live until it is done."""
    g, heads, n, e = query.shape
    arrays = {"query": _rows(query), "key": _rows(key), "value": _rows(value)}
    optional = {"bias": None if bias is None else _rows(bias), **others}
    arrays |= {name: x for name, x in optional.items() if x is not None}
    told = _Attention(groups=g, queries=n, keys=key.shape[2], channels=e, scale=scale)
    for name, x in arrays.items():
        assert x.stride(-1) == 1 or x.shape[-1] == 1
        apart = x.expand(g, heads, -1, -1).stride()[:3]
        setattr(told, name, _Array(address(x), (_Number * 3)(*apart)))
    return told, arrays


def _run(
    name: str, given: tuple[_Attention, dict[str, Tensor]], heads: int, together: int = 1
) -> None:
    told, arrays = given
    count = library(SOURCE).attend_space
    count.restype = _Number
    size = count(ctypes.byref(told))

    def work(begin: int, end: int) -> None:
        space = arrays["query"].new_empty(size)
        numbers = (_Number(begin * together), _Number(end * together))
        getattr(library(SOURCE), name)(ctypes.byref(told), *numbers, address(space))

    in_threads(heads // together, work)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor with its last axis close together."""
    tensor = tensor.detach()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
