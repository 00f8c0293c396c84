"""Attention inside groups as Triton kernels: a program holds some queries, or keys, of its groups.

Pad, roll and partition are arithmetic on the two tables of `plan`. A head of 16 channels costs
more in exponentials and position biases than in products of matrices, so a program takes the same
rows of GROUPS groups and reads their common tile of biases once. Exponents are of base 2. Sums
over groups are made in a fixed order: each program adds up its share, then the shares are added.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from medseg_kernels.window_attention.plan import FIELDS, LARGEST_WINDOW, center, plan
from medseg_kernels.window_attention.request import Request
from medseg_kernels.window_attention.table import gradient

_LOG2_E = tl.constexpr(math.log2(math.e))
# What no pair of tokens scores: finite, for the difference of two must be a number.
_NEVER = tl.constexpr(-1e30)
_FIELDS = tl.constexpr(FIELDS)
# A packed bit for each axis, set where a bound is reached, and all of them.
_BIT_I = tl.constexpr(LARGEST_WINDOW)
_BIT_J = tl.constexpr(LARGEST_WINDOW << 10)
_BIT_K = tl.constexpr(LARGEST_WINDOW << 20)
_BITS = tl.constexpr(LARGEST_WINDOW * (1 + (1 << 10) + (1 << 20)))
# Programs that keep a large GPU busy: 132 multiprocessors with three at a time, and some rounds.
_PROGRAMS = 1024


def forward(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, *, request: Request
) -> tuple[Tensor, Tensor]:
    """The attended tokens (b, i, j, k, c) and log2 of the sums of 2^score (b, groups, heads, n)."""
    call = _Call(qkv, table, padding, request)
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    sums = qkv.new_empty((len(qkv), call.groups, request.heads, call.n), dtype=torch.float32)
    call.run(attend, out, sums)
    return out, sums


def backward(
    grad: Tensor,
    out: Tensor,
    sums: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    *,
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, table and padding; empty where there is no such tensor."""
    call = _Call(qkv, table, padding, request)
    down, dots = qkv.new_empty(qkv.shape), torch.empty_like(sums)
    known = (grad.contiguous(), sums, dots)
    call.run(down_queries, *known, out.contiguous(), down)
    hollow = sums.new_empty((0 if call.filling is None else call.grid()[0], 2, call.size))
    call.run(down_keys, *known, down, hollow)
    of_table = sums.new_empty(0) if table is None else _down_table(call, *known)
    return down, of_table, _down_padding(call, hollow, padding)


def _down_table(call: "_Call", grad: Tensor, sums: Tensor, dots: Tensor) -> Tensor:
    cut, heads, n = call.cut("down_table"), call.request.heads, call.n
    tiles = heads * triton.cdiv(n, cut["ROWS"]) * triton.cdiv(n, cut["COLUMNS"])
    shares = min(call.items, triton.cdiv(_PROGRAMS, tiles))
    partial = sums.new_empty((shares, heads, n, n))
    with torch.cuda.device_of(sums):
        down_table[(tiles * shares,)](
            *call.given, grad, sums, dots, partial, *call.numbers, shares, **cut
        )
    return gradient(partial.sum(0), call.extents, call.request)


def _down_padding(call: "_Call", hollow: Tensor, padding: Tensor | None) -> Tensor:
    """What the keys and values of padding gain; nobody reads what its queries attend to."""
    if padding is None or call.filling is None:
        return hollow.new_zeros(0 if padding is None else padding.shape)
    by_head = hollow.unflatten(0, (-1, call.request.heads, call.blocks)).sum((0, 2))
    return functional.pad(by_head, (0, 0, 1, 0)).transpose(0, 1).flatten()


