"""The choice of kernels, for a block and for a whole network."""

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

# Whether the fast kernels are asked, or only torch's own operations.
Kernels = Literal["fast", "reference"]


@runtime_checkable
class Choosing(Protocol):
    """A block that has the choice."""

    kernels: Kernels


def choose_kernels(model: "nn.Module", kernels: Kernels) -> None:
    """Let every block of `model` that has a choice take the fast kernels, or torch's own.

    The results are the same up to rounding; torch's own can be exported to other formats.
    """
    for module in model.modules():
        if isinstance(module, Choosing):
            module.kernels = kernels
