"""The convolutional blocks of UNETR, shared by the networks that borrowed its decoder."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.convolution import Convolution, Pointwise
from medseg.nn.drop_in import ConvTranspose3d
from medseg.nn.kernels import Kernels
from medseg_kernels.instance_norm import instance_norm

_SLOPE = 0.01


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with instance norm and leaky ReLU, added to their input.

    Where the number of channels changes, the input goes through a 1x1x1 convolution and a norm of
    its own (UNETR, arXiv 2103.10504; the block of nnU-Net's residual encoder).
    """

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.kernels: Kernels = "fast"
        self.conv1 = Convolution(in_channels=in_channels, out_channels=out_channels)
        self.conv2 = Convolution(in_channels=out_channels, out_channels=out_channels)
        same = in_channels == out_channels
        self.conv3 = (
            None
            if same
            else Pointwise(in_channels=in_channels, out_channels=out_channels, bias=False)
        )

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i j k"]:
        """The block's output, of the same spatial size."""
        norm = partial(instance_norm, backend="reference" if self.kernels == "reference" else None)
        shortcut = x if self.conv3 is None else norm(self.conv3(x))
        hidden = norm(self.conv1(x), slope=_SLOPE, overwrite=True)
        return norm(self.conv2(hidden), residual=shortcut, slope=_SLOPE, overwrite=True)


class UpBlock(nn.Module):
    """Doubles the resolution, puts the skip connection beside it, and mixes the two."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = ConvTranspose3d(in_channels, out_channels, 2, stride=2, bias=False)
        self.mix = ResidualBlock(in_channels=2 * out_channels, out_channels=out_channels)

    def forward(
        self, x: Float[Tensor, "b c i j k"], skip: Float[Tensor, "b d 2*i 2*j 2*k"]
    ) -> Float[Tensor, "b d 2*i 2*j 2*k"]:
        """The decoder's map at the resolution of `skip`."""
        finer = self.up(x).contiguous(memory_format=torch.channels_last_3d)
        return self.mix(torch.cat([finer, skip], dim=1))
