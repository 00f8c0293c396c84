"""Layers by the number of axes they work on: 2 for images, 3 for volumes."""

from collections.abc import Callable

from torch import nn

from medseg.nn.drop_in import Conv3d, InstanceNorm3d
from medseg.nn.hybrid_form import Dimensions

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: Conv3d}
INSTANCE_NORMS: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: InstanceNorm3d}


def batch_or_item_norm(channels: int, dimensions: Dimensions) -> nn.Module:
    """Batch norm of images, as published networks have it, and instance norm of volumes.

    A batch of volumes is too small to be normalized by.
    """
    if dimensions == 2:
        return nn.BatchNorm2d(channels)
    return InstanceNorm3d(channels, affine=True)
