"""MedNeXt in a recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medseg.models.shape import ShapePolicy
from medseg.recipe.networks.network import Features, NetworkSection, Patch, Spacing
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class MedNeXtSection(NetworkSection):
    """MedNeXt (arXiv 2303.09975), MONAI's layers."""

    demo_settings: ClassVar[Mapping[str, Any]] = {"size": "s", "base_features": 8}

    name: Literal["mednext"]
    """The network's name."""
    size: Literal["s", "b", "m", "l"] = "s"
    """The paper's sizes, from 5.6 to 62 million weights."""
    kernel_size: Literal[3, 5] = 3
    """Side of the depthwise convolutions."""
    base_features: Features = 32
    """Channels at full resolution, doubled at each halving."""
    deep_supervision: bool = True
    """In training, a loss at each resolution of the decoder."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.mednext import MedNeXt

        return MedNeXt(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        return ShapePolicy(divisor=(16, 16, 16), minimum=(16, 16, 16), voxels=2 * 16**3)
