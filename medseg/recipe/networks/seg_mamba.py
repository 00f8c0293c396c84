"""SegMamba in a recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models import seg_mamba_sizes
from medseg.models.shape import ShapePolicy
from medseg.recipe.networks.network import Features, Mixing, NetworkSection, Patch, Spacing
from medseg.recipe.section import Count
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class SegMambaSection(NetworkSection):
    """SegMamba (arXiv 2401.13560)."""

    demo_settings: ClassVar[Mapping[str, Any]] = {
        "feature_size": 12,
        "depths": (1, 1, 1, 1),
        "states": 8,
        "faithful": False,
    }

    name: Literal["seg_mamba"]
    """The network's name."""
    feature_size: Features = 48
    """Channels at full and half resolution, doubled at each halving."""
    depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    """Mamba layers of each stage."""
    states: Annotated[int, Field(ge=1, le=256)] = 16
    """Numbers that a channel of a Mamba layer remembers."""
    mixing: Mixing = "learned"
    """identity: without Mamba, to see what it is worth."""
    faithful: bool = False
    """As the authors' code: 64, 32, 16 and 8 slices, whatever the size of the input."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.seg_mamba import SegMamba

        return SegMamba(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        return seg_mamba_sizes.shape_policy(faithful=self.faithful)
