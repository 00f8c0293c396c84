"""Maps (b, c, i, j, k) whose channels lie side by side in memory."""

import torch
from torch import Tensor


def map_like(x: Tensor, channels: int) -> Tensor:
    """A map of the size of x, its numbers not set yet."""
    size = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def channels_last(x: Tensor) -> Tensor:
    """The same numbers, outside of autograd."""
    return x.detach().contiguous(memory_format=torch.channels_last_3d)
