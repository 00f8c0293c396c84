"""For CPUs, by `attend`: scores of a few queries stay in a core's cache, biases are an axis each.

The backward computes the weights again, so nothing of size n x n is held. Windows are g at a time,
of n keys each, r of them queries, h heads of e channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from medseg_kernels import attend
from medseg_kernels.axial_bias_attention.request import Request, offsets
from medseg_kernels.axial_bias_attention.windows import Kind, kinds

# Bytes of tokens worked on at a time: some of a third-level cache.
_BYTES = 4 << 20


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
            query, key, value = _heads(_gather(item, keys, kind.hollow, padding), 3, request)
            query = _real(query, 2, kind)
            axes = _biases(query.to(_exact(qkv)), tables, kind, request)
            mixed = attend.forward(query, key, value, None, axes=axes)
            target.index_copy_(0, queries.flatten(), _tokens(mixed))
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
            tokens = _gather(item, keys, kind.hollow, padding).to(exact)
            slope = _gather(slopes[number], queries).to(exact)
            d_tokens = _tokens_backward(tokens, slope, tables, down_tables, kind, request)
            if padding is not None and len(kind.hollow):
                down_padding += d_tokens.index_select(1, kind.hollow).sum((0, 1))
            d_real = _real(d_tokens, 1, kind).flatten(0, 1)
            down[number].index_copy_(0, queries.flatten(), d_real.to(qkv.dtype))
    return down.view(qkv.shape), down_tables, down_padding


def _tokens_backward(
    tokens: Tensor,  # (g, n, 3 h e)
    slope: Tensor,  # (g, r, h e)
    tables: Tensor,
    down_tables: Tensor,  # added to
    kind: Kind,
    request: Request,
) -> Tensor:
    """The gradient of `tokens`."""
    query, key, value = _heads(tokens, 3, request)
    (slope,) = _heads(slope, 1, request)
    query = _real(query, 2, kind)
    axes = _biases(query, tables, kind, request)
    d_tokens = torch.zeros_like(tokens)
    of_query, of_key, of_value = _heads(d_tokens, 3, request)
    d_query, d_axes = torch.empty_like(query), [torch.empty_like(axis) for axis in axes]
    attend.backward(
        query, key, value, None, slope, into=(d_query, of_key, of_value), axes=axes, of_axes=d_axes
    )
    d_query += _biases_backward(d_axes, query, tables, down_tables, kind, request)
    of_query.index_copy_(2, kind.real, d_query)
    return d_tokens


def _parts(qkv: Tensor, request: Request, *, masked: bool) -> Iterator[tuple[Kind, Tensor, Tensor]]:
    """All windows of an item, so many at a time as fit: their kind, keys and queries."""
    i, j, k = qkv.shape[1:4]
    for kind in kinds((i, j, k), request, masked=masked, device=qkv.device):
        step = max(1, _BYTES // (kind.keys.shape[1] * qkv.shape[-1] * _exact(qkv).itemsize))
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


def _heads(tokens: Tensor, slots: int, request: Request) -> Tensor:
    """Tokens (g, n, slots h e) seen as (slots, g, h, n, e)."""
    return tokens.unflatten(-1, (slots, request.heads, -1)).permute(2, 0, 3, 1, 4)


def _tokens(heads: Tensor) -> Tensor:
    """Heads (g, h, n, e) as rows (g n, h e)."""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)


def _real(x: Tensor, axis: int, kind: Kind) -> Tensor:
    """Of places of a window those that are tokens."""
    return x.index_select(axis, kind.real) if len(kind.hollow) else x


def _axes(request: Request) -> list[int]:
    """Axes of several places; along one of a single place all keys would get the same bias."""
    return [axis for axis in range(3) if request.window[axis] > 1 or axis == 2]


def _biases(query: Tensor, tables: Tensor, kind: Kind, request: Request) -> list[Tensor]:
    """What each query (g, h, r, e) adds to the keys at each place of an axis, (g, h, r, w) each.

    Minus infinity where they are apart.
    """
    grid, biases = query.unflatten(2, kind.shape), []
    for axis in _axes(request):
        rows = _rows(tables, axis, kind, request).to(query.dtype)
        bias = torch.einsum(f"ghijke,{'ijk'[axis]}we->ghijkw", grid, rows)
        apart = kind.axes[axis].apart
        if apart is not None:
            shape = [len(apart) if a == axis else 1 for a in range(3)]
            bias = bias.masked_fill(apart.view(*shape, -1), -torch.inf)
        biases.append(bias.flatten(2, 4))
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
    grid, down = query.unflatten(2, kind.shape), torch.zeros_like(query)
    for axis, d_bias in zip(_axes(request), d_biases, strict=True):
        letter = "ijk"[axis]
        slope = d_bias.unflatten(2, kind.shape)
        rows = _rows(tables, axis, kind, request).to(query.dtype)
        down += torch.einsum(f"ghijkw,{letter}we->ghijke", slope, rows).flatten(2, 4)
        d_rows = torch.einsum(f"ghijkw,ghijke->{letter}we", slope, grid)
        entries = _entries(axis, kind, request)
        request.split(down_tables)[axis].index_add_(0, entries.flatten(), d_rows.flatten(0, 1))
    return down


def _entries(axis: int, kind: Kind, request: Request) -> Tensor:
    """The row (r, w) of an axis's table for each place of a query and of a key."""
    real = kind.axes[axis].real
    return offsets(request.window[axis], real.device)[real]


def _rows(tables: Tensor, axis: int, kind: Kind, request: Request) -> Tensor:
    return request.split(tables)[axis][_entries(axis, kind, request)]


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
