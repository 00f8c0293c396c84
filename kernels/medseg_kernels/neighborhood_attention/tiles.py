"""Tiles of queries and the keys that any of them attends to, sorted by the mask they need."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from medseg_kernels.neighborhood_attention.request import Request, Triple, window_start


@dataclass(frozen=True, eq=False)
class AxisTiles:
    """Along one axis: g tiles of t queries whose h keys lie alike.

    `queries` (g, t) and `keys` (g, h) are places on the axis; `offset` (t, h) is query minus key
    in steps of dilation; `apart` (t, h) says which keys lie outside a query's window.
    """

    queries: Tensor
    keys: Tensor
    offset: Tensor
    apart: Tensor


@dataclass(frozen=True, eq=False)
class Kind:
    """Tiles of a grid that share one mask; an interior has one kind, each border its own."""

    size: Triple
    window: Triple
    axes: tuple[AxisTiles, AxisTiles, AxisTiles]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of queries and of keys of a tile."""
        queries = [axis.queries.shape[1] for axis in self.axes]
        keys = [axis.keys.shape[1] for axis in self.axes]
        return queries[0] * queries[1] * queries[2], keys[0] * keys[1] * keys[2]

    def parts(self, batch: int, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows of (b i j k) that are queries (g, n) and keys (g, m), `step` tiles at a time."""
        counts = (batch, *(len(axis.queries) for axis in self.axes))
        total = counts[0] * counts[1] * counts[2] * counts[3]
        for first in range(0, total, step):
            number = torch.arange(
                first, min(first + step, total), device=self.axes[0].queries.device
            )
            item, *tile = torch.unravel_index(number, counts)
            queries = [axis.queries[t] for axis, t in zip(self.axes, tile, strict=True)]
            keys = [axis.keys[t] for axis, t in zip(self.axes, tile, strict=True)]
            yield self._rows(item, queries), self._rows(item, keys)

    def _rows(self, item: Tensor, places: list[Tensor]) -> Tensor:
        i, j, k = places
        row = item[:, None] * self.size[0] + i
        row = row[:, :, None] * self.size[1] + j[:, None]
        return (row[..., None] * self.size[2] + k[:, None, None]).flatten(1)

    def entries(self) -> Tensor:
        """The row (n, m) of the flattened table for every pair; of any row where it is apart."""
        i, j, k = (
            (axis.offset + w - 1).clamp(0, 2 * w - 2)
            for axis, w in zip(self.axes, self.window, strict=True)
        )
        row = _pairs(i, 0) * (2 * self.window[1] - 1) + _pairs(j, 1)
        return (row * (2 * self.window[2] - 1) + _pairs(k, 2)).reshape(self.shape)

    def apart(self) -> Tensor:
        """The pairs (n, m) that do not attend to each other."""
        i, j, k = (_pairs(axis.apart, number) for number, axis in enumerate(self.axes))
        return (i | j | k).reshape(self.shape)


def _pairs(matrix: Tensor, axis: int) -> Tensor:
    """A matrix (t, h) of one axis among (t_i, t_j, t_k, h_i, h_j, h_k)."""
    shape = [1] * 6
    shape[axis], shape[axis + 3] = matrix.shape
    return matrix.reshape(shape)


@lru_cache(maxsize=64)
def kinds(
    size: Triple, request: Request, *, tile: Triple, device: torch.device
) -> tuple[Kind, ...]:
    """All tiles of a grid of this size."""
    with torch.inference_mode(mode=False):
        i, j, k = (
            _axis(*given, device=device)
            for given in zip(size, request.window, request.dilation, tile, strict=True)
        )
    return tuple(Kind(size, request.window, axes) for axes in product(i, j, k))


def _axis(
    length: int, window: int, dilation: int, tile: int, *, device: torch.device
) -> list[AxisTiles]:
    by_mask: dict[tuple[int, ...], list[tuple[list[int], list[int]]]] = {}
    for rest in range(dilation):
        own = range(rest, length, dilation)
        for first in range(0, len(own), tile):
            queries = range(first, min(first + tile, len(own)))
            starts = [window_start(place, len(own), window) for place in queries]
            relative = tuple(start - starts[0] for start in starts)
            places = ([own[q] for q in queries], list(own[starts[0] : starts[-1] + window]))
            by_mask.setdefault((first - starts[0], *relative), []).append(places)
    return [_alike(places, mask, window=window, device=device) for mask, places in by_mask.items()]


def _alike(
    places: list[tuple[list[int], list[int]]],
    mask: tuple[int, ...],
    *,
    window: int,
    device: torch.device,
) -> AxisTiles:
    first, *starts = mask
    queries, keys = (torch.tensor(column) for column in zip(*places, strict=True))
    key = torch.arange(keys.shape[1])
    beyond_start = key - torch.tensor(starts)[:, None]
    offset = first + torch.arange(len(starts))[:, None] - key
    apart = (beyond_start < 0) | (beyond_start >= window)
    return AxisTiles(*(t.to(device) for t in (queries, keys, offset, apart)))
