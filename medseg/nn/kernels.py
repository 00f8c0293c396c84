"""The choice of kernels for a whole network."""

from torch import nn

from medseg.nn.group_attention import GroupAttention
from medseg.nn.residual import ResidualBlock
from medseg.nn.window_attention import Kernels, WindowAttention


def choose_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Let every block of `model` that has a choice take the fast kernels, or torch's own.

    The results are the same up to rounding; torch's own can be exported to other formats.
    """
    for module in model.modules():
        if isinstance(module, (GroupAttention, ResidualBlock, WindowAttention)):
            module.kernels = kernels
