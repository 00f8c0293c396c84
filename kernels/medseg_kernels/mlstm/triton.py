"""The mLSTM cell by Triton: quadratic inside chunks of tokens, a state between them.

Chunks lie on the tokens as these lie in memory; a lane that reads backward goes from the last chunk
to the first, and its tokens read those behind them. For the backward pass inputs, results and sums
of weights are kept; states are made again.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from medseg_kernels.mlstm import programs
from medseg_kernels.mlstm.given import Given, Lanes, alike, as_given, of_heads, room_for


class _States(NamedTuple):
    """Exponents of chunks, and the states before them."""

    forgotten: Tensor  # (b, lane, n)
    total: Tensor  # (b, lane, chunks)
    peak: Tensor  # (b, lane, chunks)
    memory: Tensor  # (b, lane, chunks, d, d)
    normal: Tensor  # (b, lane, chunks, d)
    exponent: Tensor  # (b, lane, chunks)


class _Slopes(NamedTuple):
    """What tokens hand back before it is known what reaches their states."""

    inverse: Tensor  # (b, lane, n): one by the divisor
    of_whole: Tensor  # (b, lane, n)
    top: Tensor  # (b, lane, n)
    of_top: Tensor  # (b, lane, n)
    handed: Tensor  # (b, lane, chunks): the part of the exponent behind that the one before gets
    to_state: Tensor  # (b, lane, chunks): what tokens hand to the exponent before


def forward(given: Given, lanes: Lanes, *, chunk: int) -> tuple[Tensor, Tensor]:
    """What the lanes read (b, lane, n, d), and each token's sum of weights (b, lane, n)."""
    given = alike(given)
    query, key, value, input_gate, _ = given
    b, _, n, d = query.shape
    read = query.new_empty((b, n, sum(lanes), d)).transpose(1, 2)
    whole = query.new_empty((b, sum(lanes), n), dtype=torch.float32)
    with torch.cuda.device_of(read):
        states = _states(given, lanes, chunk)
        programs.reading[_grid(given, lanes, chunk)](
            query, key, value, input_gate, states.forgotten, *states[3:], read, whole,
            *_strides(query), *_sizes(given, lanes, chunk), **shape(d, query.dtype, chunk),
        )  # fmt: skip
    return read, whole


def backward(
    grad: Tensor, read: Tensor, whole: Tensor, given: Given, lanes: Lanes, *, chunk: int
) -> tuple[Tensor, ...]:
    """The gradients of all that is given, from `forward`'s results and that of the first."""
    even, heads = alike(given), given.query.shape[1]
    query = even.query
    grad = torch.empty_like(read).copy_(grad)
    found: list[Any] = [room_for(query, lanes) for _ in range(3)]
    of_gates: list[Any] = [torch.empty_like(whole) for _ in range(2)]
    sizes, cut = _sizes(even, lanes, chunk), shape(query.shape[3], query.dtype, chunk)
    with torch.cuda.device_of(read):
        states = _states(even, lanes, chunk)
        slopes = _slopes(grad, read, whole, even, states, lanes, chunk)
        of_states = _states_backward(grad, even, states, slopes, lanes, chunk)
        programs.down[_grid(even, lanes, chunk)](
            *even, grad, *states, *of_states, *slopes[:4], *found, *of_gates,
            *_strides(query), *_strides(found[0]), *sizes, **cut,
        )  # fmt: skip
    summed = (of_heads(one, heads) for one in (*found, *of_gates))
    return tuple(as_given(one, of) for one, of in zip(given, summed, strict=True))


def _states(given: Given, lanes: Lanes, chunk: int) -> _States:
    query, key, value, input_gate, forget_gate = given
    b, _, n, d = query.shape
    lane, chunks = sum(lanes), triton.cdiv(n, chunk)
    each = query.new_empty((b, lane, chunks), dtype=torch.float32)
    states = _States(
        forgotten=each.new_empty((b, lane, n)),
        total=each,
        peak=torch.empty_like(each),
        memory=each.new_empty((b, lane, chunks, d, d)),
        normal=each.new_empty((b, lane, chunks, d)),
        exponent=torch.empty_like(each),
    )
    sizes, cut = _sizes(given, lanes, chunk), state_shape(d, query.dtype, chunk)
    programs.gates[_grid(given, lanes, chunk)](
        input_gate, forget_gate, *states[:3], *sizes, **gate_shape(chunk)
    )
    programs.writing[_blocks(cut), b * lane](
        key, value, input_gate, *states, *_strides(query), *sizes, **cut, **scale(d)
    )
    return states


