"""Blocks of nnU-Net's networks whose norm, sum and leaky ReLU are one pass over the map.

They are those of dynamic-network-architectures, layer by layer and name by name. There a leaky ReLU
is written over the norm's output, so that the norm keeps its input; here a map is normed, added to
and rectified at once, and what the next convolution keeps is all that the way back needs.
"""

from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.drop_in import InstanceNorm3d

Map = Float[Tensor, "b c i j k"]


class Unit(ConvDropoutNormReLU):
    """A convolution, perhaps dropout, instance norm and, perhaps, leaky ReLU."""

    def forward(self, x: Map) -> Map:
        """The map behind all of them."""
        last = self.all_modules[-1]
        if isinstance(last, nn.LeakyReLU):
            return self.normed(x, slope=last.negative_slope)
        return super().forward(x)

    def normed(self, x: Map, residual: Map | None = None, *, slope: float | None = None) -> Map:
        """leaky_relu(norm + residual), which nobody may write over."""
        for layer in self.all_modules:
            if isinstance(layer, InstanceNorm3d):
                return layer(x, residual, slope, overwrite=True)
            x = layer(x)
        raise AssertionError("a unit has a norm")


class ResidualBlock(BasicBlockD):
    """Two units, added to their input before the second one's leaky ReLU."""

    def forward(self, x: Map) -> Map:
        """The block's output."""
        assert isinstance(self.conv2, Unit)
        assert isinstance(self.nonlin2, nn.LeakyReLU)
        shortcut = x
        for layer in self.skip if isinstance(self.skip, nn.Sequential) else [self.skip]:
            shortcut = layer.normed(shortcut) if isinstance(layer, Unit) else layer(shortcut)
        hidden = self.conv1(x)
        return self.conv2.normed(hidden, shortcut, slope=self.nonlin2.negative_slope)


def fuse_blocks(network: nn.Module) -> None:
    """Make the blocks of `network` that can be one pass those of this module, in place.

    Its norms are those of `drop_in`.
    """
    for module in network.modules():
        if isinstance(module, ConvDropoutNormReLU) and _is_unit(module):
            module.__class__ = Unit
    for module in network.modules():
        if isinstance(module, BasicBlockD) and _is_plain(module):
            module.__class__ = ResidualBlock


def _is_unit(module: ConvDropoutNormReLU) -> bool:
    kinds = [type(layer) for layer in module.all_modules]
    return kinds[-1:] == [InstanceNorm3d] or kinds[-2:] == [InstanceNorm3d, nn.LeakyReLU]


def _is_plain(block: BasicBlockD) -> bool:
    return (
        isinstance(block.conv2, Unit)
        and isinstance(block.conv2.all_modules[-1], InstanceNorm3d)
        and isinstance(block.nonlin2, nn.LeakyReLU)
        and not block.apply_stochastic_depth
        and not block.apply_se
    )
