"""The Triton programs of attention inside groups, called by `triton.py`.

A program holds some queries, or keys, of a head of GROUPS groups. Where tokens lie is arithmetic on
the two tables of `plan`, so nothing is padded, rolled or partitioned. Exponents are of base 2.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import math
from typing import NamedTuple

import triton
import triton.language as tl

from medseg_kernels.window_attention.plan import FIELDS, LARGEST_WINDOW

LOG2_E = tl.constexpr(math.log2(math.e))
# What no pair of tokens scores: finite, for the difference of two must be a number.
NEVER = tl.constexpr(-1e30)
_FIELDS = tl.constexpr(FIELDS)
# A packed bit for each axis, set where a bound is reached, and all of them.
_BIT_I = tl.constexpr(LARGEST_WINDOW)
_BIT_J = tl.constexpr(LARGEST_WINDOW << 10)
_BIT_K = tl.constexpr(LARGEST_WINDOW << 20)
_BITS = tl.constexpr(LARGEST_WINDOW * (1 + (1 << 10) + (1 << 20)))


@triton.jit
def attend(
    qkv,  # (b, area, 3, heads, E)
    columns,  # (heads, entries), or None
    filling,  # (3, heads, E), or None
    tokens,  # (3, stride)
    groups,  # (count, fields)
    out,  # (b, area, heads, E), written
    sums,  # (items, heads, n), written
    items,
    count,
    n,
    stride,
    area,
    wrap,
    entries,
    center,
    scale,
    C: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """What ROWS queries of a group read, and log2 of their sums of 2^score; for GROUPS groups."""
    block, head, first = _share(n, C // E, ROWS, GROUPS)
    qkv += head * E
    if columns is not None:
        columns += head * entries + center
    if filling is not None:
        filling += head * E
    token = block * ROWS + tl.arange(0, ROWS)
    place, offset, entry = _lookup(tokens, token, stride)
    entry = tl.where(token < n, entry, 0)
    queries, tops, totals, mixes = (), (), (), ()
    for g in tl.static_range(GROUPS):
        group = _group(groups, first + g, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        queries += (_load(qkv + group.item * 3 * C, filling, own, 0, 3 * C, E, PADDED),)
        tops += (tl.full([ROWS], NEVER, tl.float32),)
        totals += (tl.zeros([ROWS], tl.float32),)
        mixes += (tl.zeros([ROWS, PADDED], tl.float32),)
    for start in range(0, n, COLUMNS):
        other = start + tl.arange(0, COLUMNS)
        other_place, other_offset, other_entry = _lookup(tokens, other, stride)
        bias = _bias(columns, entry[:, None], other_entry[None, :], (other < n)[None, :])
        old_tops, old_totals, old_mixes = tops, totals, mixes
        tops, totals, mixes = (), (), ()
        for g in tl.static_range(GROUPS):
            group = _group(groups, first + g, items, count, area, n)
            rows = _rows(group, other, other_place, other_offset, wrap)
            key = _load(qkv + group.item * 3 * C, filling, rows, C, 3 * C, E, PADDED)
            value = _load(qkv + group.item * 3 * C, filling, rows, 2 * C, 3 * C, E, PADDED)
            scores = _dot(queries[g], tl.trans(key)) * (scale * LOG2_E) + bias
            scores = _masked(scores, group, place, other_place, filling)
            top = tl.maximum(old_tops[g], tl.max(scores, 1))
            weights, fade = tl.exp2(scores - top[:, None]), tl.exp2(old_tops[g] - top)
            tops += (top,)
            totals += (old_totals[g] * fade + tl.sum(weights, 1),)
            mixes += (_dot(weights.to(value.dtype), value, old_mixes[g] * fade[:, None]),)
    for g in tl.static_range(GROUPS):
        group = _group(groups, first + g, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        mix = mixes[g] * (1.0 / totals[g])[:, None]
        _store(out + group.item * C + head * E, mix, own, C, E, PADDED)
        line = ((first + g).to(tl.int64) * (C // E) + head) * n
        tl.store(sums + line + token, tops[g] + tl.log2(totals[g]), own.known)


@triton.jit
def down_queries(
    qkv,  # (b, area, 3, heads, E)
    columns,  # (heads, entries), or None
    filling,  # (3, heads, E), or None
    tokens,  # (3, stride)
    groups,  # (count, fields)
    grad,  # (b, area, heads, E)
    sums,  # (items, heads, n)
    dots,  # (items, heads, n), written: grad times out, summed over channels
    out,  # (b, area, heads, E)
    down,  # (b, area, 3, heads, E), its queries written
    items,
    count,
    n,
    stride,
    area,
    wrap,
    entries,
    center,
    scale,
    C: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The gradients of ROWS queries of a group; for GROUPS groups."""
    block, head, first = _share(n, C // E, ROWS, GROUPS)
    qkv += head * E
    if columns is not None:
        columns += head * entries + center
    if filling is not None:
        filling += head * E
    token = block * ROWS + tl.arange(0, ROWS)
    place, offset, entry = _lookup(tokens, token, stride)
    entry = tl.where(token < n, entry, 0)
    queries, slopes, levels, products, gains = (), (), (), (), ()
    for g in tl.static_range(GROUPS):
        group = _group(groups, first + g, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        queries += (_load(qkv + group.item * 3 * C, filling, own, 0, 3 * C, E, PADDED),)
        slope = _load(grad + group.item * C + head * E, None, own, 0, C, E, PADDED)
        mix = _load(out + group.item * C + head * E, None, own, 0, C, E, PADDED)
        product = tl.sum(slope.to(tl.float32) * mix.to(tl.float32), 1)
        line = ((first + g).to(tl.int64) * (C // E) + head) * n
        tl.store(dots + line + token, product, own.known)
        slopes += (slope,)
        levels += (tl.load(sums + line + token, own.known, other=float("inf")),)
        products += (product,)
        gains += (tl.zeros([ROWS, PADDED], tl.float32),)
    for start in range(0, n, COLUMNS):
        other = start + tl.arange(0, COLUMNS)
        other_place, other_offset, other_entry = _lookup(tokens, other, stride)
        bias = _bias(columns, entry[:, None], other_entry[None, :], (other < n)[None, :])
        old_gains = gains
        gains = ()
        for g in tl.static_range(GROUPS):
            group = _group(groups, first + g, items, count, area, n)
            rows = _rows(group, other, other_place, other_offset, wrap)
            key = _load(qkv + group.item * 3 * C, filling, rows, C, 3 * C, E, PADDED)
            value = _load(qkv + group.item * 3 * C, filling, rows, 2 * C, 3 * C, E, PADDED)
            scores = _dot(queries[g], tl.trans(key)) * (scale * LOG2_E) + bias
            scores = _masked(scores, group, place, other_place, filling)
            weights = tl.exp2(scores - levels[g][:, None])
            of_scores = weights * (_dot(slopes[g], tl.trans(value)) - products[g][:, None])
            gains += (_dot(of_scores.to(key.dtype), key, old_gains[g]),)
    for g in tl.static_range(GROUPS):
        group = _group(groups, first + g, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        _store(down + group.item * 3 * C + head * E, gains[g] * scale, own, 3 * C, E, PADDED)


@triton.jit
def down_keys(
    qkv,  # (b, area, 3, heads, E)
    columns,  # (heads, entries), or None
    filling,  # (3, heads, E), or None
    tokens,  # (3, stride)
    groups,  # (count, fields)
    grad,  # (b, area, heads, E)
    sums,  # (items, heads, n)
    dots,  # (items, heads, n)
    down,  # (b, area, 3, heads, E), its keys and values written
    hollow,  # (programs, 2, E), written: what padding gains as key and as value
    items,
    count,
    n,
    stride,
    area,
    wrap,
    entries,
    center,
    scale,
    C: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The gradients of ROWS keys and values of a group; for GROUPS groups.

    Scores stand transposed, keys by queries.
    """
    block, head, first = _share(n, C // E, ROWS, GROUPS)
    qkv += head * E
    if columns is not None:
        columns += head * entries + center
    if filling is not None:
        filling += head * E
    token = block * ROWS + tl.arange(0, ROWS)
    place, offset, entry = _lookup(tokens, token, stride)
    keys, values, of_keys, of_values = (), (), (), ()
    for g in tl.static_range(GROUPS):
        group = _group(groups, first + g, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        keys += (_load(qkv + group.item * 3 * C, filling, own, C, 3 * C, E, PADDED),)
        values += (_load(qkv + group.item * 3 * C, filling, own, 2 * C, 3 * C, E, PADDED),)
        of_keys += (tl.zeros([ROWS, PADDED], tl.float32),)
        of_values += (tl.zeros([ROWS, PADDED], tl.float32),)
    for start in range(0, n, COLUMNS):
        other = start + tl.arange(0, COLUMNS)
        other_place, other_offset, other_entry = _lookup(tokens, other, stride)
        other_entry = tl.where(other < n, other_entry, 0)
        bias = _bias(columns, other_entry[None, :], entry[:, None], (token < n)[:, None])
        old_keys, old_values = of_keys, of_values
        of_keys, of_values = (), ()
        for g in tl.static_range(GROUPS):
            group = _group(groups, first + g, items, count, area, n)
            rows = _rows(group, other, other_place, other_offset, wrap)
            query = _load(qkv + group.item * 3 * C, filling, rows, 0, 3 * C, E, PADDED)
            slope = _load(grad + group.item * C + head * E, None, rows, 0, C, E, PADDED)
            line = ((first + g).to(tl.int64) * (C // E) + head) * n
            level = tl.load(sums + line + other, rows.known, other=float("inf"))
            product = tl.load(dots + line + other, rows.known, other=0.0)
            scores = _dot(keys[g], tl.trans(query)) * (scale * LOG2_E) + bias
            scores = _masked(scores, group, place, other_place, filling)
            weights = tl.exp2(scores - level[None, :])
            of_values += (_dot(weights.to(slope.dtype), slope, old_values[g]),)
            of_scores = weights * (_dot(values[g], tl.trans(slope)) - product[None, :])
            of_keys += (_dot(of_scores.to(query.dtype), query, old_keys[g]),)
    gained = tl.zeros([PADDED], tl.float32), tl.zeros([PADDED], tl.float32)
    for g in tl.static_range(GROUPS):
        group = _group(groups, first + g, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        base = down + group.item * 3 * C + head * E
        _store(base + C, of_keys[g] * scale, own, 3 * C, E, PADDED)
        _store(base + 2 * C, of_values[g], own, 3 * C, E, PADDED)
        padding = (own.known & own.hollow)[:, None]
        gained = (
            gained[0] + tl.sum(tl.where(padding, of_keys[g] * scale, 0.0), 0),
            gained[1] + tl.sum(tl.where(padding, of_values[g], 0.0), 0),
        )
    if filling is not None:
        channel = tl.arange(0, PADDED)
        at = hollow + tl.program_id(0).to(tl.int64) * (2 * E) + channel
        tl.store(at, gained[0], channel < E)
        tl.store(at + E, gained[1], channel < E)


@triton.jit
def down_table(
    qkv,  # (b, area, 3, heads, E)
    columns,  # (heads, entries), or None
    filling,  # (3, heads, E), or None
    tokens,  # (3, stride)
    groups,  # (count, fields)
    grad,  # (b, area, heads, E)
    sums,  # (items, heads, n)
    dots,  # (items, heads, n)
    partial,  # (shares, heads, n, n), written
    items,
    count,
    n,
    stride,
    area,
    wrap,
    entries,
    center,
    scale,
    shares,
    C: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of the biases between ROWS queries and COLUMNS keys, over a share of groups."""
    across, blocks = tl.cdiv(n, COLUMNS), tl.cdiv(n, ROWS) * tl.cdiv(n, COLUMNS)
    tile, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks % (C // E)
    share = tl.program_id(0) // (blocks * (C // E))
    qkv += head * E
    if columns is not None:
        columns += head * entries + center
    if filling is not None:
        filling += head * E
    token = tile // across * ROWS + tl.arange(0, ROWS)
    other = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    place, offset, entry = _lookup(tokens, token, stride)
    other_place, other_offset, other_entry = _lookup(tokens, other, stride)
    entry = tl.where(token < n, entry, 0)
    bias = _bias(columns, entry[:, None], other_entry[None, :], (other < n)[None, :])
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for turn in range(tl.cdiv(items - share, shares)):
        number = share + turn * shares
        group = _group(groups, number, items, count, area, n)
        own = _rows(group, token, place, offset, wrap)
        rows = _rows(group, other, other_place, other_offset, wrap)
        query = _load(qkv + group.item * 3 * C, filling, own, 0, 3 * C, E, PADDED)
        key = _load(qkv + group.item * 3 * C, filling, rows, C, 3 * C, E, PADDED)
        value = _load(qkv + group.item * 3 * C, filling, rows, 2 * C, 3 * C, E, PADDED)
        slope = _load(grad + group.item * C + head * E, None, own, 0, C, E, PADDED)
        line = (number.to(tl.int64) * (C // E) + head) * n
        level = tl.load(sums + line + token, token < n, other=float("inf"))
        product = tl.load(dots + line + token, token < n, other=0.0)
        scores = _dot(query, tl.trans(key)) * (scale * LOG2_E) + bias
        scores = _masked(scores, group, place, other_place, filling)
        weights = tl.exp2(scores - level[:, None])
        total += weights * (_dot(slope, tl.trans(value)) - product[:, None])
    at = (share.to(tl.int64) * (C // E) + head) * n * n + token[:, None] * n + other[None, :]
    tl.store(partial + at, total, (token < n)[:, None] & (other < n)[None, :])


@triton.jit
def sum_offsets(
    of_bias,  # (heads, n, n)
    sums,  # (heads, entries), written
    n,
    size_i,
    size_j,
    size_k,
    PAIRS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Sums over pairs of tokens that lie apart alike, in a window of these sizes.

    A program has one offset along i and j and all along k: a row of entries of the table.
    """
    rows = (2 * size_i - 1) * (2 * size_j - 1)
    row, head = tl.program_id(0) % rows, (tl.program_id(0) // rows).to(tl.int64)
    offset_i, offset_j = row // (2 * size_j - 1) - size_i + 1, row % (2 * size_j - 1) - size_j + 1
    entry = tl.arange(0, ENTRIES)
    total = tl.zeros([PAIRS, ENTRIES], tl.float32)
    for start in range(0, size_i * size_j, PAIRS):
        line = start + tl.arange(0, PAIRS)
        other_i, other_j = line // size_j - offset_i, line % size_j - offset_j
        inside = (other_i >= 0) & (other_i < size_i) & (other_j >= 0) & (other_j < size_j)
        for k in range(size_k):
            query, other_k = line * size_k + k, k - entry + size_k - 1
            key = ((other_i * size_j + other_j) * size_k)[:, None] + other_k[None, :]
            there = ((other_k >= 0) & (other_k < size_k))[None, :] & (key < n)
            there &= (inside & (query < n))[:, None]
            at = of_bias + head * n * n + query[:, None] * n + key
            total += tl.load(at, there, other=0.0)
    known = entry < 2 * size_k - 1
    tl.store(sums + tl.program_id(0) * (2 * size_k - 1) + entry, tl.sum(total, 0), known)


class _Group(NamedTuple):
    """One group: the fields of `plan`, its item's first row, its tokens: none if there is none."""

    row: tl.tensor
    grid_end: tl.tensor
    roll: tl.tensor
    second_end: tl.tensor
    mixed: tl.tensor
    item: tl.tensor
    tokens: tl.tensor


class _Rows(NamedTuple):
    """Tokens of a group: their rows in the grid, which are padding, and which exist."""

    number: tl.tensor
    hollow: tl.tensor
    known: tl.tensor


@triton.jit
def _share(n, HEADS, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """A program's block of rows, head and first group; the heads of a token run side by side."""
    blocks = tl.cdiv(n, ROWS)
    block, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks % HEADS
    return block, head, tl.program_id(0) // (blocks * HEADS) * GROUPS


@triton.jit
def _lookup(tokens, token, stride):
    """Place in the window, rows beyond the first token's, place in the table."""
    at = tokens + token
    return tl.load(at), tl.load(at + stride), tl.load(at + 2 * stride)


@triton.jit
def _group(groups, number, items, count, area, n):
    at = groups + number % count * _FIELDS
    fields = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)
    item = (number // count).to(tl.int64) * area
    return _Group(*fields, item, tl.where(number < items, n, 0))


@triton.jit
def _rows(group, token, place, offset, wrap):
    beyond, rolled = (place + group.grid_end) & _BITS, (place + group.roll) & _BITS
    again = (place + group.second_end) & _BITS
    row = group.row + offset
    row -= tl.where((rolled & _BIT_I) != 0, wrap[0], 0)
    row -= tl.where((rolled & _BIT_J) != 0, wrap[1], 0)
    row -= tl.where((rolled & _BIT_K) != 0, wrap[2], 0)
    return _Rows(row, (beyond & ~rolled | again) != 0, token < group.tokens)


@triton.jit
def _side(group, place, filling):
    """A number that tokens share that may see each other."""
    side = (place + group.roll) & _BITS
    if filling is None:
        side |= ((place + group.grid_end) & _BITS) >> 1 | ((place + group.second_end) & _BITS) >> 2
    return side


@triton.jit
def _masked(scores, group, place, other, filling):
    if group.mixed != 0:
        apart = _side(group, place, filling)[:, None] != _side(group, other, filling)[None, :]
        scores = tl.where(apart, NEVER, scores)
    return scores


@triton.jit
def _bias(columns, of_query, of_key, known):
    """Biases times log2(e) of pairs, never for a key that is not known."""
    if columns is None:
        bias = tl.where(known, 0.0, NEVER)
    else:
        bias = tl.load(columns + (of_query - of_key))
    return bias


@triton.jit
def _dot(left, right, start=None):
    """A product of matrices, in float32 as three of halves: within 2^-20 of it."""
    return tl.dot(left, right, start, input_precision="tf32x3")


@triton.jit
def _load(
    base,
    filling,
    rows,
    FIRST: tl.constexpr,
    STRIDE: tl.constexpr,
    E: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Rows of E channels from FIRST on; padding is `filling`, or zero."""
    channel = FIRST + tl.arange(0, PADDED)[None, :]
    at, known = base + (rows.number[:, None] * STRIDE + channel), rows.known
    if filling is None:
        known = known & (rows.hollow == 0)
    else:
        at = tl.where(rows.hollow[:, None], filling + channel, at)
    return tl.load(at, _whole(known, E, PADDED), other=0.0)


@triton.jit
def _store(base, value, rows, STRIDE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr):
    at = base + (rows.number[:, None] * STRIDE + tl.arange(0, PADDED)[None, :])
    tl.store(
        at, value.to(base.dtype.element_ty), _whole(rows.known & (rows.hollow == 0), E, PADDED)
    )


@triton.jit
def _whole(known, E: tl.constexpr, PADDED: tl.constexpr):
    """Whether each channel of each row is there."""
    known = tl.broadcast_to(known[:, None], [known.shape[0], PADDED])
    if E < PADDED:
        known &= (tl.arange(0, PADDED) < E)[None, :]
    return known
