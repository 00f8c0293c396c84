"""Neighborhood attention as Triton kernels: a program holds a tile of 4 x 4 x 4 tokens of a head.

A tile of queries meets the box of keys that any of them attends to, a tile of keys the box of
queries that attend to any of them; pairs that are no neighbors are masked by index arithmetic.
Places are counted along the token's own row of every `dilation`-th token. Exponents are of base 2.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels.neighborhood_attention.request import Request

_LOG2_E = tl.constexpr(1.4426950408889634)
_SIDE = tl.constexpr(4)
_TOKENS = tl.constexpr(64)
# Three numbers below 512 in one integer, 10 bits each, whose top bit stays free for comparing.
_FREE_BITS = tl.constexpr((1 << 9) | (1 << 19) | (1 << 29))
_OUTSIDE = tl.constexpr(511)
# Programs wanted for the gradient of the table, each of which adds up a share of the tokens.
_TABLE_PROGRAMS = 4096


def forward(qkv: Tensor, table: Tensor | None, *, request: Request) -> tuple[Tensor, Tensor]:
    """The attended tokens (b, i, j, k, c) and the logarithms of sums of 2^score, (b, heads, n)."""
    qkv, columns = qkv.contiguous(), _columns(table)
    b, i, j, k, channels = qkv.shape
    out = qkv.new_empty((b, i, j, k, channels // 3))
    sums = qkv.new_empty((b, request.heads, i * j * k), dtype=torch.float32)
    grid, cut = _grid(qkv, request), _tile_cut(qkv, table, request)
    with torch.cuda.device_of(qkv):
        attend[grid](qkv, columns, out, sums, i, j, k, request.scale, **cut)
    return out, sums


def backward(
    grad: Tensor, out: Tensor, sums: Tensor, qkv: Tensor, table: Tensor | None, *, request: Request
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the table, the latter empty where there is no table."""
    qkv, grad, columns = qkv.contiguous(), grad.contiguous(), _columns(table)
    dots, down = torch.empty_like(sums), torch.empty_like(qkv)
    _, i, j, k, _ = qkv.shape
    grid, cut, scale = _grid(qkv, request), _tile_cut(qkv, table, request), request.scale
    with torch.cuda.device_of(qkv):
        down_queries[grid](qkv, columns, grad, sums, dots, out, down, i, j, k, scale, **cut)
        down_keys[grid](qkv, columns, grad, sums, dots, down, i, j, k, scale, **cut)
    if table is None:
        return down, sums.new_empty(0)
    return down, _table_backward(grad, sums, dots, qkv, table, request=request)


