"""Soft Dice from three sums: of the overlap, of the prediction and of the truth."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def dice_loss(
    overlap: Float[Tensor, "b c"],
    predicted: Float[Tensor, "b c"],
    true: Float[Tensor, "b c"],
    *,
    over_batch: bool,
    smooth: float,
) -> Float[Tensor, ""]:
    """One less the mean of (2 overlap + smooth) / (predicted + true + smooth).

    With `over_batch` the sums are taken over the batch first, and over the batches of all
    processes where there are several: two processes then train like one with both their batches.
    """
    sums = torch.stack([overlap, predicted, true])
    if over_batch:
        sums = sums.sum(dim=1, keepdim=True)
        if distributed.is_available() and distributed.is_initialized():
            sums = _SumOverProcesses.apply(sums)
    overlap, predicted, true = sums
    return 1.0 - ((2.0 * overlap + smooth) / (predicted + true + smooth)).mean()


class _SumOverProcesses(torch.autograd.Function):
    """The sum over processes; each passes its gradient on to all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total
