"""The settings that U-Mamba and xLSTM-UNet share: nnU-Net plans their bodies."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models.planned_hybrid import HybridPlan, plan_hybrid, sizes_taken
from medseg.models.shape import ShapePolicy
from medseg.recipe.networks.network import Features, Mixing, NetworkSection, Patch, Spacing


class HybridSection(NetworkSection):
    """A planned residual UNet with layers that look far."""

    demo_settings: ClassVar[Mapping[str, Any]] = {
        "base_features": 8,
        "max_features": 96,
        "faithful": False,
    }
    first_mixed: ClassVar[int]
    """The first stage of the encoder variant that has such a layer."""

    variant: Literal["encoder", "bottleneck"] = "encoder"
    """Where those layers stand: in the encoder, or on the deepest map alone."""
    dimensions: Literal[2, 3] = 3
    """3 for volumes; 2 looks at one slice at a time."""
    slice_axis: Literal[0, 1, 2] = 2
    """With dimensions 2: the axis across which slices lie."""
    stages: Annotated[int, Field(ge=2, le=16)] | None = None
    """Most resolutions; null: as many as nnU-Net's rule takes from patch and spacing."""
    base_features: Features = 32
    """Channels at full resolution, doubled at each halving."""
    max_features: Features = 320
    """Most channels of a stage."""
    mixing: Mixing = "learned"
    """identity: without those layers, to see what they are worth."""
    faithful: bool = False
    """As the authors' code: channels as tokens where maps are small, which fixes the patch."""
    deep_supervision: bool = True
    """In training, a loss at each resolution of the decoder."""

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:
        """The sizes of input the network takes: as often as its topology halves them."""
        return sizes_taken(
            self.plan(patch_size, spacing_mm),
            patch_size,
            self.variant,
            first=self.first_mixed,
            faithful=self.faithful,
        )

    def plan(self, patch_size: Patch, spacing_mm: Spacing) -> HybridPlan:
        """The network's form for a patch."""
        return plan_hybrid(
            patch_size=patch_size,
            spacing_mm=spacing_mm,
            dimensions=self.dimensions,
            slice_axis=self.slice_axis,
            stages=self.stages,
            base_features=self.base_features,
            max_features=self.max_features,
        )
