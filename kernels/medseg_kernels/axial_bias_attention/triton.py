"""Attention with decomposed relative positions as Triton kernels: a program holds tiles.

A tile of queries is a run of places of a window; a block of keys is ROWS of its lines along the
last axis, LANES places of each. The bias of a block is that of its lines, one number a query each,
plus that of its lanes: far fewer numbers than scores. Pairs that must not attend have a bias of
minus infinity along one axis. Exponents are of base 2.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels.axial_bias_attention import biases
from medseg_kernels.axial_bias_attention.request import Request

_LOG2_E = tl.constexpr(math.log2(math.e))
# Which axis of a matrix of scores the queries lie along.
_DOWN, _ACROSS = tl.constexpr(0), tl.constexpr(1)


def forward(
    qkv: Tensor, tables: Tensor, padding: Tensor | None, *, request: Request
) -> tuple[Tensor, Tensor]:
    """The attended tokens (b, i, j, k, c) and the logarithms of sums of 2^score, (b, heads, n)."""
    qkv = qkv.contiguous()
    b, i, j, k, channels = qkv.shape
    out = qkv.new_empty((b, i, j, k, channels // 3))
    sums = qkv.new_empty((b, request.heads, i * j * k), dtype=torch.float32)
    bias = biases.forward(qkv, tables, request, masked=padding is None)
    row = _row(qkv, padding)
    cut, scale = _cut(qkv, padding, request), _scale(qkv, request)
    tiles = triton.cdiv(math.prod(request.window), cut["QUERIES"])
    with torch.cuda.device_of(qkv):
        attend[_grid(qkv, tiles, request)](qkv, bias, row, out, sums, i, j, k, scale, **cut)
    return out, sums


def backward(
    grad: Tensor,
    out: Tensor,
    sums: Tensor,
    qkv: Tensor,
    tables: Tensor,
    padding: Tensor | None,
    *,
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, the tables and padding, the latter empty where there is none."""
    qkv, grad, row = qkv.contiguous(), grad.contiguous(), _row(qkv, padding)
    bias = biases.forward(qkv, tables, request, masked=padding is None)
    d_bias = torch.empty_like(bias, dtype=torch.float32)
    dots, down = torch.empty_like(sums), torch.empty_like(qkv)
    cut, scale, (_, i, j, k, _) = _cut(qkv, padding, request), _scale(qkv, request), qkv.shape
    query_tiles = triton.cdiv(math.prod(request.window), cut["QUERIES"])
    key_tiles = request.window[0] * cut["BJ"] * cut["BK"]
    programs = _grid(qkv, key_tiles, request)
    partial = sums.new_empty((*programs, 2, cut["E"]) if cut["TAKES_PART"] else (1,))
    with torch.cuda.device_of(qkv):
        down_queries[_grid(qkv, query_tiles, request)](
            qkv, bias, row, grad, sums, dots, out, down, d_bias, i, j, k, scale, **cut
        )
        down_keys[programs](
            qkv, bias, row, grad, sums, dots, down, partial, i, j, k, scale, **for_keys(cut)
        )
    d_query, d_tables = biases.backward(d_bias, qkv, tables, request)
    of_queries = down[..., : d_query.shape[-2] * d_query.shape[-1]]
    of_queries.copy_(d_query.flatten(-2).add_(of_queries))
    return down, d_tables, _padding_gradient(partial, padding, key_tiles, cut)


def _padding_gradient(
    partial: Tensor, padding: Tensor | None, key_tiles: int, cut: dict[str, Any]
) -> Tensor:
    """What the programs found for keys and values of padding, added up; its query has no effect."""
    if padding is None:
        return partial.new_empty(0)
    d_padding = partial.new_zeros((3, cut["HEADS"], cut["E"]))
    if cut["TAKES_PART"]:
        by_head = partial.view(-1, cut["HEADS"], key_tiles, 2, cut["E"])
        d_padding[1:] = by_head.sum((0, 2)).transpose(0, 1)
    return d_padding.flatten()


