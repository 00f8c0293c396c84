"""ParaTransCNN in a recipe."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.network import Mixing, NetworkSection, Patch, Spacing
from medseg.recipe.section import BelowOne, Count
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn

# Channels of the first tokens; those of later scales are multiples of them.
FEATURES = {"l": 320, "m": 128, "s": 96, "xs": 64, "tiny": 16}


class ParaTransCNNSection(NetworkSection):
    """ParaTransCNN (arXiv 2401.15307)."""

    demo_settings: ClassVar[Mapping[str, Any]] = {"size": "tiny", "heads": 4, "drop_rate": 0.0}

    name: Literal["para_trans_cnn"]
    """The network's name."""
    size: Literal["l", "m", "s", "xs", "tiny"] = "l"
    """l is what the authors train (245 million weights in 2D); tiny is for two cores."""
    heads: Count = 8
    """Attention heads of each scale; they divide its channels."""
    depths: tuple[Count, Count, Count] = (3, 3, 3)
    """Transformer layers of each scale."""
    drop_rate: BelowOne = 0.1
    """Dropout of attention weights, projections and hidden layers."""
    dimensions: Literal[2, 3] = 2
    """2 looks at one slice at a time, as published; 3 is ours."""
    slice_axis: Literal[0, 1, 2] = 2
    """With dimensions 2: the axis across which slices lie."""
    mixing: Mixing = "learned"
    """identity: without attention, to see what attention is worth."""
    faithful: bool = False
    """Gray images repeated to three channels, for the authors' weights."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.para_trans_cnn import ParaTransCNN

        return ParaTransCNN(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        if self.dimensions == 2:
            return ShapePolicy.of_slices(self.slice_axis, divisor=(16, 16))
        return ShapePolicy.of_volumes((16, 16, 16))

    def contradictions(self) -> Iterator[Contradiction]:
        """Heads that do not divide the channels."""
        if FEATURES[self.size] % self.heads:
            yield Contradiction(
                ("heads",),
                f"{self.heads} heads do not divide the {FEATURES[self.size]} channels of size "
                f"{self.size}",
                because=(("size",),),
            )