def _slopes(
    grad: Tensor,
    read: Tensor,
    whole: Tensor,
    given: Given,
    states: _States,
    lanes: Lanes,
    chunk: int,
) -> _Slopes:
    found = _Slopes(
        *(torch.empty_like(states.forgotten) for _ in range(4)),
        *(torch.empty_like(states.total) for _ in range(2)),
    )
    programs.sloping[_grid(given, lanes, chunk)](
        given.input_gate, grad, read, whole, *states[:3], states.exponent, *found,
        *_sizes(given, lanes, chunk), **slope_shape(read.shape[3], chunk),
    )  # fmt: skip
    return found


def _states_backward(
    grad: Tensor, given: Given, states: _States, slopes: _Slopes, lanes: Lanes, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the states behind the chunks: memory, normalizer, exponent."""
    found = (
        torch.empty_like(states.memory),
        torch.empty_like(states.normal),
        torch.empty_like(states.exponent),
    )
    query = given.query
    cut = state_shape(query.shape[3], query.dtype, chunk)
    programs.returning[_blocks(cut), len(query) * sum(lanes)](
        query, grad, states.total, states.peak, states.exponent, *slopes[:3], *slopes[4:], *found,
        *_strides(query), *_sizes(given, lanes, chunk), **cut,
    )  # fmt: skip
    return found


def _grid(given: Given, lanes: Lanes, chunk: int) -> tuple[int, int]:
    b, _, n, _ = given.query.shape
    return triton.cdiv(n, chunk), b * sum(lanes)


def _strides(tensor: Tensor) -> list[Any]:
    """How far apart items, heads and tokens lie."""
    return list(tensor.stride()[:3])


def _sizes(given: Given, lanes: Lanes, chunk: int) -> tuple[Any, ...]:
    """Heads, those that read forward, lanes, tokens and chunks."""
    _, h, n, _ = given.query.shape
    return h, lanes.ahead, sum(lanes), n, triton.cdiv(n, chunk)


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def scale(size: int) -> dict[str, Any]:
    """What keys are divided by: they are made smaller where they are written and compared."""
    return {"SCALE": 1 / math.sqrt(size)}


def _blocks(cut: dict[str, Any]) -> int:
    return (cut["PADDED"] // cut["ROWS"]) * (cut["PADDED"] // cut["COLUMNS"])


def _products(size: int, dtype: torch.dtype, chunk: int) -> dict[str, Any]:
    """What numbers become in a product: those of float16 could leave its range there."""
    return {
        "IN_BF16": dtype == torch.bfloat16,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "D": size,
        "PADDED": _padded(size),
        "CHUNK": chunk,
    }


def shape(size: int, dtype: torch.dtype, chunk: int) -> dict[str, Any]:
    """How `reading` and `down` are cut for heads of `size` channels."""
    width = min(_padded(size), 32) if dtype == torch.bfloat16 else 16
    cut = {"WIDTH": width, "num_warps": 8}
    return _products(size, dtype, chunk) | scale(size) | cut


def state_shape(size: int, dtype: torch.dtype, chunk: int) -> dict[str, Any]:
    """How `writing` and `returning` are cut."""
    cut = {"ROWS": min(_padded(size), 64), "COLUMNS": min(_padded(size), 32)}
    return _products(size, dtype, chunk) | cut | {"num_warps": 4, "num_stages": 3}


def slope_shape(size: int, chunk: int) -> dict[str, Any]:
    """How `sloping` is cut."""
    return {"D": size, "PADDED": _padded(size), "CHUNK": chunk, "num_warps": 4}


def gate_shape(chunk: int) -> dict[str, Any]:
    """How `gates` is cut."""
    return {"CHUNK": chunk, "num_warps": 1}
