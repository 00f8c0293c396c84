"""MedNeXt, the ConvNeXt of medical volumes, in the sizes of its paper.

Roy et al., MedNeXt (MICCAI 2023), table 1. The blocks are MONAI's, their layers take the kernels.
What differs: keyword arguments alone, and a list instead of a tuple of outputs in training with
deep supervision.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from monai.networks.nets import mednext as supplier
from torch import Tensor, nn

from medseg.models.shape import ShapePolicy
from medseg.nn.drop_in import drop_in
from medseg.nn.mednext_blocks import fuse_blocks

Size = Literal["s", "b", "m", "l"]
HALVINGS = 4
BASE_FEATURES = 32


@dataclass(frozen=True)
class Numbers:
    """Blocks and expansion ratios from the first encoder stage to the bottleneck.

    The decoder has the encoder's in reverse.
    """

    blocks: tuple[int, int, int, int, int]
    expansion: tuple[int, int, int, int, int]


def small() -> Numbers:
    """MedNeXt-S."""
    return Numbers(blocks=(2, 2, 2, 2, 2), expansion=(2, 2, 2, 2, 2))


def base() -> Numbers:
    """MedNeXt-B."""
    return Numbers(blocks=(2, 2, 2, 2, 2), expansion=(2, 3, 4, 4, 4))


def medium() -> Numbers:
    """MedNeXt-M."""
    return Numbers(blocks=(3, 4, 4, 4, 4), expansion=(2, 3, 4, 4, 4))


def large() -> Numbers:
    """MedNeXt-L."""
    return Numbers(blocks=(3, 4, 8, 8, 8), expansion=(3, 4, 8, 8, 8))


SIZES = {"s": small, "b": base, "m": medium, "l": large}


class MedNeXt(nn.Module):
    """MedNeXt of a named `size`; the paper's kernels are 3 and 5 voxels wide.

    In training with `deep_supervision` it returns logits at five resolutions, the full one first.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: Size = "s",
        kernel_size: Literal[3, 5] = 3,
        base_features: int = BASE_FEATURES,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        numbers = SIZES[size]()
        side = 2**HALVINGS
        # each channel is normalized over its voxels, so the bottleneck needs two of them
        self.shape_policy = ShapePolicy(
            divisor=(side, side, side), minimum=(side, side, side), voxels=2 * side**3
        )
        self.network = supplier.MedNeXt(
            spatial_dims=3,
            init_filters=base_features,
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_expansion_ratio=numbers.expansion[:-1],
            decoder_expansion_ratio=numbers.expansion[-2::-1],
            bottleneck_expansion_ratio=numbers.expansion[-1],
            kernel_size=kernel_size,
            deep_supervision=deep_supervision,
            use_residual_connection=True,
            blocks_down=numbers.blocks[:-1],
            blocks_bottleneck=numbers.blocks[-1],
            blocks_up=numbers.blocks[-2::-1],
        )
        drop_in(self.network)
        fuse_blocks(self.network)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits "b o i j k", or a list of them, each half the size of the one before."""
        self.shape_policy.require(tuple(x.shape[2:]), "MedNeXt")
        logits = self.network(x)
        return logits if isinstance(logits, Tensor) else list(logits)
