"""Attention inside groups of a token grid, written to be read: the truth of the other backends."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.window_attention.request import Request


def forward(
    qkv: Tensor,  # (b, i, j, k, 3 c), the last axis ordered (q k v, head, channel of the head)
    table: Tensor | None,  # (2 w_i - 1, 2 w_j - 1, 2 w_k - 1, heads)
    padding: Tensor | None,  # (3 c)
    *,
    request: Request,
    dropout: float = 0.0,
) -> Tensor:
    """The attended tokens (b, i, j, k, c): pad, roll, cut into groups, attend, and all of it back.

    Under autograd every step keeps its result, so this needs much memory; it takes dropout, which
    acts on the attention weights.
    """
    batch, *size, _ = qkv.shape
    padded = request.padded(tuple(size))
    grid = _pad(qkv, padded, padding)
    allowed = _allowed(tuple(size), request=request, masked=padding is None, device=qkv.device)
    groups = _cut(torch.roll(grid, [-s for s in request.shift], (1, 2, 3)), request)
    query, key, value = groups.unflatten(-1, (3, request.heads, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if table is not None:
        scores = scores + position_bias(table, request)
    scores = (
        scores.unflatten(0, (batch, -1)).masked_fill(~allowed[:, None], -torch.inf).flatten(0, 1)
    )
    weights = functional.dropout(scores.softmax(-1), dropout).to(value.dtype)
    tokens = (weights @ value).transpose(1, 2).flatten(2)
    grid = torch.roll(_join(tokens, batch, padded, request), request.shift, (1, 2, 3))
    return grid[:, : size[0], : size[1], : size[2]].contiguous()


def position_bias(table: Tensor, request: Request) -> Tensor:
    """The bias (heads, n, n) of every pair of tokens of a group."""
    number = torch.arange(math.prod(request.window), device=table.device)
    nominal = [(extent + 1) // 2 for extent in table.shape[:3]]
    place = torch.stack(torch.unravel_index(number, nominal if request.prefix else request.window))
    offset = place[:, :, None] - place[:, None, :]
    i, j, k = (o + w - 1 for o, w in zip(offset, nominal, strict=True))
    return table[i, j, k].permute(2, 0, 1)


def _pad(qkv: Tensor, padded: tuple[int, ...], padding: Tensor | None) -> Tensor:
    """The grid grown to `padded` at its far ends, its new tokens equal to `padding`."""
    _, i, j, k, channels = qkv.shape
    row = qkv.new_zeros(channels) if padding is None else padding.to(qkv.dtype)
    inside = torch.ones((i, j, k, 1), dtype=torch.bool, device=qkv.device)
    growth = (0, 0, 0, padded[2] - k, 0, padded[1] - j, 0, padded[0] - i)
    return torch.where(functional.pad(inside, growth), functional.pad(qkv, growth), row)


def _cut(grid: Tensor, request: Request) -> Tensor:
    """Groups (b g, n, c) of a grid whose sides are multiples of window times dilation."""
    batch, i, j, k, channels = grid.shape
    (p, q, r), (u, v, w) = request.window, request.dilation
    cells = grid.reshape(
        batch, i // (p * u), p, u, j // (q * v), q, v, k // (r * w), r, w, channels
    )
    return cells.permute(0, 1, 3, 4, 6, 7, 9, 2, 5, 8, 10).reshape(-1, p * q * r, channels)


def _join(groups: Tensor, batch: int, padded: tuple[int, ...], request: Request) -> Tensor:
    """The inverse of `_cut`."""
    (i, j, k), (p, q, r), (u, v, w) = padded, request.window, request.dilation
    counts = (i // (p * u), u, j // (q * v), v, k // (r * w), w)
    cells = groups.reshape(batch, *counts, p, q, r, groups.shape[-1])
    return cells.permute(0, 1, 7, 2, 3, 8, 4, 5, 9, 6, 10).reshape(batch, i, j, k, -1)


def _allowed(
    size: tuple[int, ...], *, request: Request, masked: bool, device: torch.device
) -> Tensor:
    """Whether a pair of tokens may attend to each other, (g, n, n).

    A roll brings tokens from the far ends of the grid into one group: they stay apart. Masked
    padding stays apart from tokens.
    """
    regions = torch.zeros((1, *request.padded(size), 1), dtype=torch.int64, device=device)
    for axis, (extent, shift) in enumerate(zip(size, request.shift, strict=True)):
        padded = regions.shape[axis + 1]
        place = torch.arange(padded, device=device)
        region = (place < shift).long() + 2 * (place >= extent) * masked
        regions = regions * 4 + region.view([-1 if a == axis + 1 else 1 for a in range(5)])
    region = _cut(torch.roll(regions, [-s for s in request.shift], (1, 2, 3)), request)[..., 0]
    return region[:, :, None] == region[:, None, :]
