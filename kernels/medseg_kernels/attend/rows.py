"""Attention among tokens that are read and written where they lie; in C alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from medseg_kernels.attend.compiled import Array, Attention, array_of, run
from medseg_kernels.native import address


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
    """`forward` of groups that are read and written where they lie."""
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
        given["of_bias"] = array_of(of_bias.expand(len(rows.numbers), -1, -1, -1))
    _run_rows("attend_backward", given, bias, rows, qkv.shape[2:])


def _rows(tokens: Tensor, rows: Rows, padding: Tensor | None = None) -> Array:
    """One whose rows are tokens (t, heads, e), or padding (heads, e)."""
    array = array_of(tokens.transpose(0, 1).expand(1, -1, -1, -1))
    array.apart[0] = 0
    array.rows, array.rows_apart = rows.numbers.data_ptr(), rows.numbers.shape[1]
    array.other, array.within = address(padding), rows.within
    return array


def _three(
    names: Sequence[str], tokens: Tensor, rows: Rows, padding: Tensor | None = None
) -> dict[str, Array]:
    """Those of query, key and value, which tokens (t, 3, heads, e) and padding have one each of."""
    paddings = [None] * 3 if padding is None else padding.unbind()
    parts = zip(names, tokens.unbind(1), paddings, strict=True)
    return {name: _rows(part, rows, row) for name, part, row in parts}


def _run_rows(
    name: str, arrays: dict[str, Array], bias: Tensor | None, rows: Rows, shape: Sequence[int]
) -> None:
    (g, n), (heads, e) = rows.numbers.shape, shape
    told = Attention(g, n, n, e, 1 / math.sqrt(e))
    for key, array in arrays.items():
        setattr(told, key, array)
    if bias is not None:
        told.bias = array_of(bias.expand(g, -1, -1, -1))
    run(name, told, heads, together=g if "of_bias" in arrays else 1)