def _table_backward(
    grad: Tensor, sums: Tensor, dots: Tensor, qkv: Tensor, table: Tensor, *, request: Request
) -> Tensor:
    """Programs add up their share of an item's tokens; then the shares are added."""
    b, i, j, k, channels = qkv.shape
    asked, lines = _asked(request), table.shape[0] * table.shape[1]
    cut = table_shape(channels // (3 * request.heads), request.window[2])
    wanted = triton.cdiv(_TABLE_PROGRAMS, b * request.heads * lines)
    shares = min(wanted, triton.cdiv(i * j * k, cut["ROWS"]))
    partial = sums.new_empty((b * shares, request.heads, lines, table.shape[2]))
    given = qkv, _columns(table), grad, sums, dots, partial
    with torch.cuda.device_of(qkv):
        down_table[(b * shares * request.heads * lines,)](
            *given, i, j, k, request.scale, shares, **asked, **cut
        )
    return partial.sum(0).permute(1, 2, 0).reshape(table.shape)


def _columns(table: Tensor | None) -> Tensor | None:
    """The table with heads first, so that a head's entries lie together."""
    return None if table is None else table.detach().flatten(0, 2).t().float().contiguous()


def _grid(qkv: Tensor, request: Request) -> tuple[int]:
    side = _SIDE.value
    tiles = [
        d * triton.cdiv(triton.cdiv(s, d), side)
        for s, d in zip(qkv.shape[1:4], request.dilation, strict=True)
    ]
    return (len(qkv) * math.prod(tiles) * request.heads,)


def _tile_cut(qkv: Tensor, table: Tensor | None, request: Request) -> dict[str, Any]:
    size = qkv.shape[-1] // (3 * request.heads)
    return {**_asked(request), "TABLED": table is not None, **shape(size, qkv.dtype)}


def _asked(request: Request) -> dict[str, Any]:
    names = ("HEADS", "WI", "WJ", "WK", "DI", "DJ", "DK")
    return dict(zip(names, (request.heads, *request.window, *request.dilation), strict=True))


def shape(size: int, dtype: torch.dtype) -> dict[str, Any]:
    """How the kernels of tiles are cut for heads of `size` channels."""
    padded = max(16, triton.next_power_of_2(size))
    return {
        "E": size,
        "PADDED": padded,
        "COLUMNS": 16 if dtype == torch.float32 else 32,
        "num_warps": 4 if padded < 64 else 8,
    }


def table_shape(size: int, window_k: int) -> dict[str, Any]:
    """How the kernel of the table is cut."""
    padded = triton.next_power_of_2(size)
    return {
        "E": size,
        "PADDED": padded,
        "PADDED_WK": triton.next_power_of_2(2 * window_k - 1),
        "ROWS": max(16, min(64, 2048 // padded)),
        "num_warps": 4,
    }


@triton.jit
def attend(
    qkv,  # (b, n, 3, HEADS, E)
    table,  # (HEADS, entries)
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
    DI: tl.constexpr,
    DJ: tl.constexpr,
    DK: tl.constexpr,
    TABLED: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of queries: softmax over the box of its keys, a block of them at a time."""
    size, window, dilation = (size_i, size_j, size_k), (WI, WJ, WK), (DI, DJ, DK)
    head, item, rest, row, first = _tile(size, dilation, HEADS)
    if (first[0] >= row[0]) | (first[1] >= row[1]) | (first[2] >= row[2]):
        return
    qkv += item * size_i * size_j * size_k * 3 * HEADS * E + head * E
    if TABLED:
        table += head * (2 * WI - 1) * (2 * WJ - 1) * (2 * WK - 1)
    place, inside = _lanes(first, row)
    token = _token(place, rest, size, dilation)
    query = _load(qkv, token, inside, 3 * HEADS * E, E, PADDED)
    base, count = _keys_of(first, row, window)
    start, entry = _packed(_starts(place, row, window), base), _entry(place, window)
    top = tl.full([_TOKENS], -1e30, tl.float32)
    total = tl.zeros([_TOKENS], tl.float32)
    mixed = tl.zeros([_TOKENS, PADDED], tl.float32)
    for block in range(0, count[0] * count[1] * count[2], COLUMNS):
        other, there = _box(block + tl.arange(0, COLUMNS), base, count)
        column = _token(other, rest, size, dilation)
        key = _load(qkv + HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        value = _load(qkv + 2 * HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        near = _near(start[:, None], _placed(other, base, there)[None, :], window)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (scale * _LOG2_E)
        if TABLED:
            scores += _bias(table, entry[:, None] - _line(other, window)[None, :], near)
        scores = tl.where(near, scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights, fade = tl.exp2(scores - higher[:, None]), tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        mixed = tl.dot(
            weights.to(value.dtype), value, mixed * fade[:, None], input_precision="ieee"
        )
        top = higher
    out += item * size_i * size_j * size_k * HEADS * E + head * E
    _store(out, token, inside, mixed / total[:, None], HEADS * E, E, PADDED)
    sums += (item * HEADS + head) * size_i * size_j * size_k
    tl.store(sums + token, top + tl.log2(total), inside)


@triton.jit
def down_queries(
    qkv,  # (b, n, 3, HEADS, E)
    table,  # (HEADS, entries)
    grad,  # (b, n, HEADS, E)
    sums,  # (b, HEADS, n)
    dots,  # (b, HEADS, n), written: gradient times output, summed over channels
    out,  # (b, n, HEADS, E)
    down,  # (b, n, 3, HEADS, E), its queries written
    size_i,
    size_j,
    size_k,
    scale,
    HEADS: tl.constexpr,
    WI: tl.constexpr,
    WJ: tl.constexpr,
    WK: tl.constexpr,
    DI: tl.constexpr,
    DJ: tl.constexpr,
    DK: tl.constexpr,
    TABLED: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of a tile of queries, from the box of its keys."""
    size, window, dilation = (size_i, size_j, size_k), (WI, WJ, WK), (DI, DJ, DK)
    head, item, rest, row, first = _tile(size, dilation, HEADS)
    if (first[0] >= row[0]) | (first[1] >= row[1]) | (first[2] >= row[2]):
        return
    tokens = size_i * size_j * size_k
    qkv += item * tokens * 3 * HEADS * E + head * E
    if TABLED:
        table += head * (2 * WI - 1) * (2 * WJ - 1) * (2 * WK - 1)
    place, inside = _lanes(first, row)
    token = _token(place, rest, size, dilation)
    query = _load(qkv, token, inside, 3 * HEADS * E, E, PADDED)
    slope = _load(grad + item * tokens * HEADS * E + head * E, token, inside, HEADS * E, E, PADDED)
    mixed = _load(out + item * tokens * HEADS * E + head * E, token, inside, HEADS * E, E, PADDED)
    dot = tl.sum(slope.to(tl.float32) * mixed.to(tl.float32), 1)
    of_head = (item * HEADS + head) * tokens
    tl.store(dots + of_head + token, dot, inside)
    level = tl.load(sums + of_head + token, inside, other=0.0)
    base, count = _keys_of(first, row, window)
    start, entry = _packed(_starts(place, row, window), base), _entry(place, window)
    d_query = tl.zeros([_TOKENS, PADDED], tl.float32)
    for block in range(0, count[0] * count[1] * count[2], COLUMNS):
        other, there = _box(block + tl.arange(0, COLUMNS), base, count)
        column = _token(other, rest, size, dilation)
        key = _load(qkv + HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        value = _load(qkv + 2 * HEADS * E, column, there, 3 * HEADS * E, E, PADDED)
        near = _near(start[:, None], _placed(other, base, there)[None, :], window)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (scale * _LOG2_E)
        if TABLED:
            scores += _bias(table, entry[:, None] - _line(other, window)[None, :], near)
        weights = tl.where(near, tl.exp2(scores - level[:, None]), 0.0)
        d_weights = tl.dot(slope, tl.trans(value), input_precision="ieee")
        d_scores = weights * (d_weights - tl.expand_dims(dot, 1))
        d_query = tl.dot(d_scores.to(key.dtype), key, d_query, input_precision="ieee")
    down += item * tokens * 3 * HEADS * E + head * E
    _store(down, token, inside, d_query * scale, 3 * HEADS * E, E, PADDED)


@triton.jit
def down_keys(
    qkv,  # (b, n, 3, HEADS, E)
    table,  # (HEADS, entries)
    grad,  # (b, n, HEADS, E)
    sums,  # (b, HEADS, n)
    dots,  # (b, HEADS, n)
    down,  # (b, n, 3, HEADS, E), its keys and values written
    size_i,
    size_j,
    size_k,
    scale,
    HEADS: tl.constexpr,
    WI: tl.constexpr,
    WJ: tl.constexpr,
    WK: tl.constexpr,
    DI: tl.constexpr,
    DJ: tl.constexpr,
    DK: tl.constexpr,
    TABLED: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradients of a tile of keys and values, from the box of queries that attend to them.

    Scores stand transposed, keys by queries.
    """
    size, window, dilation = (size_i, size_j, size_k), (WI, WJ, WK), (DI, DJ, DK)
    head, item, rest, row, first = _tile(size, dilation, HEADS)
    if (first[0] >= row[0]) | (first[1] >= row[1]) | (first[2] >= row[2]):
        return
    tokens = size_i * size_j * size_k
    qkv += item * tokens * 3 * HEADS * E + head * E
    grad += item * tokens * HEADS * E + head * E
    sums += (item * HEADS + head) * tokens
    dots += (item * HEADS + head) * tokens
    if TABLED:
        table += head * (2 * WI - 1) * (2 * WJ - 1) * (2 * WK - 1)
    place, inside = _lanes(first, row)
    token = _token(place, rest, size, dilation)
    key = _load(qkv + HEADS * E, token, inside, 3 * HEADS * E, E, PADDED)
    value = _load(qkv + 2 * HEADS * E, token, inside, 3 * HEADS * E, E, PADDED)
    begin, count = _queries_of(first, row, window)
    base = (first[0] - WI + 1, first[1] - WJ + 1, first[2] - WK + 1)
    here, entry = _packed(place, base), _line(place, window)
    d_key = tl.zeros([_TOKENS, PADDED], tl.float32)
    d_value = tl.zeros([_TOKENS, PADDED], tl.float32)
    for block in range(0, count[0] * count[1] * count[2], COLUMNS):
        other, there = _box(block + tl.arange(0, COLUMNS), begin, count)
        column = _token(other, rest, size, dilation)
        query = _load(qkv, column, there, 3 * HEADS * E, E, PADDED)
        slope = _load(grad, column, there, HEADS * E, E, PADDED)
        level = tl.load(sums + column, there, other=0.0)
        dot = tl.load(dots + column, there, other=0.0)
        start = _placed(_starts(other, row, window), base, there)
        near = _near(start[None, :], here[:, None], window)
        scores = tl.dot(key, tl.trans(query), input_precision="ieee") * (scale * _LOG2_E)
        if TABLED:
            scores += _bias(table, _entry(other, window)[None, :] - entry[:, None], near)
        weights = tl.where(near, tl.exp2(scores - level[None, :]), 0.0)
        d_value = tl.dot(weights.to(slope.dtype), slope, d_value, input_precision="ieee")
        d_weights = tl.dot(value, tl.trans(slope), input_precision="ieee")
        d_scores = weights * (d_weights - dot[None, :])
        d_key = tl.dot(d_scores.to(query.dtype), query, d_key, input_precision="ieee")
    down += item * tokens * 3 * HEADS * E + head * E
    _store(down + HEADS * E, token, inside, d_key * scale, 3 * HEADS * E, E, PADDED)
    _store(down + 2 * HEADS * E, token, inside, d_value, 3 * HEADS * E, E, PADDED)


@triton.jit
def down_table(
    qkv,  # (b, n, 3, HEADS, E)
    table,  # (HEADS, entries of i and j, 2 WK - 1)
    grad,  # (b, n, HEADS, E)
    sums,  # (b, HEADS, n)
    dots,  # (b, HEADS, n)
    partial,  # (b, shares, HEADS, entries of i and j, 2 WK - 1)
    size_i,
    size_j,
    size_k,
    scale,
    shares,
    HEADS: tl.constexpr,
    WI: tl.constexpr,
    WJ: tl.constexpr,
    WK: tl.constexpr,
    DI: tl.constexpr,
    DJ: tl.constexpr,
    DK: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    PADDED_WK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The gradient of the table where the offsets along i and j are given, for a share of queries.

    Every query meets at each offset one key at most: sums over tokens, not products of matrices.
    """
    lines: tl.constexpr = (2 * WI - 1) * (2 * WJ - 1)
    line, head = tl.program_id(0) % lines, tl.program_id(0) // lines % HEADS
    part = tl.program_id(0) // (lines * HEADS)
    share, item = part % shares, (part // shares).to(tl.int64)
    offset_i, offset_j = line // (2 * WJ - 1) - WI + 1, line % (2 * WJ - 1) - WJ + 1
    tokens = size_i * size_j * size_k
    qkv += item * tokens * 3 * HEADS * E + head * E
    grad += item * tokens * HEADS * E + head * E
    sums += (item * HEADS + head) * tokens
    dots += (item * HEADS + head) * tokens
    table += (head * lines + line) * (2 * WK - 1)
    entries = tl.arange(0, PADDED_WK)
    found = tl.zeros([PADDED_WK], tl.float32)
    step = tl.cdiv(tl.cdiv(tokens, shares), ROWS) * ROWS
    for block in range(share * step, tl.minimum(tokens, (share + 1) * step), ROWS):
        token = block + tl.arange(0, ROWS)
        i, j, k = token // (size_j * size_k), token // size_k % size_j, token % size_k
        beyond_i = i // DI - offset_i - _start(i // DI, _row(size_i, i % DI, DI), WI)
        beyond_j = j // DJ - offset_j - _start(j // DJ, _row(size_j, j % DJ, DJ), WJ)
        inside = (token < tokens) & (beyond_i >= 0) & (beyond_i < WI)
        inside &= (beyond_j >= 0) & (beyond_j < WJ)
        if tl.sum(inside.to(tl.int32), 0) != 0:
            key_line = token - (offset_i * DI * size_j + offset_j * DJ) * size_k
            query = _load(qkv, token, inside, 3 * HEADS * E, E, PADDED).to(tl.float32)
            slope = _load(grad, token, inside, HEADS * E, E, PADDED).to(tl.float32)
            level = tl.load(sums + token, inside, other=0.0)
            dot = tl.load(dots + token, inside, other=0.0)
            start_k = _start(k // DK, _row(size_k, k % DK, DK), WK)
            for entry in range(2 * WK - 1):
                offset_k = entry - WK + 1
                beyond_k = k // DK - offset_k - start_k
                near = inside & (beyond_k >= 0) & (beyond_k < WK)
                other = key_line - offset_k * DK
                key = _load(qkv + HEADS * E, other, near, 3 * HEADS * E, E, PADDED)
                value = _load(qkv + 2 * HEADS * E, other, near, 3 * HEADS * E, E, PADDED)
                bias = tl.load(table + entry)
                scores = tl.sum(query * key.to(tl.float32), 1) * scale + bias
                weights = tl.where(near, tl.exp2(scores * _LOG2_E - level), 0.0)
                d_weights = tl.sum(slope * value.to(tl.float32), 1)
                gained = tl.sum(weights * (d_weights - dot), 0)
                found += tl.where(entries == entry, gained, 0.0)
    target = partial + ((part.to(tl.int64) * HEADS + head) * lines + line) * (2 * WK - 1)
    tl.store(target + entries, found, entries < 2 * WK - 1)


@triton.jit
def _tile(size, dilation, HEADS: tl.constexpr):
    """Head, item, and along each axis the rest modulo dilation, the row's length, the tile's start.

    A row may be one token shorter than another: its last tile may be empty.
    """
    per_i = tl.cdiv(tl.cdiv(size[0], dilation[0]), _SIDE)
    per_j = tl.cdiv(tl.cdiv(size[1], dilation[1]), _SIDE)
    per_k = tl.cdiv(tl.cdiv(size[2], dilation[2]), _SIDE)
    head, tile = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS
    k, tile = tile % (per_k * dilation[2]), tile // (per_k * dilation[2])
    j, tile = tile % (per_j * dilation[1]), tile // (per_j * dilation[1])
    i, item = tile % (per_i * dilation[0]), tile // (per_i * dilation[0])
    rest = (i // per_i, j // per_j, k // per_k)
    row = (
        _row(size[0], rest[0], dilation[0]),
        _row(size[1], rest[1], dilation[1]),
        _row(size[2], rest[2], dilation[2]),
    )
    first = (i % per_i * _SIDE, j % per_j * _SIDE, k % per_k * _SIDE)
    return head, item.to(tl.int64), rest, row, first


@triton.jit
def _row(length, rest, DILATION):
    """How many tokens of an axis leave this rest modulo dilation."""
    return (length - rest + DILATION - 1) // DILATION


@triton.jit
def _start(place, row, WINDOW):
    """`request.window_start` of many places."""
    return tl.maximum(tl.minimum(place - WINDOW // 2, row - WINDOW), 0)


@triton.jit
def _starts(place, row, window):
    return (
        _start(place[0], row[0], window[0]),
        _start(place[1], row[1], window[1]),
        _start(place[2], row[2], window[2]),
    )


@triton.jit
def _lanes(first, row):
    """The places of a tile's tokens, none beyond its row, and whether they are inside."""
    lane = tl.arange(0, _TOKENS)
    i, j, k = first[0] + lane // 16, first[1] + lane // 4 % 4, first[2] + lane % 4
    inside = (i < row[0]) & (j < row[1]) & (k < row[2])
    i, j, k = tl.minimum(i, row[0] - 1), tl.minimum(j, row[1] - 1), tl.minimum(k, row[2] - 1)
    return (i, j, k), inside


@triton.jit
def _box(number, begin, count):
    """The places that have these numbers in a box, and whether they are inside."""
    i = begin[0] + number // (count[1] * count[2])
    j = begin[1] + number // count[2] % count[1]
    k = begin[2] + number % count[2]
    return (i, j, k), number < count[0] * count[1] * count[2]


@triton.jit
def _keys_of(first, row, window):
    """Start and size of the box of keys that a tile of queries attends to."""
    i, rows_i = _keys_of_axis(first[0], row[0], window[0])
    j, rows_j = _keys_of_axis(first[1], row[1], window[1])
    k, rows_k = _keys_of_axis(first[2], row[2], window[2])
    return (i, j, k), (rows_i, rows_j, rows_k)


@triton.jit
def _keys_of_axis(first, row, WINDOW):
    last = tl.minimum(first + _SIDE, row) - 1
    start = _start(first, row, WINDOW)
    return start, _start(last, row, WINDOW) + WINDOW - start


@triton.jit
def _queries_of(first, row, window):
    """Start and size of the box of queries that attend to a tile of keys."""
    i, rows_i = _queries_of_axis(first[0], row[0], window[0])
    j, rows_j = _queries_of_axis(first[1], row[1], window[1])
    k, rows_k = _queries_of_axis(first[2], row[2], window[2])
    return (i, j, k), (rows_i, rows_j, rows_k)


@triton.jit
def _queries_of_axis(first, row, WINDOW):
    """Queries near a border all attend to its first `WINDOW` keys, so they reach further."""
    last = tl.minimum(first + _SIDE, row) - 1
    start = tl.where(first < WINDOW, 0, first - WINDOW + 1 + WINDOW // 2)
    end = tl.where(last >= row - WINDOW, row, last + WINDOW // 2 + 1)
    return start, end - start


@triton.jit
def _token(place, rest, size, dilation):
    """The number in the grid of the token at a place of a row."""
    i, j, k = (
        place[0] * dilation[0] + rest[0],
        place[1] * dilation[1] + rest[1],
        place[2] * dilation[2] + rest[2],
    )
    return (i * size[1] + j) * size[2] + k


@triton.jit
def _entry(place, window):
    """A query's part of the row of the table: what is left after taking off `_line` of the key."""
    return _line(
        (place[0] + window[0] - 1, place[1] + window[1] - 1, place[2] + window[2] - 1), window
    )


@triton.jit
def _line(place, window):
    return (place[0] * (2 * window[1] - 1) + place[1]) * (2 * window[2] - 1) + place[2]


@triton.jit
def _packed(place, base):
    return (place[0] - base[0]) | (place[1] - base[1]) << 10 | (place[2] - base[2]) << 20


@triton.jit
def _placed(place, base, there):
    """Three places in one integer, or a number that is near to nothing."""
    return tl.where(there, _packed(place, base), _OUTSIDE)


@triton.jit
def _near(start, key, window):
    """Whether start <= key < start + window along all three axes: where no subtraction borrows."""
    reach = (window[0] - 1) | (window[1] - 1) << 10 | (window[2] - 1) << 20
    above, below = key + _FREE_BITS - start, start + (reach + _FREE_BITS) - key
    return (above & below & _FREE_BITS) == _FREE_BITS


@triton.jit
def _bias(table, entry, near):
    return tl.load(table + entry, near, other=0.0) * _LOG2_E


@triton.jit
def _load(rows, number, inside, STRIDE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr):
    """Rows of E channels, zero beyond them and where they are not inside."""
    channels = tl.arange(0, PADDED)
    return tl.load(
        rows + (number[:, None] * STRIDE + channels[None, :]),
        _whole(inside, E, PADDED),
        other=0.0,
    )


@triton.jit
def _store(
    rows, number, inside, value, STRIDE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr
):
    channels = tl.arange(0, PADDED)
    target = rows + (number[:, None] * STRIDE + channels[None, :])
    tl.store(target, value, _whole(inside, E, PADDED))


@triton.jit
def _whole(inside, E: tl.constexpr, PADDED: tl.constexpr):
    """Whether each channel of each row is there."""
    mask = tl.broadcast_to(inside[:, None], [inside.shape[0], PADDED])
    if E < PADDED:
        mask &= (tl.arange(0, PADDED) < E)[None, :]
    return mask
