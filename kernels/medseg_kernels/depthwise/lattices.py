"""A depthwise convolution by torch's operations, on any device, that avoids two slow paths.

torch 2.15 has them on a CPU: a 3D depthwise convolution with dilation (8 to 15 times as long as the
same work without), and the gradient of its kernel (about 1 GFLOP/s). Here a dilated convolution
becomes one without: voxels that lie a dilation apart form lattices that never meet, so each is an
image of its own. The kernel's gradient becomes products of matrices.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def refuses(weight: Tensor, *, stride: int, transposed: bool) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if stride > 1 or transposed:
        return "it is for convolutions of step 1"
    if len(set(weight.shape[2:])) > 1:
        return f"its kernels are cubes, and here one is {tuple(weight.shape[2:])}"
    return None


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, dilation: int) -> Tensor:
    """Each channel convolved with its own kernel."""
    apart, device = _split(x, dilation), x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        apart, weight = (one.to(torch.get_autocast_dtype(device)) for one in (apart, weight))
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        convolved = _Convolution.apply(apart, weight)
    else:
        convolved = _convolve(apart, weight)
    whole = _join(convolved, dilation, x.shape)
    return whole if bias is None else whole + bias[:, None, None, None]


def _split(x: Tensor, dilation: int) -> Tensor:
    """Each lattice as an item of the batch, sides padded by zeros to the same length."""
    if dilation == 1:
        return x
    i, j, k = (-side % dilation for side in x.shape[2:])
    cells = functional.pad(x, (0, k, 0, j, 0, i))
    for axis in (2, 4, 6):
        cells = cells.unflatten(axis, (-1, dilation))
    return cells.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(0, 3)


def _join(x: Tensor, dilation: int, size: torch.Size) -> Tensor:
    if dilation == 1:
        return x
    cells = x.unflatten(0, (size[0], dilation, dilation, dilation))
    whole = cells.permute(0, 4, 5, 1, 6, 2, 7, 3)
    for axis in (2, 3, 4):
        whole = whole.flatten(axis, axis + 1)
    return whole[:, :, : size[2], : size[3], : size[4]]


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
    rows = of_output.transpose(0, 1).flatten(1, 3)
    found = []
    for i in range(side):
        for j in range(side):
            moved = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            product = moved.permute(1, 4, 0, 2, 3).flatten(2) @ rows
            found += [_diagonal(product, reach - k) for k in range(side)]
    return torch.stack(found, dim=1).view(-1, 1, side, side, side)


def _diagonal(product: Tensor, offset: int) -> Tensor:
    if abs(offset) >= product.shape[-1]:
        return product.new_zeros(len(product))
    return product.diagonal(offset, -2, -1).sum(-1)
