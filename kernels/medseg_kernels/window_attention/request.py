"""What a call asks of a backend, apart from its tensors."""

from dataclasses import dataclass

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

    def padded(self, size: tuple[int, ...]) -> Triple:
        """The size of the grid in whole blocks."""
        blocks = [w * d for w, d in zip(self.window, self.dilation, strict=True)]
        i, j, k = (-(-s // b) * b for s, b in zip(size, blocks, strict=True))
        return i, j, k
