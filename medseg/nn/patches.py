"""Convolutions whose kernel is their step: patches that become tokens, and tokens patches.

Written as products of matrices. torch 2.15's own, with an even step of four or more and few
channels, are wrong in bfloat16 on a CPU with AMX: the forward pass of the one, the backward pass of
the other. The weights have the shapes and the initialization of torch's modules.
"""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Dimensions = Literal[2, 3]
_TO_PATCHES = {
    2: "b c (i p) (j q) -> b i j (c p q)",
    3: "b c (i p) (j q) (k r) -> b i j k (c p q r)",
}
_FROM_PATCHES = {
    2: "b i j (c p q) -> b c (i p) (j q)",
    3: "b i j k (c p q r) -> b c (i p) (j q) (k r)",
}


class Patches(nn.Module):
    """Each patch of `side` pixels or voxels an axis becomes one token: a strided convolution."""

    def __init__(
        self, *, in_channels: int, out_channels: int, side: int, dimensions: Dimensions
    ) -> None:
        super().__init__()
        made = (nn.Conv3d if dimensions == 3 else nn.Conv2d)(in_channels, out_channels, side, side)
        assert made.bias is not None
        self.weight, self.bias = made.weight, made.bias
        self.sides = dict.fromkeys("pqr"[:dimensions], side)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b d ..."]:
        """The coarser map."""
        patches = rearrange(x, _TO_PATCHES[len(self.sides)], **self.sides)
        return nn.functional.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


class Unpatches(nn.Module):
    """Each token becomes a patch of `side` pixels or voxels an axis: a transposed convolution."""

    def __init__(
        self, *, in_channels: int, out_channels: int, side: int, dimensions: Dimensions
    ) -> None:
        super().__init__()
        kind = nn.ConvTranspose3d if dimensions == 3 else nn.ConvTranspose2d
        made = kind(in_channels, out_channels, side, side)
        assert made.bias is not None
        self.weight, self.bias = made.weight, made.bias
        self.sides = dict.fromkeys("pqr"[:dimensions], side)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b d ..."]:
        """The finer map."""
        patches = nn.functional.linear(x.movedim(1, -1), self.weight.flatten(1).T)
        finer = rearrange(patches, _FROM_PATCHES[len(self.sides)], **self.sides)
        return finer + self.bias[(..., *(None for _ in self.sides))]
