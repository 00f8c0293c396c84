"""Blocks of MONAI's MedNeXt whose GELU is part of the layer behind it.

GELU of the widest map of a block is then never held.
"""

from jaxtyping import Float
from monai.networks.blocks.mednext_block import MedNeXtBlock
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.drop_in import Conv3d
from medseg_kernels.linear import linear


class ActivatedConv3d(Conv3d):
    """A convolution of side 1 of what GELU makes of a map."""

    def forward(self, input: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i j k"]:  # noqa: A002
        """The convolved map."""
        if self.kernels == "fast" and input.device.type == "cpu":
            voxels = input.movedim(1, -1)
            return linear(voxels, self.weight.flatten(1), self.bias, gelu=True).movedim(-1, 1)
        return super().forward(functional.gelu(input))


def fuse_blocks(network: nn.Module) -> None:
    """Make the last layers of the blocks of `network` those of this module, in place.

    Its other layers are those of `drop_in`.
    """
    for block in network.modules():
        if not isinstance(block, MedNeXtBlock) or block.global_resp_norm:
            continue
        last: nn.Module = block.conv3
        if isinstance(last, Conv3d):
            last.__class__ = ActivatedConv3d
            block.add_module("act", nn.Identity())
