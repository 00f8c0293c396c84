"""The biases of a whole grid as one tensor, for kernels that read them token by token."""

import math

import torch
from torch import Tensor

from medseg_kernels.axial_bias_attention.request import Request, Triple, offsets


def widths(window: Triple) -> Triple:
    """How many numbers the bias along i, j and k takes: powers of two, and none along i in 2D."""
    i, j, k = (max(16, 1 << (extent - 1).bit_length()) for extent in window)
    return 0 if window[0] == 1 else i, j, k


def forward(qkv: Tensor, tables: Tensor, request: Request, *, masked: bool) -> Tensor:
    """What each query adds to the keys at every place of its window along k, along j, along i.

    (b, i, j, k, heads, sum of `widths`), in the precision of `qkv`, for exponents of base 2: times
    log2(e). Minus infinity for places that are apart or beyond the window; zero along an axis of
    one place, where all keys would get the same.
    """
    query = _query(qkv, request)
    bias = query.new_full((*query.shape[:-1], sum(widths(request.window))), -torch.inf)
    for axis, part in _parts(bias, request):
        if request.window[axis] == 1:
            part.zero_()
            continue
        rows = _rows(qkv, tables * math.log2(math.e), axis, request).to(qkv.dtype)
        part.copy_(torch.einsum(f"bijkhe,{'ijk'[axis]}we->bijkhw", query, rows))
        size = tuple(qkv.shape[1:4])
        apart = request.apart(size, axis, masked=masked, device=qkv.device)
        if apart is not None:
            mask = apart.flatten(0, 1)[_place(qkv, axis, request)]
            shape = [len(mask) if a == axis else 1 for a in range(3)]
            part.masked_fill_(mask.view(*shape, 1, -1), -torch.inf)
    return bias


def backward(
    d_bias: Tensor,  # shaped as the bias
    qkv: Tensor,
    tables: Tensor,
    request: Request,
) -> tuple[Tensor, Tensor]:
    """The gradients of the query (b, i, j, k, heads, e) and of the tables, in float32.

    `d_bias` counts in base e.
    """
    query, tables = _query(qkv, request).float(), tables.float()
    d_query, d_tables = torch.zeros_like(query), torch.zeros_like(tables)
    for axis, slope in _parts(d_bias, request):
        if request.window[axis] > 1:
            letter, rows = "ijk"[axis], _rows(qkv, tables, axis, request)
            d_query += torch.einsum(f"bijkhw,{letter}we->bijkhe", slope, rows)
            d_rows = torch.einsum(f"bijkhw,bijkhe->{letter}we", slope, query)
            entries = (_entries(qkv, axis, request),)
            request.split(d_tables)[axis].index_put_(entries, d_rows, accumulate=True)
    return d_query, d_tables


def _query(qkv: Tensor, request: Request) -> Tensor:
    return qkv.detach()[..., : qkv.shape[-1] // 3].unflatten(-1, (request.heads, -1))


def _parts(bias: Tensor, request: Request) -> list[tuple[int, Tensor]]:
    """Each axis that the bias has and its part, as wide as the window."""
    i, j, k = widths(request.window)
    parts = zip((2, 1, 0), bias.split((k, j, i), -1), strict=True)
    return [(axis, part[..., : request.window[axis]]) for axis, part in parts if part.shape[-1]]


def _place(qkv: Tensor, axis: int, request: Request) -> Tensor:
    """Where each place of an axis lies after padding and roll."""
    place = torch.arange(qkv.shape[axis + 1], device=qkv.device) - request.shift[axis]
    return place % request.padded(qkv.shape[1:4])[axis]


def _entries(qkv: Tensor, axis: int, request: Request) -> Tensor:
    """The row (length of the axis, w) of its table for a token and each place of its window."""
    return offsets(request.window[axis], qkv.device)[
        _place(qkv, axis, request) % request.window[axis]
    ]


def _rows(qkv: Tensor, tables: Tensor, axis: int, request: Request) -> Tensor:
    return request.split(tables)[axis][_entries(qkv, axis, request)]
