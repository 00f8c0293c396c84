"""Axis biases as channels of the heads: one plain scaled dot-product attention, on any device.

A query has as many biases along an axis as a window has places there. They are appended to it, and
the key gets as many zeros with a one at its own place, so that their product adds the right one:
q' = (q, B_i / s, B_j / s, B_k / s), k' = (k, onehot_i, onehot_j, onehot_k), with s the scale. The
value is filled up with zeros to the same size, without which torch's CPU form falls back to one
that holds all pairs. What must not attend gets a bias near the lowest number there is.
"""

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.axial_bias_attention.partition import cut, join
from medseg_kernels.axial_bias_attention.request import Request, offsets


def forward(qkv: Tensor, tables: Tensor, padding: Tensor | None, *, request: Request) -> Tensor:
    """The attended tokens (b, i, j, k, c); a head has its e channels and w_i + w_j + w_k more."""
    if qkv.numel() == 0:
        return qkv[..., : qkv.shape[-1] // 3].clone()
    size, scale = qkv.shape[1:4], (qkv.shape[-1] // (3 * request.heads)) ** -0.5
    query, key, value = cut(qkv, padding, request)
    biases = _biases(query, tables / scale, size, request, masked=padding is None)
    marks = _marks(request.window, like=key)
    wide = torch.cat([query, *biases], -1).flatten(0, 1)
    marked = torch.cat([key, marks.expand(*key.shape[:3], -1, -1)], -1).flatten(0, 1)
    filled = functional.pad(value, (0, marks.shape[-1])).flatten(0, 1)
    mixed = functional.scaled_dot_product_attention(wide, marked, filled, scale=scale)
    tokens = mixed[..., : value.shape[-1]]
    return join(tokens.unflatten(0, value.shape[:2]), size, request)


def _biases(
    query: Tensor,  # (b, g, heads, n, e)
    tables: Tensor,
    size: tuple[int, ...],
    request: Request,
    *,
    masked: bool,
) -> list[Tensor]:
    """For each axis of several places, what a query adds to the keys at each (b, g, heads, n, w).

    Along an axis of one place all keys would get the same, which softmax takes out.
    """
    grid, counts = query.unflatten(3, request.window), request.counts(size)
    biases = []
    for axis, table in enumerate(request.split(tables)):
        if request.window[axis] == 1:
            continue
        rows = table.to(query.dtype)[offsets(request.window[axis], query.device)]
        bias = torch.einsum(f"bghijke,{'ijk'[axis]}we->bghijkw", grid, rows)
        apart = request.apart(size, axis, masked=masked, device=query.device)
        if apart is not None:
            lowest = torch.finfo(bias.dtype).min / 8  # a sum over axes is still a number
            shape = [1] * 9  # (b, windows of i j k, heads, places of i j k, w)
            shape[axis + 1], shape[axis + 5], shape[8] = apart.shape
            mask = apart.view(shape)
            bias = bias.unflatten(1, counts).masked_fill(mask, lowest).flatten(1, 3)
        biases.append(bias.flatten(3, 5))
    return biases


def _marks(window: tuple[int, ...], *, like: Tensor) -> Tensor:
    """A one at the place of each key along each axis of several places, (n, w_i + w_j + w_k)."""
    shape = torch.Size(window)
    places = torch.unravel_index(torch.arange(shape.numel(), device=like.device), shape)
    marks = [
        functional.one_hot(place, extent)
        for place, extent in zip(places, shape, strict=True)
        if extent > 1
    ]
    return torch.cat([like.new_zeros(shape.numel(), 0), *marks], -1).to(like.dtype)