def _row(qkv: Tensor, padding: Tensor | None) -> Tensor:
    """The row of padding; any tensor where there is none, since it is not read."""
    return qkv if padding is None else padding.detach().to(qkv.dtype).contiguous()


def _scale(qkv: Tensor, request: Request) -> float:
    return (qkv.shape[-1] // (3 * request.heads)) ** -0.5


def _grid(qkv: Tensor, tiles: int, request: Request) -> tuple[int]:
    return (len(qkv) * math.prod(request.counts(qkv.shape[1:4])) * request.heads * tiles,)


def _cut(qkv: Tensor, padding: Tensor | None, request: Request) -> dict[str, Any]:
    size, names = tuple(qkv.shape[1:4]), ("HEADS", "WI", "WJ", "WK", "SI", "SJ", "SK")
    return {
        **dict(zip(names, (request.heads, *request.window, *request.shift), strict=True)),
        "TAKES_PART": padding is not None and request.padded(size) != size,
        **shape(qkv.shape[-1] // (3 * request.heads), request.window, qkv.dtype),
    }


def shape(size: int, window: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Any]:
    """How the kernels are cut for heads of `size` channels and these windows."""
    padded, half = max(16, triton.next_power_of_2(size)), dtype != torch.float32
    places, lines, lanes = (
        triton.next_power_of_2(extent) for extent in (math.prod(window), *window[1:])
    )
    columns = 64 if half else 32
    rows = min(max(1, columns // lanes), lines)
    lanes = max(min(lanes, columns), 16 // rows)  # a product of matrices has 16 columns at least
    return {
        "E": size,
        "PADDED": padded,
        "QUERIES": min(64 if half else 32, max(16, places)),
        "ROWS": rows,
        "LANES": lanes,
        "BJ": triton.cdiv(window[1], rows),
        "BK": triton.cdiv(window[2], lanes),
        **dict(zip(("PI", "PJ", "PK"), biases.widths(window), strict=True)),
        "num_warps": 4 if half and padded <= 64 else 8,
        "num_stages": 1 if half and padded > 64 else 2,
    }


def for_keys(cut: dict[str, Any]) -> dict[str, Any]:
    """The same for `down_keys`, which holds two sums and so meets fewer queries at a time."""
    return {**cut, "QUERIES": min(32, cut["QUERIES"])}


@triton.jit
def attend(
    qkv,  # (b, n, 3, HEADS, E)
    bias,  # (b, n, HEADS, PK + PJ + PI)
    padding,  # (3, HEADS, E), read where it takes part
    out,  # (b, n, HEADS, E)
    sums,  # (b, HEADS, n)
    size_i,
    size_j,
    size_k,
    scale,
    HEADS: tl.constexpr,
    WI: tl.constexpr,
    WJ: tl.constexpr,
    WK: tl.constexpr,
    SI: tl.constexpr,
    SJ: tl.constexpr,
    SK: tl.constexpr,
    TAKES_PART: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BJ: tl.constexpr,
    BK: tl.constexpr,
    PI: tl.constexpr,
    PJ: tl.constexpr,
    PK: tl.constexpr,
):
    """A tile of queries: softmax over the keys of its window, a few lines of them at a time."""
    tiles: tl.constexpr = (WI * WJ * WK + QUERIES - 1) // QUERIES
    i, j, k = (size_i, WI, SI), (size_j, WJ, SJ), (size_k, WK, SK)
    tile, head, item, axes = _program(tiles, HEADS, i, j, k)
    tokens = size_i * size_j * size_k
    qkv += item * tokens * 3 * HEADS * E + head * E
    token, inside = _queries(tile * QUERIES, axes, QUERIES)
    query = _load(qkv, token, inside, 3 * HEADS * E, E, PADDED)
    own = bias + (item * tokens * HEADS + head) * (PK + PJ + PI) + token * (HEADS * (PK + PJ + PI))
    top = tl.full([QUERIES], -1e30, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, PADDED], tl.float32)
    for block in range(WI * BJ * BK):
        column, there, exists = _keys(block, axes, ROWS, LANES, BJ, BK)
        key = _load(qkv + HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        value = _load(qkv + 2 * HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        if TAKES_PART:
            key = _filled(key, padding + (HEADS + head) * E, there != exists, E, PADDED)
            value = _filled(value, padding + (2 * HEADS + head) * E, there != exists, E, PADDED)
        by_line, by_lane = _biases(own, inside, block, WI, ROWS, LANES, BJ, BK, PJ, PK, _DOWN)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (scale * _LOG2_E)
        scores += tl.reshape(by_line[:, :, None] + by_lane[:, None, :], [QUERIES, ROWS * LANES])
        higher = tl.maximum(top, tl.max(scores, 1))
        weights, fade = tl.exp2(scores - higher[:, None]), tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        mixed = tl.dot(
            weights.to(value.dtype), value, mixed * fade[:, None], input_precision="ieee"
        )
        top = higher
    out += item * tokens * HEADS * E + head * E
    _store(out, token, inside, mixed / total[:, None], HEADS * E, E, PADDED)
    tl.store(sums + (item * HEADS + head) * tokens + token, top + tl.log2(total), inside)


@triton.jit
def down_queries(
    qkv,  # (b, n, 3, HEADS, E)
    bias,  # (b, n, HEADS, PK + PJ + PI)
    padding,  # (3, HEADS, E), read where it takes part
    grad,  # (b, n, HEADS, E)
    sums,  # (b, HEADS, n)
    dots,  # (b, HEADS, n), written: gradient times output, summed over channels
    out,  # (b, n, HEADS, E)
    down,  # (b, n, 3, HEADS, E), its queries written, but for what comes through the bias
    down_bias,  # (b, n, HEADS, PK + PJ + PI), written along axes of several places
    size_i,
    size_j,
    size_k,
    scale,
    HEADS: tl.constexpr,
    WI: tl.constexpr,
    WJ: tl.constexpr,
    WK: tl.constexpr,
    SI: tl.constexpr,
    SJ: tl.constexpr,
    SK: tl.constexpr,
    TAKES_PART: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BJ: tl.constexpr,
    BK: tl.constexpr,
    PI: tl.constexpr,
    PJ: tl.constexpr,
    PK: tl.constexpr,
):
    """The gradients of a tile of queries and of their biases.

    On two axes a query meets the keys of a line in one block, if the line is not too long: then the
    gradient of their common bias is stored at once. Otherwise sums are kept.
    """
    tiles: tl.constexpr = (WI * WJ * WK + QUERIES - 1) // QUERIES
    i, j, k = (size_i, WI, SI), (size_j, WJ, SJ), (size_k, WK, SK)
    tile, head, item, axes = _program(tiles, HEADS, i, j, k)
    tokens = size_i * size_j * size_k
    qkv += item * tokens * 3 * HEADS * E + head * E
    token, inside = _queries(tile * QUERIES, axes, QUERIES)
    query = _load(qkv, token, inside, 3 * HEADS * E, E, PADDED)
    slope = _load(grad + item * tokens * HEADS * E + head * E, token, inside, HEADS * E, E, PADDED)
    mixed = _load(out + item * tokens * HEADS * E + head * E, token, inside, HEADS * E, E, PADDED)
    dot = tl.sum(slope.to(tl.float32) * mixed.to(tl.float32), 1)
    of_head = (item * HEADS + head) * tokens
    tl.store(dots + of_head + token, dot, inside)
    level = tl.load(sums + of_head + token, inside, other=float("inf"))
    of_bias = (item * tokens * HEADS + head) * (PK + PJ + PI) + token * (HEADS * (PK + PJ + PI))
    own, own_down = bias + of_bias, down_bias + of_bias
    d_query = tl.zeros([QUERIES, PADDED], tl.float32)
    d_lane = tl.zeros([QUERIES, 1 if BK == 1 else PK // LANES, LANES], tl.float32)
    d_line = tl.zeros([QUERIES, 1 if BJ == 1 else PJ // ROWS, ROWS], tl.float32)
    d_slab = tl.zeros([QUERIES, 1 if WI == 1 else PI, 1], tl.float32)
    once: tl.constexpr = WI == 1 and BK == 1
    for block in range(WI * BJ * BK):
        column, there, exists = _keys(block, axes, ROWS, LANES, BJ, BK)
        key = _load(qkv + HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        value = _load(qkv + 2 * HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        if TAKES_PART:
            key = _filled(key, padding + (HEADS + head) * E, there != exists, E, PADDED)
            value = _filled(value, padding + (2 * HEADS + head) * E, there != exists, E, PADDED)
        by_line, by_lane = _biases(own, inside, block, WI, ROWS, LANES, BJ, BK, PJ, PK, _DOWN)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (scale * _LOG2_E)
        scores += tl.reshape(by_line[:, :, None] + by_lane[:, None, :], [QUERIES, ROWS * LANES])
        d_weights = tl.dot(slope, tl.trans(value), input_precision="ieee")
        d_scores = tl.exp2(scores - level[:, None]) * (d_weights - tl.expand_dims(dot, 1))
        d_query = tl.dot(d_scores.to(key.dtype), key, d_query, input_precision="ieee")
        d_block = tl.reshape(d_scores, [QUERIES, ROWS, LANES])
        slab, lines, lanes = _place(block, BJ, BK)
        d_lane = _added(d_lane, lanes, tl.sum(d_block, 1))
        d_row = tl.sum(d_block, 2)
        if once:
            _store_bias(own_down + PK + lines * ROWS, inside, d_row)
        else:
            d_line = _added(d_line, lines, d_row)
        if WI > 1:
            d_slab = _added(d_slab, slab, tl.expand_dims(tl.sum(d_row, 1), 1))
    _store_bias(own_down, inside, _flat(d_lane))
    if not once:
        _store_bias(own_down + PK, inside, _flat(d_line))
    if WI > 1:
        _store_bias(own_down + PK + PJ, inside, _flat(d_slab))
    down += item * tokens * 3 * HEADS * E + head * E
    _store(down, token, inside, d_query * scale, 3 * HEADS * E, E, PADDED)


@triton.jit
def down_keys(
    qkv,  # (b, n, 3, HEADS, E)
    bias,  # (b, n, HEADS, PK + PJ + PI)
    padding,  # (3, HEADS, E), read where it takes part
    grad,  # (b, n, HEADS, E)
    sums,  # (b, HEADS, n)
    dots,  # (b, HEADS, n)
    down,  # (b, n, 3, HEADS, E), its keys and values written
    partial,  # (programs, 2, E), written where padding takes part: the sums over its tokens
    size_i,
    size_j,
    size_k,
    scale,
    HEADS: tl.constexpr,
    WI: tl.constexpr,
    WJ: tl.constexpr,
    WK: tl.constexpr,
    SI: tl.constexpr,
    SJ: tl.constexpr,
    SK: tl.constexpr,
    TAKES_PART: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BJ: tl.constexpr,
    BK: tl.constexpr,
    PI: tl.constexpr,
    PJ: tl.constexpr,
    PK: tl.constexpr,
):
    """The gradients of a tile of keys and values. Scores stand transposed, keys by queries."""
    i, j, k = (size_i, WI, SI), (size_j, WJ, SJ), (size_k, WK, SK)
    block, head, item, axes = _program(WI * BJ * BK, HEADS, i, j, k)
    tokens = size_i * size_j * size_k
    qkv += item * tokens * 3 * HEADS * E + head * E
    grad += item * tokens * HEADS * E + head * E
    bias += (item * tokens * HEADS + head) * (PK + PJ + PI)
    sums += (item * HEADS + head) * tokens
    dots += (item * HEADS + head) * tokens
    token, inside, exists = _keys(block, axes, ROWS, LANES, BJ, BK)
    key = _load(qkv + HEADS * E, token, inside, 3 * HEADS * E, E, PADDED)
    value = _load(qkv + 2 * HEADS * E, token, inside, 3 * HEADS * E, E, PADDED)
    if TAKES_PART:
        key = _filled(key, padding + (HEADS + head) * E, inside != exists, E, PADDED)
        value = _filled(value, padding + (2 * HEADS + head) * E, inside != exists, E, PADDED)
    d_key = tl.zeros([ROWS * LANES, PADDED], tl.float32)
    d_value = tl.zeros([ROWS * LANES, PADDED], tl.float32)
    for first in range(0, WI * WJ * WK, QUERIES):
        other, there = _queries(first, axes, QUERIES)
        query = _load(qkv, other, there, 3 * HEADS * E, E, PADDED)
        slope = _load(grad, other, there, HEADS * E, E, PADDED)
        level = tl.load(sums + other, there, other=float("inf"))
        dot = tl.load(dots + other, there, other=0.0)
        own = bias + other * (HEADS * (PK + PJ + PI))
        by_line, by_lane = _biases(own, there, block, WI, ROWS, LANES, BJ, BK, PJ, PK, _ACROSS)
        scores = tl.dot(key, tl.trans(query), input_precision="ieee") * (scale * _LOG2_E)
        scores += tl.reshape(by_line[:, None, :] + by_lane[None, :, :], [ROWS * LANES, QUERIES])
        weights = tl.exp2(scores - level[None, :])
        d_value = tl.dot(weights.to(slope.dtype), slope, d_value, input_precision="ieee")
        d_weights = tl.dot(value, tl.trans(slope), input_precision="ieee")
        d_scores = weights * (d_weights - dot[None, :])
        d_key = tl.dot(d_scores.to(query.dtype), query, d_key, input_precision="ieee")
    down += item * tokens * 3 * HEADS * E + head * E
    _store(down + HEADS * E, token, inside, d_key * scale, 3 * HEADS * E, E, PADDED)
    _store(down + 2 * HEADS * E, token, inside, d_value, 3 * HEADS * E, E, PADDED)
    if TAKES_PART:
        hollow, channels = (inside != exists)[:, None], tl.arange(0, PADDED)
        partial += tl.program_id(0).to(tl.int64) * 2 * E + channels
        tl.store(partial, tl.sum(tl.where(hollow, d_key * scale, 0.0), 0), channels < E)
        tl.store(partial + E, tl.sum(tl.where(hollow, d_value, 0.0), 0), channels < E)


@triton.jit
def _program(tiles, HEADS: tl.constexpr, i, j, k):
    """Tile, head, item, and for each axis: start of the window after padding and roll, and sizes.

    The sizes are the grid's, the window's, and the shift.
    """
    number = tl.program_id(0)
    tile, number = number % tiles, number // tiles
    head, number = number % HEADS, number // HEADS
    count_i, count_j, count_k = tl.cdiv(i[0], i[1]), tl.cdiv(j[0], j[1]), tl.cdiv(k[0], k[1])
    axis_k = (number % count_k * k[1], k[0], k[1], k[2])
    axis_j = (number // count_k % count_j * j[1], j[0], j[1], j[2])
    number = number // (count_j * count_k)
    axis_i = (number % count_i * i[1], i[0], i[1], i[2])
    return tile, head, (number // count_i).to(tl.int64), (axis_i, axis_j, axis_k)


@triton.jit
def _origin(place, axis):
    """Where a place of a window lies in the grid, and whether it does."""
    corner, size, window, shift = axis
    padded = tl.cdiv(size, window) * window
    origin = corner + place + shift
    origin = tl.where(origin >= padded, origin - padded, origin)
    return origin, origin < size


@triton.jit
def _queries(first, axes, QUERIES: tl.constexpr):
    """The tokens at a run of places of a window, and whether they are tokens."""
    place = first + tl.arange(0, QUERIES)
    (_, _, window_i, _), (_, size_j, window_j, _), (_, size_k, window_k, _) = axes
    i, real_i = _origin(place // (window_j * window_k), axes[0])
    j, real_j = _origin(place // window_k % window_j, axes[1])
    k, real_k = _origin(place % window_k, axes[2])
    inside = (place < window_i * window_j * window_k) & real_i & real_j & real_k
    return (i * size_j + j) * size_k + k, inside


@triton.jit
def _place(block, BJ: tl.constexpr, BK: tl.constexpr):
    """The slab of a block of keys, and its number along j and along k."""
    return block // (BJ * BK), block // BK % BJ, block % BK


@triton.jit
def _keys(
    block,
    axes,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BJ: tl.constexpr,
    BK: tl.constexpr,
):
    """The tokens of a block of keys, whether they are tokens, and whether at least padding."""
    (_, size_j, window_j, _), (_, size_k, window_k, _) = axes[1], axes[2]
    (slab, lines, lanes), column = _place(block, BJ, BK), tl.arange(0, ROWS * LANES)
    place_j, place_k = lines * ROWS + column // LANES, lanes * LANES + column % LANES
    i, real_i = _origin(slab, axes[0])
    j, real_j = _origin(place_j, axes[1])
    k, real_k = _origin(place_k, axes[2])
    exists = (place_j < window_j) & (place_k < window_k)
    return (i * size_j + j) * size_k + k, exists & real_i & real_j & real_k, exists


@triton.jit
def _biases(
    own,
    inside,
    block,
    WI: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BJ: tl.constexpr,
    BK: tl.constexpr,
    PJ: tl.constexpr,
    PK: tl.constexpr,
    QUERY_AXIS: tl.constexpr,
):
    """The biases of queries for the lines and for the lanes of a block of keys."""
    slab, lines, lanes = _place(block, BJ, BK)
    by_line = _bias(own + PK, inside, lines * ROWS + tl.arange(0, ROWS), QUERY_AXIS)
    if WI > 1:
        by_line += _bias(own + PK + PJ, inside, slab + tl.arange(0, 1), QUERY_AXIS)
    return by_line, _bias(own, inside, lanes * LANES + tl.arange(0, LANES), QUERY_AXIS)


@triton.jit
def _bias(own, inside, place, QUERY_AXIS: tl.constexpr):
    """The bias of queries for keys at places of one axis; queries lie along `QUERY_AXIS`."""
    key_axis: tl.constexpr = 1 - QUERY_AXIS
    entry = tl.expand_dims(own, key_axis) + tl.expand_dims(place, QUERY_AXIS)
    return tl.load(entry, tl.expand_dims(inside, key_axis), other=0.0).to(tl.float32)


@triton.jit
def _filled(rows, padding, hollow, E: tl.constexpr, PADDED: tl.constexpr):
    """Rows of keys or values, those of padding put in."""
    channels = tl.arange(0, PADDED)
    row = tl.load(padding + channels, channels < E, other=0.0)
    return tl.where(hollow[:, None], row[None, :], rows)


@triton.jit
def _load(rows, number, inside, STRIDE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr):
    """Rows of E channels, zero beyond them and where they are not inside."""
    channels = tl.arange(0, PADDED)
    source = rows + (number[:, None] * STRIDE + channels[None, :])
    return tl.load(source, inside[:, None] & (channels < E)[None, :], other=0.0)


@triton.jit
def _store(
    rows, number, inside, value, STRIDE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr
):
    channels = tl.arange(0, PADDED)
    target = rows + (number[:, None] * STRIDE + channels[None, :])
    tl.store(target, value, inside[:, None] & (channels < E)[None, :])


@triton.jit
def _added(sums, number, value):
    """Sums (q, n, m) with a value (q, m) added to one of the n."""
    there = tl.arange(0, sums.shape[1]) == number
    return sums + tl.where(there[None, :, None], value[:, None, :], 0.0)


@triton.jit
def _flat(sums):
    return tl.reshape(sums, [sums.shape[0], sums.shape[1] * sums.shape[2]])


@triton.jit
def _store_bias(own, inside, value):
    place = tl.arange(0, value.shape[1])
    tl.store(own[:, None] + place[None, :], value, inside[:, None])
