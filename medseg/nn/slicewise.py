"""A two-dimensional network on volumes, slice by slice."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Axis = Literal[0, 1, 2]


class SliceWise(nn.Module):
    """Gives each slice across `axis` (0 i, 1 j, 2 k) to `network` as an image of its own.

    The slices of all volumes form one batch; what the network returns, a tensor or a list of them,
    becomes volumes again. Coarser levels of a list are coarser within the slices only.
    """

    def __init__(self, network: nn.Module, *, axis: Axis) -> None:
        super().__init__()
        self.network = network
        self.axis = axis

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """What the network says of each slice, "b o i j k"."""
        slices = x.movedim(2 + self.axis, 1)
        found = self.network(slices.flatten(0, 1))
        if isinstance(found, Tensor):
            return self._joined(found, len(x))
        return [self._joined(level, len(x)) for level in found]

    def _joined(self, slices: Tensor, volumes: int) -> Tensor:
        return slices.unflatten(0, (volumes, -1)).movedim(1, 2 + self.axis)
