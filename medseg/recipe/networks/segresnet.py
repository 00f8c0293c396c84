"""SegResNet in a recipe."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.network import Blocks, NetworkSection, Patch, Spacing
from medseg.recipe.section import BelowOne, Count
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class SegResNetSection(NetworkSection):
    """SegResNet (arXiv 1810.11654), MONAI's layers."""

    demo_settings: ClassVar[Mapping[str, Any]] = {"base_features": 8}

    name: Literal["segresnet"]
    """The network's name."""
    base_features: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 16
    """Channels at full resolution, doubled at each halving; groups of 8 are normalized."""
    blocks_down: Blocks = (1, 2, 2, 4)
    """Residual blocks of each encoder stage."""
    blocks_up: Annotated[tuple[Count, ...], Field(min_length=1, max_length=7)] = (1, 1, 1)
    """Residual blocks of each decoder stage, one stage less than the encoder has."""
    dropout_rate: BelowOne = 0.0
    """Dropout after the first convolution."""
    deep_supervision: bool = False
    """In training, a loss at each resolution of the decoder."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.segresnet import SegResNet

        return SegResNet(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        side = 2 ** len(self.blocks_up)
        return ShapePolicy(divisor=(side,) * 3, minimum=(side,) * 3)

    def contradictions(self) -> Iterator[Contradiction]:
        """Encoder and decoder that do not meet."""
        down, up = len(self.blocks_down), len(self.blocks_up)
        if down != up + 1:
            yield Contradiction(
                ("blocks_down",),
                f"it has {down} stages and blocks_up has {up}; the encoder has one stage more than "
                "the decoder",
                because=(("blocks_up",),),
            )
