"""For CPUs: blocks of scores that stay in a core's cache.

The biases of the axes are joined for one block of queries at a time and go into `attend`. The
backward computes the weights again, so nothing of size n x n is held.
A head of a window is a case of its own: p cases of n keys each, r of them queries, e channels.
"""

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from medseg_kernels import attend
from medseg_kernels.axial_bias_attention.request import Request, offsets
from medseg_kernels.axial_bias_attention.windows import Kind, kinds

# Bytes of scores worked on at a time: half of a core's second-level cache.
_BYTES = 1 << 20


def refuses(qkv: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if qkv.device.type != "cpu":
        return f"it is cut for the cache of a CPU, and the tensors are on {qkv.device}"
    return None


def forward(qkv: Tensor, tables: Tensor, padding: Tensor | None, *, request: Request) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    items, channels = qkv.flatten(1, 3), qkv.shape[-1] // 3
    out = items.new_empty((*items.shape[:2], channels))
    for item, target in zip(items, out, strict=True):
        for kind, keys, queries in _parts(qkv, request, masked=padding is None):
            query, key, value = _cases(_gather(item, keys, kind.hollow, padding), 3, request)
            query = query.index_select(1, kind.real)
            biases = _biases(query.to(_exact(qkv)), tables, kind, request)
            mixed = torch.empty_like(query)
            for cases, rows in _blocks(query, key):
                bias = _joined([b[cases, rows] for b in biases]).to(query.dtype)
                mixed[cases, rows] = attend.forward(
                    query[None, cases, rows], key[None, cases], value[None, cases], bias[None]
                )[0]
            target.index_copy_(0, queries.flatten(), _uncased(mixed[None], request))
    return out.view(*qkv.shape[:-1], channels)


def backward(
    grad: Tensor, qkv: Tensor, tables: Tensor, padding: Tensor | None, *, request: Request
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, the tables and padding, the latter empty where there is none."""
    items, slopes = qkv.flatten(1, 3), grad.flatten(1, 3)
    exact, down = _exact(qkv), torch.empty_like(items, memory_format=torch.contiguous_format)
    down_tables = tables.new_zeros(tables.shape, dtype=exact)
    down_padding = items.new_zeros(0 if padding is None else len(padding), dtype=exact)
    for number, item in enumerate(items):
        for kind, keys, queries in _parts(qkv, request, masked=padding is None):
            tokens = _cases(_gather(item, keys, kind.hollow, padding), 3, request).to(exact)
            (slope,) = _cases(_gather(slopes[number], queries), 1, request).to(exact)
            d_tokens = _cases_backward(tokens, slope, tables, down_tables, kind, request)
            if padding is not None:
                d_hollow = d_tokens.index_select(2, kind.hollow)
                down_padding += _uncased(d_hollow, request).sum(0)
            d_real = _uncased(d_tokens.index_select(2, kind.real), request)
            down[number].index_copy_(0, queries.flatten(), d_real.to(qkv.dtype))
    return down.view(qkv.shape), down_tables, down_padding


def _cases_backward(
    tokens: Tensor,  # (3, p, n, e)
    slope: Tensor,  # (p, r, e)
    tables: Tensor,
    down_tables: Tensor,  # added to
    kind: Kind,
    request: Request,
) -> Tensor:
    """The gradient of `tokens`; that of an axis's bias is the sum over the places of the others."""
    query, key, value = tokens
    query = query.index_select(1, kind.real)
    biases = _biases(query, tables, kind, request)
    d_query, d_tokens = torch.empty_like(query), torch.zeros_like(tokens)
    d_biases = [torch.empty_like(bias) for bias in biases]
    for cases, rows in _blocks(query, key):
        bias = _joined([b[cases, rows] for b in biases])
        d_scores, d_key, d_value = (torch.zeros_like(x) for x in (bias, key[cases], value[cases]))
        attend.backward(
            query[None, cases, rows],
            key[None, cases],
            value[None, cases],
            bias[None],
            slope[None, cases, rows],
            into=(d_query[None, cases, rows], d_key[None], d_value[None]),
            of_bias=d_scores[None],
        )
        d_tokens[1, cases] += d_key
        d_tokens[2, cases] += d_value
        for d_bias, summed in zip(d_biases, _sums(d_scores, request), strict=True):
            d_bias[cases, rows] = summed
    d_query += _biases_backward(d_biases, query, tables, down_tables, kind, request)
    d_tokens[0].index_copy_(1, kind.real, d_query)
    return d_tokens


def _parts(qkv: Tensor, request: Request, *, masked: bool) -> Iterator[tuple[Kind, Tensor, Tensor]]:
    """All windows of an item, so many at a time as fit: their kind, keys and queries."""
    i, j, k = qkv.shape[1:4]
    for kind in kinds((i, j, k), request, masked=masked, device=qkv.device):
        step = max(1, _budget(qkv) // (request.heads * kind.keys.shape[1] ** 2))
        for keys, queries in kind.parts(step):
            yield kind, keys, queries


def _gather(
    item: Tensor, places: Tensor, hollow: Tensor | None = None, padding: Tensor | None = None
) -> Tensor:
    """The rows (g, n, c) at `places`; padding's row, or zero, where they are hollow."""
    tokens = item.index_select(0, places.flatten()).view(*places.shape, -1)
    if hollow is not None and len(hollow):
        tokens[:, hollow] = 0 if padding is None else padding.to(tokens.dtype)
    return tokens


def _cases(tokens: Tensor, slots: int, request: Request) -> Tensor:
    """Tokens (g, n, slots heads e) as (slots, g heads, n, e)."""
    split = tokens.unflatten(-1, (slots, request.heads, -1))
    return split.permute(2, 0, 3, 1, 4).reshape(slots, -1, tokens.shape[1], split.shape[-1])


def _uncased(cases: Tensor, request: Request) -> Tensor:
    """The inverse of `_cases`, all tokens in one column, (g n, slots heads e)."""
    split = cases.unflatten(1, (-1, request.heads)).permute(1, 3, 0, 2, 4)
    return split.flatten(2).flatten(0, 1)


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cases and rows of their queries whose scores fit."""
    keys = key.shape[1]
    cases = max(1, _budget(key) // keys**2)
    rows = max(16, _budget(key) // keys)
    for case in range(0, len(query), cases):
        for row in range(0, query.shape[1], rows):
            yield slice(case, case + cases), slice(row, row + rows)


def _axes(request: Request) -> list[int]:
    """Axes of several places; along one of a single place all keys would get the same bias."""
    return [axis for axis in range(3) if request.window[axis] > 1 or axis == 2]


def _biases(query: Tensor, tables: Tensor, kind: Kind, request: Request) -> list[Tensor]:
    """What each query adds to the keys at each place of an axis, (p, r, w_i or 1, 1 or w_j, ...).

    Minus infinity where they are apart.
    """
    grid, biases = query.unflatten(1, kind.shape), []
    for axis in _axes(request):
        rows = _rows(tables, axis, kind, request).to(query.dtype)
        bias = torch.einsum(f"pijke,{'ijk'[axis]}we->pijkw", grid, rows)
        apart = kind.axes[axis].apart
        if apart is not None:
            shape = [len(apart) if a == axis else 1 for a in range(3)]
            bias = bias.masked_fill(apart.view(*shape, -1), -torch.inf)
        extents = [w if a == axis else 1 for a, w in enumerate(request.window)]
        biases.append(bias.reshape(*query.shape[:2], *extents))
    return biases


def _biases_backward(
    d_biases: list[Tensor],
    query: Tensor,
    tables: Tensor,
    down_tables: Tensor,  # added to
    kind: Kind,
    request: Request,
) -> Tensor:
    """The gradient of the query by its biases."""
    grid, down = query.unflatten(1, kind.shape), torch.zeros_like(query)
    for axis, d_bias in zip(_axes(request), d_biases, strict=True):
        letter = "ijk"[axis]
        slope = d_bias.flatten(2).unflatten(1, kind.shape)
        rows = _rows(tables, axis, kind, request).to(query.dtype)
        down += torch.einsum(f"pijkw,{letter}we->pijke", slope, rows).flatten(1, 3)
        d_rows = torch.einsum(f"pijkw,pijke->{letter}we", slope, grid)
        entries = _entries(axis, kind, request)
        request.split(down_tables)[axis].index_add_(0, entries.flatten(), d_rows.flatten(0, 1))
    return down


def _entries(axis: int, kind: Kind, request: Request) -> Tensor:
    """The row (r, w) of an axis's table for each place of a query and of a key."""
    real = kind.axes[axis].real
    return offsets(request.window[axis], real.device)[real]


def _rows(tables: Tensor, axis: int, kind: Kind, request: Request) -> Tensor:
    return request.split(tables)[axis][_entries(axis, kind, request)]


def _joined(biases: list[Tensor]) -> Tensor:
    """The bias (p, r, n) of every pair."""
    return reduce(torch.add, biases).flatten(2)


def _sums(d_scores: Tensor, request: Request) -> list[Tensor]:
    """The gradient of each axis's bias, in the shapes of `_biases`."""
    grid = d_scores.unflatten(2, request.window)
    by_ij = grid.sum(4, keepdim=True)
    sums = (by_ij.sum(3, keepdim=True), by_ij.sum(2, keepdim=True), grid.sum((2, 3), keepdim=True))
    return [sums[axis] for axis in _axes(request)]


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _budget(tensor: Tensor) -> int:
    """How many scores are worked on at a time."""
    return _BYTES // _exact(tensor).itemsize
