"""TransDAE in a recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models.shape import ShapePolicy
from medseg.recipe.networks.network import Mixing, NetworkSection, Patch, Spacing
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn

Side = Annotated[int, Field(ge=1, le=16)]


class TransDAESection(NetworkSection):
    """TransDAE (arXiv 2409.02018), a reconstruction."""

    demo_settings: ClassVar[Mapping[str, Any]] = {"size": "tiny", "token_size": (2, 2, 2)}

    name: Literal["trans_dae"]
    """The network's name."""
    size: Literal["s", "b", "tiny"] = "b"
    """17 and 30 million weights in 3D; tiny is for two cores."""
    token_size: tuple[Side, Side, Side] = (4, 4, 4)
    """Voxels of a first token along i, j, k."""
    spatial: Literal["reduced", "efficient"] = "reduced"
    """Attention in space: to a coarser grid, or of linear cost (DAE-Former's)."""
    channel: Literal["efficient", "transposed"] = "efficient"
    """Attention across channels: of linear cost, or between channels (DAE-Former's)."""
    dimensions: Literal[2, 3] = 2
    """2 looks at one slice at a time, as published; 3 is ours."""
    slice_axis: Literal[0, 1, 2] = 2
    """With dimensions 2: the axis across which slices lie."""
    mixing: Mixing = "learned"
    """identity: without attention, to see what attention is worth."""
    deep_supervision: bool = True
    """In training, a loss at the resolutions of the first two stages too."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.trans_dae import TransDAE

        return TransDAE(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes: multiples of eight tokens."""
        i, j, k = (8 * side for side in self.token_size)
        if self.dimensions == 3:
            return ShapePolicy.of_volumes((i, j, k))
        first, second = (side for axis, side in enumerate((i, j, k)) if axis != self.slice_axis)
        return ShapePolicy.of_slices(self.slice_axis, divisor=(first, second))
