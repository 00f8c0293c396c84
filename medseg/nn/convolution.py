"""Convolutions that keep a map channels last in memory and are fast on one core.

The weights have the shapes and the initialization of torch's modules, so checkpoints fit. What
torch 2.15 does on a CPU (measured at 96^3 voxels, one thread): a 1x1x1 convolution takes seven
times as long as the same product of matrices, and a convolution of a single channel comes out
channels first, which the next layers pay for.
"""

import math
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.kernels import Kernels
from medseg.nn.small_maps import convolved
from medseg_kernels.convolution import chosen, convolution
from medseg_kernels.linear import linear


class Convolution(nn.Module):
    """A 3x3x3 convolution of step 1 without bias, of the same size."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.kernels: Kernels = "fast"
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3, 3))
        _initialize(self.weight, None)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i j k"]:
        """The convolved map."""
        weight = self.weight
        if self.kernels == "fast" and chosen(x, weight) != "torch":
            return convolution(x, weight)
        if x.shape[1] == 1:
            # A second channel of zeros, or the result does not lie channels last.
            x, weight = (functional.pad(t, (0, 0, 0, 0, 0, 0, 0, 1)) for t in (x, weight))
            x = x.contiguous(memory_format=torch.channels_last_3d)
        if _is_small(x):
            return _convolve_halves(x, weight)
        return convolved(partial(functional.conv3d, padding=1), x, weight)


def _is_small(x: Tensor) -> bool:
    """Whether torch would leave oneDNN for its own convolution, several times slower.

    It does so on a CPU for one item with at most 20480 elements on its first four axes. A graph
    that is traced shall not depend on it.
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and len(x) == 1 < x.shape[2] and x.shape[:4].numel() <= 20480


def _convolve_halves(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of one item as that of two, its halves along i with the rows they share."""
    half = (x.shape[2] + 1) // 2
    padded = functional.pad(x, (0, 0, 0, 0, 1, 1))
    halves = torch.cat([padded[:, :, : half + 2], padded[:, :, -half - 2 :]])
    flat = partial(functional.conv3d, padding=(0, 1, 1))
    first, last = convolved(flat, halves, weight).split(1)
    return torch.cat([first, last[:, :, 2 * half - x.shape[2] :]], dim=2)


class Pointwise(nn.Module):
    """A 1x1x1 convolution."""

    def __init__(self, *, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__()
        self.kernels: Kernels = "fast"
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        _initialize(self.weight, self.bias)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i j k"]:
        """Every voxel's channels mixed."""
        voxels = rearrange(x, "b c i j k -> b i j k c")
        backend = None if self.kernels == "fast" else "torch"
        mixed = linear(voxels, self.weight.flatten(1), self.bias, backend=backend)
        return rearrange(mixed, "b i j k d -> b d i j k")


class PatchEmbedding(nn.Module):
    """A convolution of kernel 2 and step 2: patches of 2x2x2 voxels become tokens."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 2, 2, 2))
        self.bias = nn.Parameter(torch.empty(out_channels))
        _initialize(self.weight, self.bias)

    def forward(self, x: Float[Tensor, "b c 2*i 2*j 2*k"]) -> Float[Tensor, "b d i j k"]:
        """The map at half the resolution."""
        patches = rearrange(x, "b c (i p) (j q) (k r) -> b i j k (c p q r)", p=2, q=2, r=2)
        tokens = functional.linear(patches, self.weight.flatten(1), self.bias)
        return rearrange(tokens, "b i j k d -> b d i j k")


def _initialize(weight: Tensor, bias: Tensor | None) -> None:
    """What `nn.Conv3d` does: uniform, within 1 / sqrt(inputs of one output)."""
    bound = 1 / math.sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)
