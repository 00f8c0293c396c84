"""What is exported: one module that takes windows and gives logits, in torch's own operations."""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.nn.kernels import choose_kernels

TOLERANCE = 1e-4


class Averaged(nn.Module):
    """The mean of several networks' logits; of one it is that one's."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, image: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b out i j k"]:
        """Logits of windows."""
        first, *others = self.models
        total = first(image)
        for model in others:
            total = total + model(image)
        return total / len(self.models) if others else total


def averaged(models: Sequence[nn.Module]) -> Averaged:
    """A copy of the mean of `models` on the CPU in float32, in evaluation mode."""
    return Averaged([copy.deepcopy(model).cpu().float() for model in models]).eval()


def plain_network(models: Sequence[nn.Module]) -> Averaged:
    """As `averaged`, but it calls no kernel of ours."""
    network = averaged(models)
    choose_kernels(network, "reference")
    return network


def refuse_other_logits(
    models: Sequence[nn.Module],
    read_back: Callable[[Tensor], Tensor],
    windows: Sequence[Tensor],
    *,
    place: str,
) -> float:
    """The largest difference of what was read back from the mean of `models` on `windows`.

    The models run as medseg predicts with them, its kernels included.

    Raises:
        InputFault: it is more than rounding (E_SELFTEST): 1e-4 and 1e-4 of the largest logit.
    """
    network = averaged(models)
    apart = 0.0
    for window in windows:
        with torch.no_grad():
            wanted = network(window)
            found = read_back(window)
        allowed = TOLERANCE * (1 + float(wanted.abs().max()))
        difference = float((wanted - found).abs().max())
        if found.shape != wanted.shape or not difference <= allowed:
            raise InputFault(
                f"{place}: read back it gives logits {difference:.2g} from the bundle's "
                f"({allowed:.2g} is rounding), so it was not kept; please report it with the "
                "versions of torch and of the format's package.",
                code="E_SELFTEST",
            )
        apart = max(apart, difference)
    return apart
