"""Mamba: a gated selective scan over tokens, in one order or in several.

Gu and Dao, arXiv 2312.00752; the three orders are SegMamba's (Xing et al., arXiv 2401.13560).
"""

import math
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.drop_in import Linear
from medseg.nn.kernels import Kernels
from medseg_kernels.selective_scan import selective_scan

Order = Literal["forward", "backward", "slices"]
KERNEL = 4
_LEAST_STEP, _SMALLEST, _LARGEST = 1e-4, 1e-3, 1e-1


class Mamba(nn.Module):
    """Tokens widened twice, scanned in each of `orders`, summed, gated and narrowed again.

    "backward" reads from the last token to the first; "slices" reads the first token of each slice,
    then the second of each, and so on.
    """

    def __init__(
        self,
        *,
        channels: int,
        states: int = 16,
        expansion: int = 2,
        orders: tuple[Order, ...] = ("forward",),
    ) -> None:
        super().__init__()
        inner = expansion * channels
        self.proj_in = Linear(channels, 2 * inner, bias=False)
        self.orders = orders
        self.scans = nn.ModuleList(
            Scan(channels=inner, states=states, rank=-(-channels // 16)) for _ in orders
        )
        self.proj_out = Linear(inner, channels, bias=False)

    def forward(self, x: Float[Tensor, "b n c"], *, slices: int = 1) -> Float[Tensor, "b n c"]:
        """The mixed tokens; `slices` (a divisor of n) is what the order "slices" goes by.

        Autocast is left, as the networks of its users do, who met NaN with half precision.
        """
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            return self._mixed(x.to(self.proj_in.weight.dtype), slices)

    def _mixed(self, x: Tensor, slices: int) -> Tensor:
        wide, gate = rearrange(self.proj_in(x), "b n c -> b c n").chunk(2, dim=1)
        found = [
            _undo(scan(_arrange(wide, order, slices)), order, slices)
            for order, scan in zip(self.orders, self.scans, strict=True)
        ]
        mixed = torch.stack(found).sum(0) if len(found) > 1 else found[0]
        return self.proj_out(rearrange(mixed * functional.silu(gate), "b c n -> b n c"))


class Scan(nn.Module):
    """A causal convolution, and the selective scan with coefficients from its result."""

    def __init__(self, *, channels: int, states: int, rank: int) -> None:
        super().__init__()
        self.kernels: Kernels = "fast"
        self.states, self.rank = states, rank
        self.conv = nn.Conv1d(channels, channels, KERNEL, groups=channels)
        self.coefficients = Linear(channels, rank + 2 * states, bias=False)
        self.step = Linear(rank, channels)
        self.log_decay = nn.Parameter(torch.arange(1, states + 1.0).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        self._initialize_steps()

    def _initialize_steps(self) -> None:
        """Steps between 0.001 and 0.1, evenly in their logarithm."""
        bound = self.rank**-0.5
        nn.init.uniform_(self.step.weight, -bound, bound)
        spread = torch.rand(len(self.step.bias)) * (math.log(_LARGEST) - math.log(_SMALLEST))
        steps = (spread + math.log(_SMALLEST)).exp().clamp(min=_LEAST_STEP)
        with torch.no_grad():
            # The inverse of softplus.
            self.step.bias.copy_(steps + (-(-steps).expm1()).log())

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """The scanned tokens, each of which has seen those before it."""
        x = functional.silu(self.conv(functional.pad(x, (KERNEL - 1, 0))))
        coefficients = self.coefficients(rearrange(x, "b c n -> b n c"))
        rank, write, read = coefficients.split((self.rank, self.states, self.states), dim=-1)
        step = functional.softplus(self.step(rank).float())
        return selective_scan(
            x,
            rearrange(step, "b n c -> b c n"),
            decay=-self.log_decay.float().exp(),
            write=rearrange(write, "b n s -> b s n"),
            read=rearrange(read, "b n s -> b s n"),
            skip=self.skip,
            backend=None if self.kernels == "fast" else "torch",
        )


def _arrange(tokens: Tensor, order: Order, slices: int) -> Tensor:
    if order == "backward":
        return tokens.flip(2)
    if order == "slices":
        return rearrange(tokens, "b c (s n) -> b c (n s)", s=slices)
    return tokens


def _undo(tokens: Tensor, order: Order, slices: int) -> Tensor:
    if order == "backward":
        return tokens.flip(2)
    if order == "slices":
        return rearrange(tokens, "b c (n s) -> b c (s n)", s=slices)
    return tokens
