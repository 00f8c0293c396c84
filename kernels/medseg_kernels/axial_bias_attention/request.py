"""What a call asks of a backend, apart from its tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Request:
    """Windows of a grid of three axes; a grid of two has a first axis of one token.

    The grid is padded at its far ends to whole windows and rolled by minus `shift`. The tables of
    the three axes lie one below the other, 2 w - 1 rows each.
    """

    heads: int
    window: Triple
    shift: Triple

    def counts(self, size: tuple[int, ...]) -> Triple:
        """How many windows a grid of this size has along each axis."""
        i, j, k = (-(-s // w) for s, w in zip(size, self.window, strict=True))
        return i, j, k

    def padded(self, size: tuple[int, ...]) -> Triple:
        """The size of the grid in whole windows."""
        i, j, k = (n * w for n, w in zip(self.counts(size), self.window, strict=True))
        return i, j, k

    def split(self, tables: Tensor) -> tuple[Tensor, ...]:
        """The table (2 w - 1, e) of each axis."""
        return tables.split([2 * w - 1 for w in self.window])

    def apart(
        self, size: tuple[int, ...], axis: int, *, masked: bool, device: torch.device
    ) -> Tensor | None:
        """The places (windows, w, w) that an axis keeps from attending to each other, if any.

        A roll brings tokens from the far ends of the grid into one window: they stay apart. With
        `masked` padding stays apart from tokens. Two tokens attend if no axis keeps them apart.
        """
        extent, padded, shift = size[axis], self.padded(size)[axis], self.shift[axis]
        if shift == 0 and (padded == extent or not masked):
            return None
        place = (torch.arange(padded, device=device) + shift) % padded
        label = (place < shift).long() + 2 * (place >= extent) * masked
        label = label.view(-1, self.window[axis])
        return label[:, :, None] != label[:, None, :]


def offsets(window: int, device: torch.device) -> Tensor:
    """The row (w, w) of an axis's table for a query and a key at two places of a window."""
    place = torch.arange(window, device=device)
    return place[:, None] - place + window - 1
