"""What a call asks of a backend, apart from its tensors."""

import math
from dataclasses import dataclass

from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Request:
    """The groups of a token grid, and how the position table is read.

    An axis is cut into blocks of window times dilation tokens; in a block, tokens that lie
    `dilation` apart form a group. Before that the grid is padded at its far end to whole blocks
    and rolled by minus `shift`.
    """

    heads: int
    window: Triple
    shift: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    prefix: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens a group has."""
        return math.prod(self.window)

    def groups(self, size: tuple[int, ...]) -> int:
        """How many groups a grid of this size has."""
        return math.prod(p // w for p, w in zip(self.padded(size), self.window, strict=True))

    def padded(self, size: tuple[int, ...]) -> Triple:
        """The size of the grid in whole blocks."""
        blocks = [w * d for w, d in zip(self.window, self.dilation, strict=True)]
        i, j, k = (-(-s // b) * b for s, b in zip(size, blocks, strict=True))
        return i, j, k

    def extents(self, table: Tensor | None) -> Triple:
        """Those of the position table, or of one for this window."""
        if table is not None:
            return table.shape[0], table.shape[1], table.shape[2]
        i, j, k = (2 * w - 1 for w in self.window)
        return i, j, k

    def numbering(self, extents: Triple) -> Triple:
        """The window whose tokens' numbers say which entry of a table of `extents` a pair reads."""
        if not self.prefix:
            return self.window
        i, j, k = ((extent + 1) // 2 for extent in extents)
        return i, j, k
