"""What a network costs: its parameters, and the multiply-adds of one forward pass."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.nn.kernels import choose_kernels

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds of convolutions and matrix products.

    The papers call these multiply-adds FLOPs; a counter that counts additions apart finds twice as
    many.
    """

    parameters: int
    macs: int

    @property
    def gmacs(self) -> float:
        """10^9 multiply-adds."""
        return self.macs / 1e9


def cost(model: nn.Module, *, in_channels: int, patch_size: Triple) -> Cost:
    """The cost of `model` for one patch, counted on the meta device: nothing is computed.

    Counted are torch's own operations; the fused kernels do the same work with less padding.
    """
    unreal = copy.deepcopy(model).to("meta").eval()
    choose_kernels(unreal, "reference")
    patch = torch.empty(1, in_channels, *patch_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unreal(patch)
    return Cost(
        parameters=sum(weight.numel() for weight in model.parameters()),
        macs=counter.get_total_flops() // 2,
    )
