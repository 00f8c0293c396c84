"""U-Mamba in a recipe."""

from typing import TYPE_CHECKING, ClassVar, Literal

from medseg.models.planned_hybrid import MAMBA_FIRST
from medseg.recipe.networks.hybrid import HybridSection
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class UMambaSection(HybridSection):
    """U-Mamba (arXiv 2401.04722)."""

    first_mixed: ClassVar[int] = MAMBA_FIRST

    name: Literal["u_mamba"]
    """The network's name."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.u_mamba import UMamba

        return UMamba(
            in_channels=task.in_channels,
            out_channels=task.out_channels,
            patch_size=task.patch_size,
            spacing_mm=task.spacing_mm,
            **self.settings(),
        )
