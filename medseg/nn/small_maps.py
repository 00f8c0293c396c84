"""Convolutions of maps that are smaller than the kernel, in bfloat16 on a CPU.

oneDNN's gradient of their weight is wrong: it reads memory that nobody wrote, or writes to some
that is not its own (torch 2.14, a CPU with bfloat16 among its AVX-512 instructions). Such maps are
tiny, so while gradients are kept they are convolved in float32.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """torch's, whose gradients are right on small maps too."""

    def forward(self, input: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:  # noqa: A002
        """The convolved map."""
        return convolved(self._conv_forward, input, self.weight, self.bias)


def convolved(
    convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Float[Tensor, "b c i j k"],
    weight: Float[Tensor, "d c2 p q r"],
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "b d i2 j2 k2"]:
    """convolve(x, weight, bias), in float32 where its gradients would be wrong."""
    if not _goes_wrong(x, weight):
        return convolve(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        exact = convolve(x.float(), weight.float(), None if bias is None else bias.float())
    return exact.to(torch.bfloat16)


def guard(network: nn.Module) -> None:
    """Make torch's own convolutions of `network` those of this module, in place."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d


def _goes_wrong(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    mixed = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not mixed and x.dtype != torch.bfloat16:
        return False
    return any(side < of for side, of in zip(x.shape[2:], weight.shape[2:], strict=True))
