"""From the gradient of the biases of all pairs of tokens to that of the position table."""

import math

from torch import Tensor
from torch.nn import functional

from medseg_kernels.window_attention.request import Request, Triple


def gradient(of_bias: Tensor, extents: Triple, request: Request) -> Tensor:
    """The gradient of a table (*extents, heads) from that of its biases (heads, n, n).

    An entry's pairs lie on a diagonal, along each axis of the window; diagonals are summed axis by
    axis, in a fixed order.
    """
    heads, n, _ = of_bias.shape
    nominal = tuple((extent + 1) // 2 for extent in extents)
    window = nominal if request.prefix else request.window
    missing = math.prod(window) - n
    sums = functional.pad(of_bias, (0, missing, 0, missing)).view(heads, *window, *window)
    for axes_left, side in zip((3, 2, 1), window, strict=True):
        # The query's axis stands first; the key's stands behind the others' of the query.
        sums = _diagonal_sums(sums.movedim((1, 1 + axes_left), (-2, -1)), side)
    margins = [(e - found) // 2 for e, found in zip(extents, sums.shape[1:], strict=True)]
    sums = functional.pad(sums, [margin for margin in reversed(margins) for _ in range(2)])
    return sums.permute(1, 2, 3, 0).contiguous()


def _diagonal_sums(pairs: Tensor, side: int) -> Tensor:
    """Sums (..., 2 side - 1) over pairs (..., query, key) of one offset query minus key each.

    Rows that are one longer, read as if they were not, are shifted by one against each other.
    """
    rows = functional.pad(pairs.flip(-1), (0, side)).flatten(-2)[..., :-side]
    return rows.unflatten(-1, (side, 2 * side - 1)).sum(-2)
