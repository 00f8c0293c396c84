"""Which tokens form the groups of a grid, sorted by the mask the groups need."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from medseg_kernels.window_attention.request import Request, Triple

_PADDING = -1


@dataclass(frozen=True, eq=False)
class Kind:
    """Groups that share one mask; most grids have one to eight kinds.

    `rows` (g, n) numbers the tokens of a grid row by row, then this kind's padding;
    `hollow` (g, n) says where that is, None for nowhere; `apart` (n, n) says which pairs may not
    attend to each other, None for no such pair.
    """

    rows: Tensor
    hollow: Tensor | None
    apart: Tensor | None

    @property
    def paddings(self) -> int:
        """How many rows are padding."""
        return 0 if self.hollow is None else int(self.hollow.sum())


@lru_cache(maxsize=64)
def kinds(
    size: Triple, request: Request, *, masked: bool, device: torch.device
) -> tuple[Kind, ...]:
    """All groups of a grid of this size; with `masked` no token attends to padding."""
    axes = [_axis(size, request, axis, masked=masked) for axis in range(3)]
    with torch.inference_mode(mode=False):
        return tuple(_kind(size, chosen, device) for chosen in product(*axes))


@dataclass(frozen=True)
class _Groups:
    """Along one axis: groups (g rows of positions) whose positions have the same labels."""

    positions: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]


def _axis(size: Triple, request: Request, axis: int, *, masked: bool) -> list[_Groups]:
    by_labels: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for group in _axis_groups(size, request, axis):
        positions = tuple(place if place < size[axis] else _PADDING for place in group)
        marks = [(place < request.shift[axis], masked and place >= size[axis]) for place in group]
        labels = tuple(marks.index(mark) for mark in marks)
        by_labels.setdefault(labels, []).append(positions)
    return [_Groups(tuple(positions), labels) for labels, positions in by_labels.items()]


def _axis_groups(size: Triple, request: Request, axis: int) -> Iterator[list[int]]:
    window, dilation, shift = request.window[axis], request.dilation[axis], request.shift[axis]
    padded = request.padded(size)[axis]
    for block in range(0, padded, window * dilation):
        for start in range(block, block + dilation):
            yield [(start + n * dilation + shift) % padded for n in range(window)]


def _kind(size: Triple, axes: tuple[_Groups, ...], device: torch.device) -> Kind:
    i, j, k = (torch.tensor(axis.positions) for axis in axes)
    shape = (len(i), len(j), len(k), i.shape[1], j.shape[1], k.shape[1])
    i, j, k = (
        p.reshape(
            [len(p) if a == axis else 1 for a in range(3)]
            + [-1 if a == axis else 1 for a in range(3)]
        )
        for axis, p in enumerate((i, j, k))
    )
    row = ((i * size[1] + j) * size[2] + k).expand(shape).reshape(math.prod(shape[:3]), -1)
    hollow = ((i < 0) | (j < 0) | (k < 0)).expand(shape).reshape(row.shape)
    row[hollow] = math.prod(size) + torch.arange(int(hollow.sum()))
    return Kind(
        rows=row.to(device),
        hollow=hollow.to(device) if hollow.any() else None,
        apart=_apart(axes, device),
    )


def _apart(axes: tuple[_Groups, ...], device: torch.device) -> Tensor | None:
    labels = torch.cartesian_prod(*(torch.tensor(axis.labels) for axis in axes))
    apart = (labels[:, None] != labels[None]).any(-1)
    return apart.to(device) if apart.any() else None
