"""Attention on a CPU, a few queries at a time, for the forms that cut theirs into pieces."""

import ctypes
import math
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.constant import constant
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("attend.c")
# Bytes of scores that torch works on at a time where biases are sums: half of a second-level cache.
_BYTES = 1 << 20
_Number = ctypes.c_longlong
_Three = _Number * 3
_ARRAYS = (
    "query", "key", "value", "bias", "result", "slope", "of_query", "of_key", "of_value", "of_bias",
)  # fmt: skip


class _Array(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_void_p),
        ("apart", _Three),
        ("rows", ctypes.c_void_p),
        ("rows_apart", _Number),
        ("within", _Number),
        ("other", ctypes.c_void_p),
    )


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _Number) for name in ("groups", "heads", "queries", "keys", "channels")),
        ("scale", ctypes.c_float),
        ("places", _Three),
        *((name, _Array) for name in _ARRAYS),
        *((name, _Array * 3) for name in ("axes", "of_axes")),
    )


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
    g, heads, n, e = query.shape
    result = query.new_empty((g, n, heads, e)).transpose(1, 2)
    if refuses(query.device, query.dtype) is not None:
        with torch.autocast(query.device.type, enabled=False):
            if not axes:
                return functional.scaled_dot_product_attention(
                    query, key, value, attn_mask=bias, scale=scale
                )
            for part, rows in _blocks(query, key):
                result[part][:, :, rows] = functional.scaled_dot_product_attention(
                    query[part][:, :, rows], key[part], value[part],
                    attn_mask=_joined(axes, part, rows).to(query.dtype), scale=scale,
                )  # fmt: skip
        return result
    told, _kept = _told(query, key, value, bias, scale, axes, result=result)
    _run("attend", told)
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
            _of_axes_in_torch(query, key, value, slope, into, scale, axes, of_axes)
        else:
            _in_torch(query, key, value, bias, slope, into, of_bias, scale)
        return
    of_query, of_key, of_value = into
    told, _kept = _told(
        query, key, value, bias, scale, axes, of_axes, slope=_close(slope),
        of_query=of_query, of_key=of_key, of_value=of_value, of_bias=of_bias,
    )  # fmt: skip
    # One thread alone adds to a head's biases, those of one group after those of the other.
    alone = of_bias is not None and len(of_bias) == 1
    _run("attend_backward", told, together=len(query) if alone else 1)


class Rows(NamedTuple):
    """Groups (g, n) of tokens that lie anywhere: their numbers, and from `within` on padding's."""

    numbers: Tensor  # (g, n)
    within: int


def forward_rows(
    qkv: Tensor,  # (t, 3, heads, e)
    padding: Tensor,  # (3, heads, e)
    rows: Rows,
    bias: Tensor | None,  # (1, heads, n, n)
    *,
    into: Tensor,  # (more than any of rows.numbers, heads, e)
) -> None:
    """`forward` of groups that are read and written where they lie; in C alone."""
    given = _three(("query", "key", "value"), qkv, rows, padding)
    _run_rows("attend", given | {"result": _rows(into, rows)}, bias, rows, qkv.shape[2:])


def backward_rows(
    qkv: Tensor,  # (t, 3, heads, e)
    padding: Tensor,  # (3, heads, e)
    rows: Rows,
    bias: Tensor | None,  # (1, heads, n, n)
    slope: Tensor,  # (t, heads, e)
    *,
    into: Tensor,  # (more than any of rows.numbers, 3, heads, e)
    of_bias: Tensor | None,  # (1, heads, n, n)
) -> None:
    """`backward` of `forward_rows`: what each row gives, padding's too, stands at its number."""
    given = _three(("query", "key", "value"), qkv, rows, padding)
    given |= _three(("of_query", "of_key", "of_value"), into, rows)
    nothing = slope.new_zeros(slope.shape[1:])
    given["slope"] = _rows(slope, rows, nothing)
    if of_bias is not None:
        given["of_bias"] = _array(of_bias.expand(len(rows.numbers), -1, -1, -1))
    _run_rows("attend_backward", given, bias, rows, qkv.shape[2:])


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


