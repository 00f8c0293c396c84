"""A convolution of each channel by itself, with gaps in its kernel, that is fast on one core.

torch 2.15 has two slow paths on a CPU: a 3D depthwise convolution with dilation (8 to 15 times as
long as the same work without), and the gradient of its kernel (about 1 GFLOP/s). Here a dilated
convolution becomes one without: voxels that lie a dilation apart form lattices that never meet, so
each is an image of its own. The kernel's gradient becomes products of matrices.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Depthwise(nn.Module):
    """A depthwise convolution of an odd kernel `side`, of the same size, on images or volumes."""

    def __init__(self, *, channels: int, side: int, dilation: int = 1, dimensions: int = 3) -> None:
        super().__init__()
        self.dilation = dilation
        made = (nn.Conv3d if dimensions == 3 else nn.Conv2d)(
            channels, channels, side, groups=channels
        )
        assert made.bias is not None
        self.weight, self.bias = made.weight, made.bias

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """The convolved map."""
        if x.ndim == 4:
            padding = self.weight.shape[-1] // 2 * self.dilation
            return functional.conv2d(
                x, self.weight, self.bias, 1, padding, self.dilation, groups=len(self.weight)
            )
        apart = _split(x, self.dilation)
        weight = self.weight
        device = x.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            apart, weight = (one.to(torch.get_autocast_dtype(device)) for one in (apart, weight))
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            convolved = _Convolution.apply(apart, weight)
        else:
            convolved = _convolve(apart, weight)
        whole = _join(convolved, self.dilation, (x.shape[2], x.shape[3], x.shape[4]))
        return whole + self.bias[:, None, None, None]


def _split(x: Tensor, dilation: int) -> Tensor:
    """Each lattice as an item of the batch, sides padded by zeros to the same length."""
    if dilation == 1:
        return x
    i, j, k = (-side % dilation for side in x.shape[2:])
    padded = functional.pad(x, (0, k, 0, j, 0, i))
    return rearrange(
        padded,
        "b c (i p) (j q) (k r) -> (b p q r) c i j k",
        p=dilation,
        q=dilation,
        r=dilation,
    )


def _join(x: Tensor, dilation: int, size: tuple[int, int, int]) -> Tensor:
    if dilation == 1:
        return x
    whole = rearrange(
        x,
        "(b p q r) c i j k -> b c (i p) (j q) (k r)",
        p=dilation,
        q=dilation,
        r=dilation,
    )
    return whole[:, :, : size[0], : size[1], : size[2]]


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv3d(x, weight, padding=weight.shape[-1] // 2, groups=len(weight))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        of_output = gradients[0]
        of_input = _convolve(of_output, weight.flip(2, 3, 4))
        return of_input, _of_kernel(x, of_output, weight.shape[-1])


def _of_kernel(x: Tensor, of_output: Tensor, side: int) -> Tensor:
    """The gradient of the kernel: for each offset along i and j, a product over all rows along k.

    The product of position a of the input with position b of the output's gradient belongs to the
    kernel's entry a - b, so each diagonal of it is summed.
    """
    reach = side // 2
    padded = functional.pad(x, (0, 0, reach, reach, reach, reach))
    rows = rearrange(of_output, "b c i j k -> c (b i j) k")
    found = []
    for i in range(side):
        for j in range(side):
            moved = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            product = rearrange(moved, "b c i j k -> c k (b i j)") @ rows
            found += [_diagonal(product, reach - k) for k in range(side)]
    return torch.stack(found, dim=1).view(-1, 1, side, side, side)


def _diagonal(product: Tensor, offset: int) -> Tensor:
    if abs(offset) >= product.shape[-1]:
        return product.new_zeros(len(product))
    return product.diagonal(offset, -2, -1).sum(-1)
