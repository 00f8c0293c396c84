"""A token grid cut into windows, and windows joined to a grid: ordinary operations of torch."""

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.axial_bias_attention.request import Request


def cut(
    qkv: Tensor,  # (b, i, j, k, 3 c)
    padding: Tensor | None,  # (3 c)
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (b, g, heads, n, e) of all windows: pad, roll, cut."""
    size, (p, q, r) = qkv.shape[1:4], request.window
    grid = _pad(qkv, padding, request)
    if any(request.shift):
        grid = torch.roll(grid, [-s for s in request.shift], (1, 2, 3))
    u, v, w = request.counts(size)
    cells = grid.view(qkv.shape[0], u, p, v, q, w, r, 3, request.heads, -1)
    windows = cells.permute(7, 0, 1, 3, 5, 8, 2, 4, 6, 9).flatten(6, 8).flatten(2, 4)
    query, key, value = windows
    return query, key, value


def join(
    tokens: Tensor,  # (b, g, heads, n, e)
    size: tuple[int, ...],
    request: Request,
) -> Tensor:
    """The grid (b, i, j, k, c): the inverse of `cut`."""
    cells = tokens.unflatten(3, request.window).unflatten(1, request.counts(size))
    cells = cells.permute(0, 1, 5, 2, 6, 3, 7, 4, 8)
    grid = cells.reshape(tokens.shape[0], *request.padded(size), -1)
    if any(request.shift):
        grid = torch.roll(grid, request.shift, (1, 2, 3))
    return grid[:, : size[0], : size[1], : size[2]].contiguous()


def _pad(qkv: Tensor, padding: Tensor | None, request: Request) -> Tensor:
    """The grid grown to whole windows at its far ends, its new tokens equal to `padding`."""
    _, i, j, k, channels = qkv.shape
    far_i, far_j, far_k = request.padded((i, j, k))
    if (i, j, k) == (far_i, far_j, far_k):
        return qkv.contiguous()
    row = qkv.new_zeros(channels) if padding is None else padding.to(qkv.dtype)
    inside = torch.ones((i, j, k, 1), dtype=torch.bool, device=qkv.device)
    growth = (0, 0, 0, far_k - k, 0, far_j - j, 0, far_i - i)
    return torch.where(functional.pad(inside, growth), functional.pad(qkv, growth), row)