class _Call:
    """What all kernels of a call are given, and how their work is cut."""

    def __init__(
        self, qkv: Tensor, table: Tensor | None, padding: Tensor | None, request: Request
    ) -> None:
        size = (qkv.shape[1], qkv.shape[2], qkv.shape[3])
        self.request, self.n, self.dtype = request, request.tokens, qkv.dtype
        self.channels = qkv.shape[-1] // 3
        self.size, self.extents = self.channels // request.heads, request.extents(table)
        where = plan(size, request, self.extents, masked=padding is None, device=qkv.device)
        self.groups = len(where.groups)
        self.items = len(qkv) * self.groups
        self.filling = None
        if padding is not None and request.padded(size) != size:
            self.filling = padding.detach().to(qkv.dtype).contiguous()
        columns = None if table is None else _columns(table)
        self.given = (qkv.contiguous(), columns, self.filling, where.tokens, where.groups)
        entries = 0 if columns is None else columns.shape[1]
        self.numbers = (
            *(self.items, self.groups, self.n, where.tokens.shape[1], math.prod(size)),
            *(where.wrap, entries, center(self.extents), self.size**-0.5),
        )

    def run(self, kernel: Any, *tensors: Tensor) -> None:
        """Start a kernel whose programs share the rows of the groups."""
        cut = self.cut(kernel.__name__)
        with torch.cuda.device_of(tensors[0]):
            kernel[self.grid()](*self.given, *tensors, *self.numbers, GROUPS=self.together, **cut)

    def grid(self) -> tuple[int]:
        """One program for every block of rows of every head of every few groups."""
        sets = triton.cdiv(self.items, self.together)
        return (sets * self.request.heads * self.blocks,)

    @property
    def blocks(self) -> int:
        """Blocks of rows of a group."""
        return triton.cdiv(self.n, self.cut("attend")["ROWS"])

    @property
    def together(self) -> int:
        """How many groups a program takes: two, as long as a GPU is kept busy."""
        most = 2 if _weight(self.size, self.dtype) <= 32 else 1
        programs = self.items * self.request.heads * self.blocks
        return most if programs >= most * _PROGRAMS else 1

    def cut(self, kernel: str) -> dict[str, Any]:
        """How a kernel's work is cut into programs."""
        return {"C": self.channels, **shape(kernel, self.size, self.n, self.dtype)}


def _columns(table: Tensor) -> Tensor:
    """A head's biases times log2(e), side by side, and then what a key beyond the group finds."""
    columns = table.detach().flatten(0, 2).t().float() * _LOG2_E.value
    middle = len(table.flatten(0, 2)) // 2
    return functional.pad(columns, (0, middle + 1), value=_NEVER.value)


def shape(kernel: str, size: int, n: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles for groups of n tokens with heads of `size` channels, so large as registers allow.

    64 rows are what a Hopper's matrix unit multiplies at once. More columns spread the work of
    finding rows over more pairs, but the tiles of scores and of biases and the sums of a program
    have to fit the 255 registers of a thread (168, so that three programs share a
    multiprocessor, where the heads are small); `tests/kernels` compiles all of these.
    """
    weight, most = _weight(size, dtype), max(16, triton.next_power_of_2(n))
    if kernel == "down_table":
        columns = 64 if weight == 16 else 32 if weight <= 128 else 16
    else:
        columns = 32 if weight <= (64 if kernel == "down_keys" else 128) else 16
    rows = min(64, most)
    return {
        "E": size,
        "PADDED": max(16, triton.next_power_of_2(size)),
        "ROWS": rows,
        "COLUMNS": min(columns, most),
        "num_warps": rows // 16,
        "num_stages": 2 if weight <= 128 else 1,
        "maxnreg": 168 if weight == 16 and kernel != "down_table" else None,
    }


def _weight(size: int, dtype: torch.dtype) -> int:
    """Registers of a row of channels: a float32 is multiplied as two halves, kept beside it."""
    return max(16, triton.next_power_of_2(size)) * (4 if dtype == torch.float32 else 1)


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
        tops += (tl.full([ROWS], _NEVER, tl.float32),)
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
            scores = _dot(queries[g], tl.trans(key)) * (scale * _LOG2_E) + bias
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
            scores = _dot(queries[g], tl.trans(key)) * (scale * _LOG2_E) + bias
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
            scores = _dot(keys[g], tl.trans(query)) * (scale * _LOG2_E) + bias
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
        scores = _dot(query, tl.trans(key)) * (scale * _LOG2_E) + bias
        scores = _masked(scores, group, place, other_place, filling)
        weights = tl.exp2(scores - level[:, None])
        total += weights * (_dot(slope, tl.trans(value)) - product[:, None])
    at = (share.to(tl.int64) * (C // E) + head) * n * n + token[:, None] * n + other[None, :]
    tl.store(partial + at, total, (token < n)[:, None] & (other < n)[None, :])


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
        scores = tl.where(apart, _NEVER, scores)
    return scores


@triton.jit
def _bias(columns, of_query, of_key, known):
    """Biases times log2(e) of pairs, never for a key that is not known."""
    if columns is None:
        bias = tl.where(known, 0.0, _NEVER)
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
