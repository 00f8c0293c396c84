"""Where the tokens of every group lie, as two small tables of integers that the kernels read.

A group is given by its first token and by where the grid ends, or the roll begins, along each
axis; a token of a group by its place in the window. A row of the grid is then a sum of both, so
no index of size groups x n is held.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from medseg_kernels.window_attention.request import Request, Triple

# Three places below 512 in one integer: 10 bits each, whose top bit is free. A sum with 512 minus
# a bound sets it where the place has reached the bound.
LARGEST_WINDOW = 512
# Tokens are tabulated up to a multiple of this, so that a block of them is read without a mask.
MULTIPLE = 128
# Integers a group: its first row, three bounds (`_axis`), and whether a mask cuts it.
FIELDS = 5


@dataclass(frozen=True, eq=False)
class Plan:
    """The groups of one item of a batch.

    `tokens` (3, n rounded up) holds a token's packed place in the window, the rows between it and
    its group's first, and its place in the position table; a token beyond n lies before the table.
    `groups` (g, FIELDS) holds what is the group's own. Rolled tokens lie `wrap` rows further back,
    for each axis along which they are rolled.
    """

    tokens: Tensor
    groups: Tensor
    wrap: Triple


@cache  # never let go: a captured CUDA graph goes on reading the tensors
def plan(
    size: Triple, request: Request, extents: Triple, *, masked: bool, device: torch.device
) -> Plan:
    """The plan of a grid; `extents` are those of the position table, `masked` as in `kinds`."""
    strides = (size[1] * size[2], size[2], 1)
    padded = request.padded(size)
    with torch.inference_mode(mode=False):
        return Plan(
            tokens=_tokens(strides, request, extents).to(torch.int32).to(device),
            groups=_groups(size, strides, request, masked=masked).to(torch.int32).to(device),
            wrap=(padded[0] * strides[0], padded[1] * strides[1], padded[2] * strides[2]),
        )


def center(extents: Triple) -> int:
    """The entry of the flattened table for a token and itself: the middle one."""
    return math.prod(extents) // 2


def _tokens(strides: Triple, request: Request, extents: Triple) -> Tensor:
    number = torch.arange(math.prod(request.window))
    place = torch.stack(torch.unravel_index(number, request.window))
    numbered = torch.stack(torch.unravel_index(number, request.numbering(extents)))
    steps = torch.tensor([s * d for s, d in zip(strides, request.dilation, strict=True)])
    entry_steps = torch.tensor((extents[1] * extents[2], extents[2], 1))
    columns = torch.stack([_packed(place), steps @ place, entry_steps @ numbered])
    beyond = torch.tensor([0, 0, center(extents) - math.prod(extents)])
    rounded = -(-columns.shape[1] // MULTIPLE) * MULTIPLE
    return torch.cat([columns, beyond[:, None].expand(-1, rounded - columns.shape[1])], 1)


def _groups(size: Triple, strides: Triple, request: Request, *, masked: bool) -> Tensor:
    axes = [_axis(size, request, axis, masked=masked) for axis in range(3)]
    numbers = torch.cartesian_prod(*(torch.arange(axis.shape[1]) for axis in axes))
    chosen = torch.stack([axis[:, n] for axis, n in zip(axes, numbers.mT, strict=True)], 1)
    first, *bounds, mixed = chosen  # each (3, g)
    row = torch.tensor(strides) @ first
    packed = [_packed(LARGEST_WINDOW - bound) for bound in bounds]
    return torch.stack([row, *packed, mixed.amax(0)], 1)


def _axis(size: Triple, request: Request, axis: int, *, masked: bool) -> Tensor:
    """Along one axis, for every group: first place, three bounds, whether masks cut it; (5, g).

    In the order of the window come tokens inside the grid, up to the first bound, beyond its end,
    rolled ones from the second bound on, and rolled ones beyond its end from the third.
    """
    extent, padded = size[axis], request.padded(size)[axis]
    window, dilation, shift = request.window[axis], request.dilation[axis], request.shift[axis]
    number = torch.arange(padded // window)
    first = number // dilation * (window * dilation) + number % dilation + shift
    first = torch.where(first >= padded, first - padded, first)
    grid_end, roll, second_end = (
        (-((first - limit) // dilation)).clamp(0, window)
        for limit in (extent, padded, extent + padded)
    )
    grid_end, second_end = torch.minimum(grid_end, roll), torch.maximum(second_end, roll)
    mixed = roll < window
    if masked:
        mixed = (grid_end < window) & ((grid_end > 0) | mixed)
    return torch.stack([first, grid_end, roll, second_end, mixed.long()])


def _packed(places: Tensor) -> Tensor:
    return places[0] | places[1] << 10 | places[2] << 20
