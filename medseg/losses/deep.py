"""A loss over the outputs of several resolutions (deep supervision)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


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
            weight * self.loss(output, _at_size(target, output.shape[2:]))
            for weight, output in zip(weights, outputs, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def level_weights(levels: int) -> tuple[float, ...]:
    """Weights 1, 1/2, 1/4, ... with the lowest of three or more at 0, summing to one."""
    weights = [0.5**level for level in range(levels)]
    if levels > 2:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


def _at_size(target: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(target.shape[2:]) == tuple(size):
        return target
    resized = functional.interpolate(target.float(), size=tuple(size), mode="nearest-exact")
    return resized.to(target.dtype)
