"""What an mLSTM cell is given, and which heads read it in which direction."""

from typing import Literal, NamedTuple

import torch
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


def alike(given: Given) -> Given:
    """Query, key and value alike in memory, their channels and the gates side by side."""
    query, key, value, *gates_ = given
    if query.stride(3) != 1 or not query.stride() == key.stride() == value.stride():
        query, key, value = (one.contiguous() for one in (query, key, value))
    return Given(query, key, value, *(one.contiguous() for one in gates_))


def room_for(like: Tensor, lanes: Lanes) -> Tensor:
    """Room for a gradient; where each head has two lanes, in float32 until they are added."""
    b, h, n, d = like.shape
    if sum(lanes) == h:
        return torch.empty_like(like)
    return like.new_empty((b, sum(lanes), n, d), dtype=torch.float32)


def as_given(like: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the type and place in memory of what it is of."""
    made = torch.empty_like(like)
    alike = made.dtype == gradient.dtype and made.stride() == gradient.stride()
    return gradient if alike else made.copy_(gradient)