def _of_axes_in_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    slope: Tensor,
    into: Sequence[Tensor],
    scale: float,
    axes: Sequence[Tensor],
    of_axes: Sequence[Tensor],
) -> None:
    of_query, of_key, of_value = into
    of_key.zero_()
    of_value.zero_()
    for part, rows in _blocks(query, key):
        some, bias = query[part][:, :, rows], _joined(axes, part, rows)
        d_rows = torch.empty_like(some), torch.empty_like(key[part]), torch.empty_like(value[part])
        d_scores = torch.zeros_like(bias)
        given = some, key[part], value[part], bias, slope[part][:, :, rows]
        _in_torch(*given, d_rows, d_scores, scale)
        of_query[part][:, :, rows] = d_rows[0]
        of_key[part] += d_rows[1]
        of_value[part] += d_rows[2]
        grid = d_scores.unflatten(-1, [axis.shape[-1] for axis in axes])
        for number, target in enumerate(of_axes):
            others = [3 + axis for axis in range(len(axes)) if axis != number]
            target[part][:, :, rows] = grid.sum(others) if others else grid


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """Heads of a group, and rows of their queries, whose scores fit."""
    scores, keys = _BYTES // torch.promote_types(key.dtype, torch.float32).itemsize, key.shape[2]
    heads, rows = max(1, scores // keys**2), max(16, scores // keys)
    for group in range(len(query)):
        for head in range(0, query.shape[1], heads):
            for row in range(0, query.shape[2], rows):
                part = slice(group, group + 1), slice(head, head + heads)
                yield part, slice(row, row + rows)


def _joined(axes: Sequence[Tensor], part: tuple[slice, slice], rows: slice) -> Tensor:
    """The bias of every pair."""
    spread = []
    for number, axis in enumerate(axes):
        shape = [-1 if number == other else 1 for other in range(len(axes))]
        spread.append(axis[part][:, :, rows].unflatten(-1, shape))
    return reduce(torch.add, spread).flatten(3)


def _told(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    axes: Sequence[Tensor],
    of_axes: Sequence[Tensor] = (),
    **others: Tensor | None,
) -> tuple[_Attention, list[Tensor]]:
    """What the source is told, and the tensors that have to live until it is done."""
    g, heads, n, e = query.shape
    assert bias is None or not axes, "one bias or the other"
    given = {"query": query, "key": key, "value": value, "bias": bias}
    arrays = {name: _close(x) for name, x in given.items() if x is not None}
    arrays |= {name: x for name, x in others.items() if x is not None}
    told = _Attention(g, heads, n, key.shape[2], e, scale)
    for name, x in arrays.items():
        setattr(told, name, _array(x.expand(g, heads, -1, -1)))
    axes = [_close(axis) for axis in axes]
    missing_axes = 3 - len(axes)
    told.places = _Three(*[1] * missing_axes, *(axis.shape[-1] for axis in axes))
    assert not axes or math.prod(told.places) == key.shape[2], "a place for each key"
    for target, given in ((told.axes, axes), (told.of_axes, of_axes)):
        for number, x in enumerate(given, start=missing_axes):
            target[number] = _array(x)
    return told, [*arrays.values(), *axes]


def _array(x: Tensor) -> _Array:
    """An array (g, heads, n, e)."""
    assert x.stride(-1) == 1 or x.shape[-1] == 1
    return _Array(address(x), _Three(*x.stride()[:3]))


def _rows(tokens: Tensor, rows: Rows, padding: Tensor | None = None) -> _Array:
    """One whose rows are tokens (t, heads, e), or padding (heads, e)."""
    array = _array(tokens.transpose(0, 1).expand(1, -1, -1, -1))
    array.apart[0] = 0
    array.rows, array.rows_apart = rows.numbers.data_ptr(), rows.numbers.shape[1]
    array.other, array.within = address(padding), rows.within
    return array


def _three(
    names: Sequence[str], tokens: Tensor, rows: Rows, padding: Tensor | None = None
) -> dict[str, _Array]:
    """Those of query, key and value, which tokens (t, 3, heads, e) and padding have one each of."""
    paddings = [None] * 3 if padding is None else padding.unbind()
    parts = zip(names, tokens.unbind(1), paddings, strict=True)
    return {name: _rows(part, rows, row) for name, part, row in parts}


def _run_rows(
    name: str, arrays: dict[str, _Array], bias: Tensor | None, rows: Rows, shape: Sequence[int]
) -> None:
    (g, n), (heads, e) = rows.numbers.shape, shape
    told = _Attention(g, heads, n, n, e, 1 / math.sqrt(e))
    for key, array in arrays.items():
        setattr(told, key, array)
    if bias is not None:
        told.bias = _array(bias.expand(g, -1, -1, -1))
    _run(name, told, together=g if "of_bias" in arrays else 1)


def _run(name: str, told: _Attention, *, together: int = 1) -> None:
    """Heads of so many groups one after the other, all others in any order."""
    count = library(SOURCE).attend_space
    count.restype = _Number
    size = count(ctypes.byref(told))

    def work(begin: int, end: int) -> None:
        space = torch.empty(size)
        numbers = (_Number(begin * together), _Number(end * together))
        getattr(library(SOURCE), name)(ctypes.byref(told), *numbers, address(space))

    in_threads(told.groups * told.heads // together, work)


def _close(tensor: Tensor) -> Tensor:
    """The tensor with its last axis close together."""
    tensor = tensor.detach()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
