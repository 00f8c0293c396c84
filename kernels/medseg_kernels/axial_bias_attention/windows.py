"""Which tokens of a grid form its windows, sorted by where they lie in them and what is apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from medseg_kernels.axial_bias_attention.request import Request, Triple


@dataclass(frozen=True, eq=False)
class AxisWindows:
    """Along one axis: g windows that are alike.

    `places` (g, w) are places on the axis, 0 for padding; `real` (r) says which of the w are tokens
    of the grid; `apart` (r, w) which of them and which keys do not attend, None for no such pair.
    """

    places: Tensor
    real: Tensor
    apart: Tensor | None


@dataclass(frozen=True, eq=False)
class Kind:
    """Windows of a grid that are alike along all axes; a grid has few kinds.

    `keys` (g, n) numbers the tokens row by row, 0 for padding; `queries` (g, r) those of them that
    are tokens, `real` (r) their places in the window, `hollow` (n - r) the places of padding.
    """

    axes: tuple[AxisWindows, AxisWindows, AxisWindows]
    keys: Tensor
    queries: Tensor
    real: Tensor
    hollow: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many places that are tokens a window has along each axis."""
        i, j, k = (len(axis.real) for axis in self.axes)
        return i, j, k

    def parts(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`keys` and `queries` of `step` windows at a time."""
        return zip(self.keys.split(step), self.queries.split(step), strict=True)


@lru_cache(maxsize=64)
def kinds(
    size: Triple, request: Request, *, masked: bool, device: torch.device
) -> tuple[Kind, ...]:
    """All windows of a grid of this size; with `masked` no token attends to padding."""
    with torch.inference_mode(mode=False):
        i, j, k = (_axis(size, request, axis, masked=masked, device=device) for axis in range(3))
        return tuple(_kind(size, axes) for axes in product(i, j, k))


def _axis(
    size: Triple, request: Request, axis: int, *, masked: bool, device: torch.device
) -> list[AxisWindows]:
    extent, padded, shift = size[axis], request.padded(size)[axis], request.shift[axis]
    places = ((torch.arange(padded) + shift) % padded).view(-1, request.window[axis])
    apart = request.apart(size, axis, masked=masked, device=torch.device("cpu"))
    alike: dict[tuple[tuple[bool, bool], ...], list[int]] = {}
    for number, row in enumerate(places.tolist()):
        alike.setdefault(tuple((p < shift, p < extent) for p in row), []).append(number)
    found = []
    for numbers in alike.values():
        inside = places[numbers] < extent
        real = inside[0].nonzero().flatten()
        pairs = None if apart is None else apart[numbers[0], real]
        pairs = None if pairs is None or not pairs.any() else pairs.to(device)
        found.append(AxisWindows((places[numbers] * inside).to(device), real.to(device), pairs))
    return found


def _kind(size: Triple, axes: tuple[AxisWindows, AxisWindows, AxisWindows]) -> Kind:
    i, j, k = (
        axis.places.view(
            [len(axis.places) if n == a else 1 for n in range(3)]
            + [-1 if n == a else 1 for n in range(3)]
        )
        for a, axis in enumerate(axes)
    )
    keys = ((i * size[1] + j) * size[2] + k).flatten(3).flatten(0, 2)
    inside = torch.zeros([axis.places.shape[1] for axis in axes], dtype=torch.bool)
    i, j, k = (axis.real.cpu() for axis in axes)
    inside[i[:, None, None], j[:, None], k] = True
    inside = inside.flatten().to(keys.device)
    real, hollow = inside.nonzero().flatten(), inside.logical_not().nonzero().flatten()
    return Kind(axes, keys.masked_fill(~inside, 0), keys[:, real], real, hollow)
