"""Tokens that become finer: the inverse of patch merging."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.drop_in import Linear

_PATTERNS = {
    2: "b i j (p q) d -> b (i p) (j q) d",
    3: "b i j k (p q r) d -> b (i p) (j q) (k r) d",
}


class PatchExpand(nn.Module):
    """Each token becomes a cell of `factors` finer tokens, normed over their channels.

    The cell is given flat, so that what follows can work on it before `unfold_cells` moves it to
    its place: that is cheaper the fewer channels are left by then.
    """

    def __init__(self, *, in_channels: int, out_channels: int, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors
        self.expand = Linear(in_channels, math.prod(factors) * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Float[Tensor, "b ... c"]) -> Float[Tensor, "b ... n d"]:
        """The n finer tokens of each token, the last axis of the grid fastest."""
        return self.norm(self.cells(x))

    def cells(self, x: Float[Tensor, "b ... c"]) -> Float[Tensor, "b ... n d"]:
        """The finer tokens before their norm, for a layer that norms what it reads."""
        return self.expand(x).unflatten(-1, (math.prod(self.factors), -1))


def unfold_cells(
    cells: Float[Tensor, "b ... n d"], factors: tuple[int, ...]
) -> Float[Tensor, "b ... d"]:
    """The grid, of two or three axes, that cells of `factors` tokens make."""
    sides = dict(zip("pqr", factors, strict=False))
    return rearrange(cells, _PATTERNS[len(factors)], **sides)
