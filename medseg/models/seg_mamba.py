"""SegMamba: a pyramid of Mamba layers in three orders, with a convolutional decoder.

Xing et al., arXiv 2401.13560. Written after the paper and the shapes of the authors' network
(`checkpoints/seg_mamba.py` reads its weights). What differs: the order "between slices" goes by
the slices of the map, along i, for any size of input. The authors' code goes by 64, 32, 16 and 8
slices, which is the same for 128x128x128 voxels alone; `faithful=True` does so too. Both add the
two convolutional paths of a stage, as the code does, where the paper multiplies them.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.models.seg_mamba_sizes import THEIR_SLICES, shape_policy
from medseg.nn.convolution import PatchEmbedding, Pointwise
from medseg.nn.drop_in import Conv3d
from medseg.nn.mamba import Mamba
from medseg.nn.residual import ResidualBlock, UpBlock

Mixing = Literal["learned", "identity"]


class SegMamba(nn.Module):
    """Logits at full resolution.

    `feature_size` is the width of the map at half the resolution, doubled at each of the four
    stages; `depths` counts the Mamba layers of each. `mixing="identity"` leaves Mamba out.

    Raises:
        InputFault: in `forward`, a size the network cannot take (E_SHAPE).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        feature_size: int = 48,
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        states: int = 16,
        mixing: Mixing = "learned",
        faithful: bool = False,
    ) -> None:
        super().__init__()
        self.shape_policy = shape_policy(faithful=faithful)
        f = feature_size
        widths = (f, 2 * f, 4 * f, 8 * f)
        self.stages = nn.ModuleList(
            Stage(
                down=_down(number, in_channels=in_channels, widths=widths),
                channels=channels,
                layers=[
                    MambaLayer(
                        channels=channels,
                        states=states,
                        learns=mixing == "learned",
                        slices=THEIR_SLICES[number] if faithful else None,
                    )
                    for _ in range(depths[number])
                ],
            )
            for number, channels in enumerate(widths)
        )
        self.stem = ResidualBlock(in_channels=in_channels, out_channels=f)
        self.skips = nn.ModuleList(ResidualBlock(in_channels=c, out_channels=2 * c) for c in widths)
        self.ups = nn.ModuleList(
            UpBlock(in_channels=c, out_channels=d)
            for c, d in ((16 * f, 8 * f), (8 * f, 4 * f), (4 * f, 2 * f), (2 * f, f))
        )
        self.last = ResidualBlock(in_channels=f, out_channels=f)
        self.head = Pointwise(in_channels=f, out_channels=out_channels, bias=True)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i j k"]:
        """Logits of the size of the input."""
        self.shape_policy.require(tuple(x.shape[2:]), "SegMamba")
        x = x.contiguous(memory_format=torch.channels_last_3d)
        maps = [self.stem(x)]
        for stage, skip in zip(self.stages, self.skips, strict=True):
            x, seen = stage(x)
            maps.append(skip(seen))
        x = maps.pop()
        for up in self.ups:
            x = up(x, maps.pop())
        return self.head(self.last(x))


class Stage(nn.Module):
    """Half the resolution, convolutions, and Mamba layers."""

    def __init__(self, *, down: nn.Module, channels: int, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.down = down
        self.gate = GatedConvolution(channels=channels)
        self.layers = nn.Sequential(*layers)
        self.expand = Pointwise(in_channels=channels, out_channels=2 * channels, bias=True)
        self.contract = Pointwise(in_channels=2 * channels, out_channels=channels, bias=True)

    def forward(
        self, x: Float[Tensor, "b c i j k"]
    ) -> tuple[Float[Tensor, "b d i2 j2 k2"], Float[Tensor, "b d i2 j2 k2"]]:
        """The coarser map for the next stage; and for the decoder, normalized and mixed."""
        x = self.layers(self.gate(self.down(x)))
        hidden = functional.gelu(self.expand(functional.instance_norm(x)))
        return x, self.contract(hidden)


class GatedConvolution(nn.Module):
    """A wide and a pointwise path, added, mixed and added to the input (equation 2)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.wide1 = Conv3d(channels, channels, 3, padding=1)
        self.wide2 = Conv3d(channels, channels, 3, padding=1)
        self.narrow = Pointwise(in_channels=channels, out_channels=channels, bias=True)
        self.mix = Pointwise(in_channels=channels, out_channels=channels, bias=True)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b c i j k"]:
        """The map with what its neighborhood tells."""
        wide = _normalized(self.wide2(_normalized(self.wide1(x))))
        return x + _normalized(self.mix(wide + _normalized(self.narrow(x))))


class MambaLayer(nn.Module):
    """Voxels in three orders: forward, backward, and between slices; added to the input."""

    def __init__(self, *, channels: int, states: int, learns: bool, slices: int | None) -> None:
        super().__init__()
        self.slices = slices
        self.norm = nn.LayerNorm(channels)
        orders = ("forward", "backward", "slices")
        self.mamba = (
            Mamba(channels=channels, states=states, orders=orders) if learns else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b c i j k"]:
        """The mixed map."""
        tokens = self.norm(rearrange(x, "b c i j k -> b (i j k) c"))
        if isinstance(self.mamba, Mamba):
            tokens = self.mamba(tokens, slices=self.slices or x.shape[2])
        _, _, i, j, k = x.shape
        return x + rearrange(tokens, "b (i j k) c -> b c i j k", i=i, j=j, k=k)


class NormedEmbedding(nn.Module):
    """Instance norm, then a convolution of kernel 2 and step 2."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.embed = PatchEmbedding(in_channels=in_channels, out_channels=out_channels)

    def forward(self, x: Float[Tensor, "b c 2*i 2*j 2*k"]) -> Float[Tensor, "b d i j k"]:
        """The map at half the resolution."""
        return self.embed(functional.instance_norm(x))


def _down(number: int, *, in_channels: int, widths: Sequence[int]) -> nn.Module:
    if number == 0:
        return Conv3d(in_channels, widths[0], 7, stride=2, padding=3)
    return NormedEmbedding(in_channels=widths[number - 1], out_channels=widths[number])


def _normalized(x: Tensor) -> Tensor:
    return functional.relu(functional.instance_norm(x))
