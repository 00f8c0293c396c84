"""Position encoding that is read off a token's neighborhood, so it fits every size."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.drop_in import Conv3d


class DynamicPosition(nn.Module):
    """Adds a depthwise 3x3x3 convolution of the tokens to them (arXiv 2102.10882)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.convolution = Conv3d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Float[Tensor, "b i j k c"]) -> Float[Tensor, "b i j k c"]:
        """The tokens, which now know what surrounds them."""
        grid = rearrange(x, "b i j k c -> b c i j k")
        grid = grid.contiguous(memory_format=torch.channels_last_3d)
        return x + rearrange(self.convolution(grid), "b c i j k -> b i j k c")
