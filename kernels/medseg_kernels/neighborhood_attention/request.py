"""What a call asks of a backend, apart from its tensors, and the rule at the borders."""

from dataclasses import dataclass

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Request:
    """Neighborhoods of `window` tokens that lie `dilation` apart; scores are times `scale`."""

    heads: int
    window: Triple
    dilation: Triple
    scale: float


def window_start(place: int, length: int, window: int) -> int:
    """The first of the `window` places, out of `length`, that the token at `place` attends to.

    The window is centered on the token (an even one reaches one further down than up) and pushed
    inward at both ends, so that it always has its full size.
    """
    return min(max(place - window // 2, 0), length - window)
