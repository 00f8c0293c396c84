"""The numbers of the planned residual UNet; without torch, so that a recipe can be checked fast."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

Dimensions = Literal[2, 3]


@dataclass(frozen=True)
class HybridForm:
    """The numbers of the body, one a stage, the finest first.

    `strides[0]` is that of the first stage (1 in nnU-Net's plans); `joins_last` says whether the
    last decoder stage sees the skip connection of full resolution.
    """

    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    dimensions: Dimensions
    joins_last: bool = True

    @property
    def stages(self) -> int:
        """How many resolutions there are."""
        return len(self.features)

    @property
    def encoder_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each encoder stage: two in the finer half, one in the coarser."""
        return tuple(1 if s >= ceil(self.stages / 2) else 2 for s in range(self.stages))

    @property
    def decoder_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each decoder stage, the coarsest first: one in the finer half."""
        single = ceil((self.stages - 1) / 2 + 0.5)
        return tuple(1 if s >= single else 2 for s in range(self.stages - 1))
