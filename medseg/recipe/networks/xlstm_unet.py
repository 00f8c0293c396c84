"""xLSTM-UNet in a recipe."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from medseg.models.planned_hybrid import XLSTM_FIRST
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.hybrid import HybridSection
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class XLSTMUNetSection(HybridSection):
    """xLSTM-UNet (arXiv 2407.01530)."""

    first_mixed: ClassVar[int] = XLSTM_FIRST

    name: Literal["xlstm_unet"]
    """The network's name."""
    bidirectional: bool = False
    """A Vision-LSTM block that reads backward behind each, as the paper's text has it."""

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

    def contradictions(self) -> Iterator[Contradiction]:
        """The paper's text and the authors' code, which is another network."""
        if self.faithful and self.bidirectional:
            yield Contradiction(
                ("bidirectional",),
                "the authors' code reads forward only, so faithful goes with bidirectional: false",
                because=(("faithful",),),
            )
