"""Attention on a CPU, a few queries at a time, for the forms that cut theirs into pieces."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.constant import constant
from medseg_kernels.native import NotCompiledError, address, in_threads, library

SOURCE = Path(__file__).with_name("attend.c")
_Number = ctypes.c_longlong


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "bias", "result")),
        *(
            (name, _Number * 3)
            for name in ("query_apart", "key_apart", "value_apart", "bias_apart", "result_apart")
        ),
        *((name, _Number) for name in ("groups", "queries", "keys", "channels")),
        ("scale", ctypes.c_float),
    )


def attend(
    query: Tensor,  # (g, heads, n, e)
    key: Tensor,  # (g, heads, m, e)
    value: Tensor,  # (g, heads, m, e)
    bias: Tensor | None,  # (g or 1, heads or 1, n, m)
    scale: float | None = None,
) -> Tensor:
    """softmax(scale Q K^T + B) V: (g, heads, n, e), which lies as (g, n, heads, e) in memory.

    In C for float32 on a CPU that has a compiler, by torch's fused attention otherwise. `scale` is
    1 / sqrt(e) where it is not given.
    """
    if refuses(query) is None:
        return _in_c(query, key, value, bias, query.shape[-1] ** -0.5 if scale is None else scale)
    with torch.autocast(query.device.type, enabled=False):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale
        )


def refuses(query: Tensor) -> str | None:
    """Why the C source cannot serve a call, or None."""
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return f"it is for float32 on a CPU, not {query.dtype} on {query.device}"
    return _unready()


@constant
def _unready() -> str | None:
    try:
        library(SOURCE)
    except NotCompiledError as error:
        return str(error)
    return None


def _in_c(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    g, heads, n, e = query.shape
    result = query.new_empty((g, n, heads, e)).transpose(1, 2)
    if bias is not None:
        bias = bias.expand(g, heads, -1, -1)
    given = [None if x is None else _rows(x) for x in (query, key, value, bias)]
    arrays = (*given, result)
    told = _Attention(
        *map(address, arrays),
        *((_Number * 3)(*(x.stride()[:3] if x is not None else (0, 0, 0))) for x in arrays),
        g, n, key.shape[2], e, scale,
    )  # fmt: skip
    count = library(SOURCE).attend_space
    count.restype = _Number
    size = count(ctypes.byref(told))

    def work(begin: int, end: int) -> None:
        space = query.new_empty(size)
        library(SOURCE).attend(ctypes.byref(told), _Number(begin), _Number(end), address(space))

    in_threads(g * heads, work)
    return result


def _rows(tensor: Tensor) -> Tensor:
    """The tensor with its last axis close together."""
    tensor = tensor.detach()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
