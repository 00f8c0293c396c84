"""From the gradient of the biases of all pairs of tokens to that of the position table."""

from torch import Tensor
from torch.nn import functional

from medseg_kernels.window_attention.request import Request, Triple


def gradient(of_bias: Tensor, extents: Triple, request: Request) -> Tensor:
    """The gradient of a table (*extents, heads) from that of its biases (heads, n, n).

    The pairs of an entry lie apart alike; they are summed axis by axis, in a fixed order.
    """
    heads, n, _ = of_bias.shape
    window = request.numbering(extents)
    rest = window[0] * window[1] * window[2]
    sums = functional.pad(of_bias, (0, rest - n, 0, rest - n))
    for side in window:
        rest //= side
        sums = _offset_sums(sums.reshape(-1, side, rest, side, rest))
    return within(sums.view(heads, *(2 * side - 1 for side in window)), extents)


def within(sums: Tensor, extents: Triple) -> Tensor:
    """A table (*extents, heads) that holds `sums` (heads, i, j, k) in its middle."""
    margins = [(e - found) // 2 for e, found in zip(extents, sums.shape[1:], strict=True)]
    table = functional.pad(sums, [margin for margin in reversed(margins) for _ in range(2)])
    return table.permute(1, 2, 3, 0).contiguous()


def _offset_sums(pairs: Tensor) -> Tensor:
    """Sums (a, 2 side - 1, m, m) over pairs (a, side, m, side, m) of the same query minus key."""
    count, side, rest = pairs.shape[:3]
    by_key_minus_query = pairs.new_zeros((count, 2 * side - 1, rest, rest))
    for query in range(side):
        first = side - 1 - query
        by_key_minus_query[:, first : first + side] += pairs[:, query].transpose(1, 2)
    return by_key_minus_query.flip(1)
