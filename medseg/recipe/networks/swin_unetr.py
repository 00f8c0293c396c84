"""Swin UNETR in a recipe."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.network import Mixing, NetworkSection, Patch, Spacing
from medseg.recipe.section import BelowOne, Count, Positive
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class SwinUNETRSection(NetworkSection):
    """Swin UNETR (arXiv 2201.01266)."""

    demo_settings: ClassVar[Mapping[str, Any]] = {"feature_size": 12, "window_size": 4}

    name: Literal["swin_unetr"]
    """The network's name."""
    feature_size: Annotated[int, Field(ge=1, le=768)] = 48
    """Channels at half resolution, doubled at each stage; a multiple of 12 with these heads."""
    depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    """Transformer blocks of each stage; every second one shifts its windows."""
    heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24)
    """Attention heads of each stage; they divide its channels."""
    window_size: Annotated[int, Field(ge=2, le=32)] = 7
    """Side of an attention window, in tokens."""
    mlp_ratio: Positive = 4.0
    """Width of the hidden layer of a block, in those of the block."""
    drop_rate: BelowOne = 0.0
    """Dropout after embedding, projections and hidden layers."""
    attention_drop_rate: BelowOne = 0.0
    """Dropout of attention weights."""
    drop_path_rate: BelowOne = 0.0
    """Largest chance that a block is left out; it rises from 0 with depth."""
    mixing: Mixing = "learned"
    """identity: without attention, to see what attention is worth."""
    v2: bool = False
    """A residual convolution before each stage (Swin UNETR-V2, MICCAI 2023)."""
    legacy_merging: bool = False
    """Join patches as MONAI did before 1.5: for weights from then, not for new training."""
    faithful: bool = False
    """Relative positions of cut windows as MONAI reads them; false: by true offsets."""
    gradient_checkpointing: bool = False
    """Less memory for more time: blocks are computed again on the way back."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.swin_unetr import SwinUNETR

        return SwinUNETR(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        return ShapePolicy(divisor=(32, 32, 32), minimum=(32, 32, 32), voxels=2 * 32**3)

    def contradictions(self) -> Iterator[Contradiction]:
        """Heads that do not divide the channels of their stage."""
        for stage, heads in enumerate(self.heads):
            channels = self.feature_size * 2**stage
            if channels % heads:
                yield Contradiction(
                    ("heads", str(stage)),
                    f"{heads} heads do not divide the {channels} channels of stage {stage} "
                    f"(feature_size {self.feature_size}); with heads [3, 6, 12, 24] take a "
                    "feature_size that is a multiple of 12",
                    because=(("feature_size",), ("heads",)),
                )
                return
