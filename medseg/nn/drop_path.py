"""Stochastic depth: a residual branch is left out for some items of the batch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zeroes whole items with probability `rate` in training; the others grow to keep the mean.

    Randomness is torch's global generator (Huang et al., arXiv 1603.09382).
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The branch, or zeros, for each item."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.full((len(x), *[1] * (x.ndim - 1)), 1 - self.rate, device=x.device)
        return x * (torch.bernoulli(kept) / kept.clamp(min=1e-6)).to(x.dtype)
