"""A loss over the outputs of several resolutions (deep supervision)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn


class DeepSupervisionLoss(nn.Module):
    """`loss` over each output against the target at its size, full resolution first.

    Weights halve with each level, the lowest of three or more counts nothing, and they sum to
    one: nnU-Net's rule. A single tensor is passed to `loss` as it is.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Float[Tensor, ""]:
        """The weighted sum over the levels."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, target)
        weights = level_weights(len(outputs))
        # The level of weight 0 is computed too: its head then has a gradient (of zeros), without
        # which distributed training waits for it and stops.
        terms = [
            weight * self.loss(output, at_size(target, output.shape[2:]))
            for weight, output in zip(weights, outputs, strict=True)
        ]
        return torch.stack(terms).sum()


def level_weights(levels: int) -> tuple[float, ...]:
    """Weights 1, 1/2, 1/4, ... with the lowest of three or more at 0, summing to one."""
    weights = [0.5**level for level in range(levels)]
    if levels > 2:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


def at_size(
    target: Integer[Tensor, "b t i j k"], size: Sequence[int]
) -> Integer[Tensor, "b t i2 j2 k2"]:
    """The target on a coarser grid: of each new voxel the old one at its center."""
    for axis, length in enumerate(size, start=2):
        old = target.shape[axis]
        if length != old:
            # floor((n + 1/2) * old / length), in whole numbers
            places = (2 * torch.arange(length, device=target.device) + 1) * old // (2 * length)
            target = target.index_select(axis, places)
    return target
