"""What an mLSTM cell is given, and which heads read it in which direction."""

from typing import Literal, NamedTuple

from torch import Tensor

Direction = Literal["forward", "backward", "halves", "both"]


class Given(NamedTuple):
    """The tensors as `mlstm` is called with them."""

    query: Tensor  # (b, h, n, d)
    key: Tensor  # (b, h, n, d)
    value: Tensor  # (b, h, n, d)
    input_gate: Tensor  # (b, h, n)
    forget_gate: Tensor  # (b, h, n)

    def heads(self, lanes: "Lanes", *, backward: bool) -> "Given":
        """The heads that read in this direction."""
        first = self.query.shape[1] - lanes.back if backward else 0
        last = self.query.shape[1] if backward else lanes.ahead
        return Given(*(one[:, first:last] for one in self))


class Lanes(NamedTuple):
    """The first `ahead` heads read forward, the last `back` heads backward; a head may do both.

    Results are (b, lane, ...), the forward lanes first.
    """

    ahead: int
    back: int


def lanes_of(direction: Direction, heads: int) -> Lanes:
    """The lanes of `heads` heads."""
    return {
        "forward": Lanes(heads, 0),
        "backward": Lanes(0, heads),
        "halves": Lanes(heads - heads // 2, heads // 2),
        "both": Lanes(heads, heads),
    }[direction]


def of_heads(read: Tensor, heads: int) -> Tensor:
    """What the heads read (b, h, n, d): the sum of two lanes where each does both."""
    return read if read.shape[1] == heads else read[:, :heads] + read[:, heads:]
