"""A network whose convolutions multiply eight-bit integers, for prediction on a CPU."""

from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.convolution import Convolution
from medseg.nn.copies import copied
from medseg_kernels.int8_convolution import Int8Weight, int8_convolution, int8_weight
from medseg_kernels.int8_convolution import refuses as refuses_map

# Fewer channels are little work, and the first layer, which sees the image, is best left alone.
LEAST_CHANNELS = 8


class Int8Convolution(nn.Module):
    """A convolution's result in float32, its weight kept in eight bits.

    The map is rounded to eight bits too, each item by its own largest value, so that nothing has
    to be learned from data first.
    """

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv3d | Convolution) -> None:
        super().__init__()
        plain = isinstance(convolution, nn.Conv3d)
        self.stride = _triple(convolution.stride) if plain else (1, 1, 1)
        self.padding = _triple(convolution.padding) if plain else (1, 1, 1)
        rounded = int8_weight(convolution.weight)
        self.register_buffer("values", rounded.values)
        self.register_buffer("scale", rounded.scale)
        bias = convolution.bias if plain else None
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """The convolved map."""
        weight = Int8Weight(self.values, self.scale)
        return int8_convolution(x, weight, self.bias, stride=self.stride, padding=self.padding)


def in_int8(network: nn.Module) -> nn.Module:
    """`network` with its larger convolutions in eight bits; other tensors are shared."""
    made = copied(network)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if _gains(child):
                setattr(module, name, Int8Convolution(child))
    return made


def refuses(device: torch.device) -> str | None:
    """Why a network on `device` cannot be had in eight bits, or None."""
    return refuses_map(torch.zeros((1, 1, 1, 1, 1), device=device))


def _gains(module: nn.Module) -> TypeGuard[nn.Conv3d | Convolution]:
    """Whether it is a convolution over neighbors, and worth rounding a map for."""
    if isinstance(module, Convolution):
        return module.weight.shape[1] >= LEAST_CHANNELS
    if not isinstance(module, nn.Conv3d) or isinstance(module.padding, str):
        return False
    usual = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    return usual and max(module.kernel_size) > 1 and module.in_channels >= LEAST_CHANNELS


def _triple(numbers: tuple[int, ...] | str) -> tuple[int, int, int]:
    assert not isinstance(numbers, str)
    i, j, k = numbers
    return i, j, k
