"""xLSTM-UNet in a recipe."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medseg.models.planned_hybrid import XLSTM_FIRST, channel_stages
from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.hybrid import HybridSection
from medseg.recipe.networks.network import Patch, Spacing
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class XLSTMUNetSection(HybridSection):
    """xLSTM-UNet (arXiv 2407.01530)."""

    demo_settings: ClassVar[Mapping[str, Any]] = {
        "base_features": 8,
        "max_features": 96,
        "faithful": False,
    }

    name: Literal["xlstm_unet"]
    """The network's name."""
    bidirectional: bool = False
    """A Vision-LSTM block that reads backward behind each, as the paper's text has it."""
    faithful: bool = False
    """As the authors' code: channels as tokens where maps are small, which fixes the patch."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.xlstm_unet import XLSTMUNet

        return XLSTMUNet(
            in_channels=task.in_channels,
            out_channels=task.out_channels,
            patch_size=task.patch_size,
            spacing_mm=task.spacing_mm,
            **self.settings(),
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:
        """The sizes of input the network takes: as often as its topology halves them."""
        plan = self.plan(patch_size, spacing_mm)
        if self.faithful and channel_stages(plan, self.variant, first=XLSTM_FIRST):
            return ShapePolicy(fixed=patch_size)
        return plan.shape_policy

    def contradictions(self) -> Iterator[Contradiction]:
        """The paper's text and the authors' code, which is another network."""
        if self.faithful and self.bidirectional:
            yield Contradiction(
                ("bidirectional",),
                "the authors' code reads forward only, so faithful goes with bidirectional: false",
                because=(("faithful",),),
            )
