"""The running average of a network's weights over the steps of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential average of all weights and buffers; it often is better than the last of them.

    After step t the average keeps a share min(decay, (1 + t) / (10 + t)) of itself, so that the
    first weights are soon forgotten (Polyak and Juditsky 1992; the form is that of TensorFlow's
    ExponentialMovingAverage). It is kept in float32 at least, for a step of it is far below what
    bfloat16 tells apart; and where the weights are, which a checkpoint's are not.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float) -> None:
        self._decay = decay
        self._average = {name: _wide(value.detach()).clone() for name, value in weights.items()}

    def add(self, weights: Mapping[str, Tensor], *, step: int) -> None:
        """Take in the weights after step number `step`, counted from 1."""
        keep = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in weights.items():
                average = self._average[name] = self._average[name].to(value.device)
                if average.is_floating_point():
                    average.lerp_(value.to(average.dtype), 1 - keep)
                else:
                    average.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights, by their names in the network."""
        return self._average

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """While it lasts, `model` has the averaged weights."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self._average)
        try:
            yield
        finally:
            model.load_state_dict(own)


def _wide(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))
